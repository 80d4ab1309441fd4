"""The command line: one line per mistake, YAML and flags together."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet import cli
from affectnet.config import EvaluateConfig, TrainConfig
from affectnet.errors import ConfigError
from affectnet.version import __version__


def affectnet(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "affectnet", *args], capture_output=True, text=True, check=False
    )


def test_version_and_overview() -> None:
    assert affectnet("--version").stdout == f"affectnet {__version__}\n"
    overview = affectnet("--help")
    assert overview.returncode == 0
    assert all(f"  {name}" in overview.stdout for name in cli.COMMANDS)
    assert max(map(len, overview.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "--dta", "D"], "did you mean '--data'?"),
        (["train", "--data", "D", "--lr", "four"], "--lr: could not convert string to float"),
        (["train", "--data", "D", "--ema", "much"], "--ema is 'much', allowed are FLOAT and None"),
        (["train", "--data", "D", "--freeze", "most"], "('backbone', 'none')"),
        (["train", "--data", "D", "--config", "none.yaml"], "there is no such file"),
        (["train", "--data", "D", "--config"], "--config needs a file"),
        (["ingest", "a.tar"], "missing: --out"),
        (["train"], "--data"),
        (["ingest", "no-such.tar", "--out", "D"], "no-such.tar"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = affectnet(*args)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"]])
def test_a_closed_pipe_is_not_an_error(args: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "affectnet", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate()[1] == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "did you mean 'epochs'?"),
        ("epochs: many", "--epochs"),
        ("epochs: [1, 2", "not a YAML file"),
        ("- epochs", "expected lines of `setting: value`"),
        ("augment: {hflip: 1}", "not a mapping"),
    ],
)
def test_a_mistake_in_yaml_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace("[", r"\[")):
        cli.parse("train", ["--data", "D", "--config", str(file)])


def test_positional_settings_stay_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("runs: [a, b]")
    with pytest.raises(ConfigError, match="belongs on the command line"):
        cli.parse("evaluate", ["--config", str(file)])
    assert cli.parse("evaluate", ["a", "b"]) == EvaluateConfig(runs=(Path("a"), Path("b")))


def test_the_command_line_takes_precedence_in_any_position(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: [A, B]\nepochs: 3\npretrained: false\nlr: 0.01\nname: null\n")
    before = cli.parse("train", ["--epochs", "7", "--pretrained", "--config", str(file)])
    after = cli.parse("train", ["--config", str(file), "--epochs", "7", "--pretrained"])
    assert before == after
    assert before.epochs == 7
    assert before.pretrained is True
    assert before.lr == 0.01
    assert before.data == (Path("A"), Path("B"))
    assert before.name is None
    replaced = cli.parse("train", ["--config", str(file), "--data", "C"])
    assert replaced.data == (Path("C"),)
    assert replaced.pretrained is False


@settings(deadline=None)
@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(1e-9, 10, allow_nan=False),
    pretrained=st.booleans(),
    freeze=st.sampled_from(["backbone", "none"]),
    clip=st.none() | st.floats(0.1, 10),
    name=st.text("abcXYZ-_.0123456789", min_size=1).filter(lambda s: not s.startswith("-")),
)
def test_a_config_survives_yaml(tmp_path_factory, epochs, lr, pretrained, freeze, clip, name):
    wanted = TrainConfig(
        data=(Path("a b"), Path("ü")),
        epochs=epochs,
        lr=lr,
        pretrained=pretrained,
        freeze=freeze,
        clip_norm=clip,
        name=name,
    )
    values = {
        key: [str(path) for path in value] if key == "data" else value
        for key, value in dataclasses.asdict(wanted).items()
    }
    values["runs"] = str(values["runs"])
    file = tmp_path_factory.mktemp("yaml") / "run.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert cli.parse("train", ["--config", str(file)]) == wanted


STOPPED = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "stopped by SIGTERM")}


@pytest.mark.parametrize("number", STOPPED)
def test_a_signal_while_the_command_starts_is_one_line(number: int, tmp_path: Path) -> None:
    """Here in the import of tyro, before the arguments are read."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tyro':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    places = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "affectnet", "train"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": places},
    )
    status, message = STOPPED[number]
    assert done.returncode == status, done.stderr
    assert done.stderr == f"affectnet: error: {message}; nothing that was finished is lost\n"


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_told_otherwise(given: str | None) -> None:
    code = (
        "import os, sys; sys.argv = ['affectnet', '--version']\n"
        "from affectnet.__main__ import run\n"
        "try: run()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env | ({"OMP_WAIT_POLICY": given} if given else {}),
    )
    assert done.stdout.splitlines()[-1] == (given or "PASSIVE")


@pytest.mark.parametrize("number", STOPPED)
def test_a_signal_in_any_command_is_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("affectnet.commands.recipes.recipes", work)
    status, message = STOPPED[number]
    assert cli.main(["recipes"]) == status
    expected = f"affectnet recipes: error: {message}; nothing that was finished is lost\n"
    assert capsys.readouterr().err == expected


def test_names_of_files_cannot_control_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj.exe"
    (tmp_path / f"{evil}.jpg").write_bytes(b"no image")
    for args in (["predict", str(tmp_path)], ["predict", f"{evil}.png"], [evil]):
        result = affectnet(*args)
        assert result.returncode in (1, 2)
        output = result.stdout + result.stderr
        assert "Traceback" not in output
        assert r"\x1b" in output
        assert not set(output) & set("\x1b\x07\x9b\u202e")


def test_colours_and_progress_bars_stay() -> None:
    written = io.StringIO()
    screen = cli.Screen(written)
    plain = "\x1b[1;31mred\x1b[0m\r\x1b[A\x1b[2K\x1b[?25l50%\tä\n"
    assert screen.write(plain) == len(plain)
    assert written.getvalue() == plain
    screen.write("\x1b[3J\x1b]0;x\x07")
    assert written.getvalue() == plain + r"\x1b[3J\x1b]0;x\x07"


def test_an_error_that_repeats_a_file_is_cut_to_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.csv"
    file.write_text(f"id,expression,valence_pred\na,0,{'x' * 10**5}\n")
    assert cli.main(["evaluate", "--predictions", str(file)]) == 2
    error = capsys.readouterr().err
    assert "column 'valence_pred' must hold numbers" in error
    assert len(error) < 5000
