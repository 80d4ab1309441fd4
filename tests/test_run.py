"""The run folder's paths, and atomic writing."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from affectnet.errors import RunError
from affectnet.run import (
    RunFolder,
    changed_settings,
    plain_settings,
    refuse_existing,
    write_beside,
)


def test_names(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "first")
    assert run.name == "first"
    assert run.last == tmp_path / "first/checkpoints/last.ckpt"
    assert run.evaluation("test") == tmp_path / "first/evaluation/test"
    assert not run.used()
    run.path.mkdir()
    assert not run.used()
    run.config.write_text("epochs: 1")
    assert run.used()


def test_a_file_is_replaced_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with write_beside(path) as new:
        new.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_beside(path) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with write_beside(path) as new:
        new.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for word in ("old", "new"):
        with write_beside(path) as new:
            new.mkdir()
            (new / word).touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    with pytest.raises(OSError, match="full"), write_beside(path) as new:
        new.mkdir()
        raise OSError("full")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_was_not_created_deletes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileNotFoundError), write_beside(path):
        pass
    assert (path / "old").exists()


def test_existing_output_is_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new.html", overwrite=False)
    with pytest.raises(RunError, match="--overwrite"):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)


@dataclass(frozen=True)
class Config:
    data: tuple[Path, ...]
    lr: float = 1e-3
    ema: float | None = None


def test_settings_are_plain_and_their_changes_are_described() -> None:
    now = plain_settings(Config((Path("a"), Path("b"))))
    assert now == {"data": ["a", "b"], "lr": 0.001, "ema": None}
    assert changed_settings(Config, {"data": ["a"]}, now, {"data"}) == ""
    before = {"data": ["a"], "lr": 0.1, "ema": 0.9}
    assert changed_settings(Config, before, now, {"data"}) == (
        "lr (was 0.1, now 0.001), ema (was 0.9, now None)"
    )
