"""The script that measures a GPU runs completely, on the CPU and with tiny networks."""

import sys
from pathlib import Path

import gpu
import pytest
import torch
from training import ahead, loading, repeated_faces

from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import open_split
from affectnet.models.backbones import BASELINES


@pytest.mark.slow
def test_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--out", str(out)])
    assert gpu.main() == 0
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    assert sum("epoch of CVNet's recipe" in row for row in rows) == 1
    assert sum("overhead" in row for row in rows) == 3
    assert sum("fsdp" in row for row in rows) == 1
    assert sum(any(f"| {name} at" in row for name in BASELINES) for row in rows) == len(BASELINES)
    assert "CPU, dry run" in capsys.readouterr().out


def test_it_stops_when_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forever(*_: object):
        while True:
            yield gpu.Row("endless", "1")

    monkeypatch.setattr(gpu, "cvnet_epochs", forever)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--minutes", "0.001"])
    assert gpu.main() == 0
    assert "not run: 0.001 minutes are over" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_asks_for_dry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--dry" in capsys.readouterr().err


def test_faces_are_repeated_until_there_are_enough(tmp_path: Path) -> None:
    """So many that worker processes load them, which a benchmark of the loader must have."""
    data = AffectDataModule(repeated_faces(tmp_path, 2100, 32), 100, 32, cache="none")
    assert len(set(open_split(tmp_path, "train").ids)) == 2100
    assert data.workers_for(2100) >= 1
    assert ahead(data) == 2 * data.workers_for(2100)
    assert loading(data, 15) > 0
