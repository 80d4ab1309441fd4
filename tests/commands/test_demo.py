"""`affectnet demo`: every step, offline; it replaces an earlier demo only with --overwrite."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from affectnet.cli import parse
from affectnet.commands import demo as module
from affectnet.commands.demo import demo
from affectnet.config import DemoConfig
from affectnet.errors import RunError


def test_the_demo_runs_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "TRAIN_PER_CLASS", 10)
    monkeypatch.setattr(module, "TEST_PER_CLASS", 4)
    once = {name: (1, weights) for name, (_, weights) in module.RUNS.items()}
    monkeypatch.setattr(module, "RUNS", once)
    out = tmp_path / "demo"
    demo(DemoConfig(out=out))
    output = capsys.readouterr().out
    assert str((out / "report.html").resolve()) in output.replace("\n", "")
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ("scratch", "finetuned"):
        assert name in page
        scores = json.loads((out / f"runs/{name}/evaluation/test/metrics.json").read_text())
        assert scores["n"] == 32
    assert page.count('class="figure"') > 5
    # Each step is shown as a command that can be repeated.
    shown = [line[3:].split() for line in output.splitlines() if line.startswith("== affectnet ")]
    configs = [parse(name, args) for _, name, *args in shown]
    assert [type(config).__name__.removesuffix("Config") for config in configs] == [
        *("Predict", "Ingest", "Train", "Train", "Evaluate", "Evaluate", "Report")
    ]
    assert configs[3].weights == Path("cvnet")
    assert {name: getattr(configs[3], name) for name in module.SETTINGS} == module.SETTINGS
    # The shipped model, on a photo and on drawn faces.
    assert "astronaut.jpg" in output
    assert output.index("astronaut.jpg") < output.index("affectnet ingest")  # the first result
    assert len(list((out / "marked").glob("*.jpg"))) == 9
    with pytest.raises(RunError, match="--overwrite"):
        demo(DemoConfig(out=out))
    assert {path.name for path in out.iterdir()} == module.CONTENT


@pytest.mark.parametrize("way", ["error", "kill"])
def test_an_older_demo_stays_until_the_new_one_is_complete(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed = tmp_path / "demo", tmp_path / "killed"

    def fail(*_: object, **__: object) -> None:
        (out / "dataset").mkdir(parents=True)
        (out / "report.html").write_text("new")
        if way == "kill":  # what a killed process leaves
            shutil.copytree(tmp_path, killed)
        raise KeyboardInterrupt

    (out / "runs").mkdir(parents=True)
    (out / "report.html").write_text("old")
    monkeypatch.setattr(module, "write_affectnet_tars", fail)
    with pytest.raises(KeyboardInterrupt):
        demo(DemoConfig(out=out, overwrite=True))
    if way == "kill":
        out = killed / "demo"
        assert (out / "report.html").read_text() == "new"
        with pytest.raises(RunError, match="already exists"):  # the next start
            demo(DemoConfig(out=out))
    assert (out / "report.html").read_text() == "old"
    assert not (out / "dataset").exists()
    assert [path.name for path in out.parent.iterdir() if path != killed] == ["demo"]


def test_a_folder_with_other_files_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "demo")
    with pytest.raises(RunError, match="this is the working folder"):
        demo(DemoConfig(out=Path(), overwrite=True))
    (tmp_path / "demo" / "thesis.txt").touch()
    with pytest.raises(RunError, match=r"it has thesis\.txt; choose another"):
        demo(DemoConfig(out=tmp_path / "demo", overwrite=True))
    assert (tmp_path / "demo" / "thesis.txt").exists()


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "affectnet", "demo", "--out", str(tmp_path / "demo")],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    scratch, finetuned = (
        json.loads((tmp_path / f"demo/runs/{name}/evaluation/test/metrics.json").read_text())
        for name in ("scratch", "finetuned")
    )
    assert scratch["expression"]["accuracy"]["value"] > 0.5
    assert scratch["valence"]["ccc"]["value"] > 0.5
    # Transfer learning: from weights that know real faces, in less than half of the epochs.
    assert finetuned["expression"]["accuracy"]["value"] > 0.9
