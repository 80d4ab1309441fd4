"""The run folder's paths, atomic writing, one writer at a time, and what killed processes leave."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from affectnet.errors import RunError
from affectnet.run import (
    RunFolder,
    changed_settings,
    exchange,
    locked,
    plain_settings,
    refuse_existing,
    remove_leftovers,
    scratch_folder,
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


@pytest.fixture(params=["in one step", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Linux exchanges in one step; without its function the steps are tested that others take."""
    if request.param == "step by step":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges two paths in one step")
    return request.param


@pytest.mark.usefixtures("way")
def test_two_paths_are_exchanged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").touch()
    (tmp_path / "b").write_text("b")
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "b"
    assert (tmp_path / "b" / "inside").is_file()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("way")
def test_what_came_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for folder in (True, False):
        with (
            pytest.raises(RunError, match="created by someone else"),
            write_beside(path, overwrite=False) as new,
        ):
            new.mkdir() if folder else new.write_text("new")
            path.mkdir() if folder else path.write_text("theirs")
            if folder:
                (path / "notes.txt").write_text("theirs")
        assert (path / "notes.txt" if folder else path).read_text() == "theirs"
        if folder:
            (path / "notes.txt").unlink()
            path.rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.usefixtures("way")
def test_a_folder_that_fails_its_check_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()

    def check(old: Path) -> None:
        if (old / "notes.txt").exists():
            raise RunError("notes.txt")

    for refused in (True, False):
        if refused:
            with pytest.raises(RunError), write_beside(path, check=check) as new:
                new.mkdir()
                (path / "notes.txt").touch()
            assert [p.name for p in path.iterdir()] == ["notes.txt"]
            (path / "notes.txt").unlink()
        else:
            with write_beside(path, check=check) as new:
                new.mkdir()
                (new / "complete").touch()
    assert [p.name for p in path.iterdir()] == ["complete"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(RunError, match="is a folder"), write_beside(tmp_path / "x") as new:
        new.write_text("new")
    assert (tmp_path / "x").is_dir()


HOLD = """
import sys, time
from pathlib import Path
from affectnet.run import locked, scratch_folder, write_beside
path = Path(sys.argv[1])
with locked(path), write_beside(path) as new:
    new.mkdir()
    with write_beside(path / "inside") as half:
        half.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
"""


@contextmanager
def writer_of(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is writing `path`; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def test_one_process_at_a_time_and_nothing_stays_of_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").touch()
    with writer_of(path) as process:
        with pytest.raises(RunError, match=f"process {process.pid} on .* is writing"), locked(path):
            pass
        remove_leftovers(tmp_path, deep=True)
        assert len(list(tmp_path.iterdir())) == 3
        assert len(list(path.iterdir())) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with locked(path):
        assert [p.name for p in path.iterdir()] == ["old"]
        assert {p.name for p in tmp_path.iterdir()} == {"data", ".data.lock"}
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_kill_while_the_old_one_is_removed_leaves_nothing_for_ever(tmp_path: Path) -> None:
    code = """
import os, shutil, signal, sys
from pathlib import Path
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
from affectnet.run import write_beside
with write_beside(Path(sys.argv[1]) / "data") as new:
    new.mkdir()
"""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert list((tmp_path / "data").iterdir()) == []


def test_only_own_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".mine.backup01.tmp").mkdir()
    (tmp_path / ".mine.backup01.tmp" / "thesis.txt").touch()
    (tmp_path / ".empty.abcdefgh.tmp").mkdir()
    with scratch_folder(tmp_path, ".alive.", ".tmp") as alive:
        remove_leftovers(tmp_path)
        assert alive.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == [".mine.backup01.tmp"]


def test_a_kill_between_the_steps_of_an_exchange_loses_nothing(tmp_path: Path) -> None:
    code = """
import ctypes, os, signal, sys
from pathlib import Path
ctypes.CDLL = lambda *_, **__: object()
rename = Path.rename
def killed(self, target):
    if self.name == "data" and self.parent.name.endswith(".tmp"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
from affectnet.run import write_beside
with write_beside(Path(sys.argv[1]) / "data") as new:
    new.mkdir()
"""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "old").is_file()


def interrupt_at_line(number: int):
    """A trace function that sends Ctrl-C at the `number`-th line that runs in run.py."""
    left = iter(range(number))

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith("run.py"):
            return None
        if event == "line" and next(left, None) is None:
            sys.settrace(None)
            os.kill(os.getpid(), signal.SIGINT)
        return trace

    return trace


@pytest.mark.usefixtures("way")
def test_ctrl_c_at_any_line_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "data"
    seen = set()
    for number in range(1000):
        with write_beside(path) as new:
            new.mkdir()
            (new / "old").touch()
        interrupted = False
        tracing = sys.gettrace()
        try:
            sys.settrace(interrupt_at_line(number))
            with write_beside(path) as new:
                new.mkdir()
                (new / "new").touch()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(tracing)
        if len(list(tmp_path.iterdir())) > 1:
            gc.collect(1)  # as when the process ends: the locks are released
        remove_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["data"]
        seen |= {p.name for p in path.iterdir()}
        if not interrupted:
            break
    assert number > 30
    assert seen == {"old", "new"}


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
