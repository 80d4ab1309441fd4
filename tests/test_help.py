"""`affectnet COMMAND --help`: every setting in a group, readable in 80 columns, without torch."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from affectnet.cli import COMMANDS, main, parse
from affectnet.help import command_help, is_positional, summary


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_setting_and_fits(
    name: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = command_help(name, COMMANDS[name])
    assert max(map(len, text.splitlines())) <= int(columns)
    assert summary(COMMANDS[name]) in text
    for field in dataclasses.fields(COMMANDS[name]):
        if not is_positional(field):
            flag = "--" + field.name.replace("_", "-")
            assert re.search(rf"^  {flag}\b", text, re.MULTILINE), flag
    assert "None" not in " ".join(text.split()).replace("None turns clipping off", "")


def test_help_has_groups_placeholders_defaults_and_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["train", "--epochs", "3", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: affectnet train --data DIR [options] Train a model")
    groups = ("Data", "Model", "Run", "Optimisation", "Freezing", "Losses", "Augmentation")
    places = [
        text.index(f" {group}: --") for group in (*groups, "Devices", "Configuration and help")
    ]
    assert places == sorted(places)
    assert "--lr FLOAT Peak learning rate. Default: 0.001." in text
    assert "--weights PATH Start from this file or folder" in text
    assert "--freeze {backbone,none} backbone: train only" in text
    assert "--monitor MONITOR Validation metric" in text
    assert "Choices: val_accuracy, val_balanced_accuracy," in text
    assert "--pretrained, --no-pretrained Start the backbone from pretrained" in text
    assert "(0.1 is 10%)" in text
    assert "Examples: affectnet train --data" in text
    assert main(["evaluate", "-h"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: affectnet evaluate [RUN [RUN ...]] [options]")
    assert "--slices COLUMN [COLUMN ...]" in text
    assert "--columns COLUMN=NAME Name of a column" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_once_that_a_flag_is_repeatable(name: str) -> None:
    for option in re.split(r"\n  (?=--)", command_help(name, COMMANDS[name])):
        assert option.lower().count("repeatable") <= 1, option


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_are_accepted(name: str) -> None:
    examples = (COMMANDS[name].__doc__ or "").splitlines()[2:]
    commands = [line.split() for line in examples if line.strip()]
    assert commands
    for program, command, *args in commands:
        assert (program, command) == ("affectnet", name)
        # What a resumed run or a YAML file would set, since neither exists here.
        if "--resume" in args or "--config" in args:
            args = [arg for arg in args if arg != "--config" and Path(arg).suffix != ".yaml"]
            args += ["--data", "D"]
        assert isinstance(parse(name, args), COMMANDS[name])


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from affectnet import cli; cli.main(['train', '--help']);"
        "heavy = {'torch', 'lightning', 'timm', 'pyarrow', 'sklearn', 'pandas'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
