"""Outputs: the names of all files of a run; one writer at a time; old or new, always complete."""

import ctypes
import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from affectnet.errors import RunError, hold_signals

MEMORY: Final = Path("/dev/shm")
"""Where Linux has a file system in memory."""
_TEMPORARY: Final = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")
_LOCK: Final = "~lock"
_OLD: Final = "~old"
_NOREPLACE, _EXCHANGE = 1, 2  # flags of Linux's renameat2
_UNSUPPORTED: Final = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside `runs/NAME/`. Reading a path creates nothing."""

    path: Path

    def __post_init__(self) -> None:
        """Accept a text as the path."""
        object.__setattr__(self, "path", Path(self.path))

    @property
    def name(self) -> str:
        """The run's name, which is the folder's."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """`config.yaml`: `affectnet train --config` on it repeats the run."""
        return self.path / "config.yaml"

    @property
    def datasets(self) -> Path:
        """`datasets.json`: paths and content hashes of the datasets that it is trained on."""
        return self.path / "datasets.json"

    @property
    def faces(self) -> Path:
        """`faces.json`: how many faces of each split and expression the training uses."""
        return self.path / "faces.json"

    @property
    def metrics(self) -> Path:
        """`metrics.csv`: one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The state after the last finished epoch, from which `--resume` continues."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The state after the best epoch by the monitored validation metric."""
        return self.checkpoints / "best.ckpt"

    @property
    def start(self) -> Path:
        """The model before its first epoch; removed when training is complete."""
        return self.checkpoints / "start"

    @property
    def model(self) -> Path:
        """`model.safetensors` and `config.json` of the best epoch."""
        return self.path / "model"

    def evaluation(self, split: str) -> Path:
        """`predictions.parquet`, `metrics.json` and figures of one split."""
        return self.path / "evaluation" / split

    def used(self) -> bool:
        """Whether the folder exists and is not empty."""
        return self.path.is_dir() and any(self.path.iterdir())


def refuse_existing(path: Path | str, overwrite: bool, otherwise: str = "") -> None:
    """Raise `RunError` if `path` exists and `overwrite` is false; `otherwise` adds an advice."""
    if Path(path).exists() and not overwrite:
        raise RunError(
            f"{path} already exists; choose another --out, or add --overwrite{otherwise}"
        )


def plain_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a config as YAML and JSON hold them: lists, and paths as text."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return settings


def changed_settings(
    kind: type, before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]
) -> str:
    """Describe how settings of the config `kind` differ, except those `ignored`.

    A setting that is missing in `before`, because it is newer, had its default.
    """
    return ", ".join(
        f"{name} (was {was}, now {value})"
        for name, value in now.items()
        if name not in ignored and (was := before.get(name, getattr(kind, name, None))) != value
    )


def folder_name(backbone: str) -> str:
    """A backbone's name as the name of a run folder: hub and timm names may contain `/` and `:`."""
    return backbone.replace("/", "_").replace(":", "_")


@contextmanager
def write_beside(
    path: Path | str, overwrite: bool = True, check: Callable[[Path], object] | None = None
) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` on success and is removed on failure.

    The caller creates a file or a folder at the yielded path, which has the name of `path`. What
    is at `path` stays whole until the new one is complete: neither a full disk nor a signal, not
    even SIGKILL, destroys it.

    Args:
        path: of the output.
        overwrite: whether it may replace something; looked at when the new one is complete.
        check: called with what is replaced, the moment that it is; if it raises, it is put back.

    Raises `RunError` if something is at `path` that must not be replaced; a file never replaces a
    folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, f".{path.name}.", ".tmp") as temporary:
        new = temporary / path.name
        yield new
        with hold_signals():
            _take_place(new, path, overwrite, check)


def _take_place(
    new: Path, path: Path, overwrite: bool, check: Callable[[Path], object] | None
) -> None:
    if path.is_dir() and new.is_file():
        raise RunError(f"{path} is a folder, and a file is to be written; choose another name")
    if overwrite and path.is_dir():
        exchange(new, path)
        if check is not None:
            try:
                check(new)
            except BaseException:
                exchange(new, path)
                raise
    elif overwrite:
        new.replace(path)
    else:
        try:
            if not _renameat2(new, path, _NOREPLACE):
                if path.exists():
                    raise FileExistsError
                new.rename(path)
        except FileExistsError:
            raise RunError(
                f"{path} was created by someone else in the meantime, and is not replaced; move "
                "it away, or choose another name"
            ) from None


def later_place(path: Path) -> Path:
    """Where `replaced_later` writes what is to replace `path`."""
    return path.with_name(f".{path.name}.replaced.tmp") / path.name


@contextmanager
def replaced_later(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that puts the folder `later_place(path)` in place of `path`.

    Until it is called, what is at `path` stays as it is, and an error or a kill leaves it there.
    Afterwards `later_place(path)` leads to `path`, so that writers go on. The caller holds the lock
    of `path`.
    """
    new = later_place(path)
    folder, link = new.parent, new.with_name("~link")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder / _LOCK)

    def replace() -> None:
        if new.is_symlink():
            return
        old = new.with_name("~replaced")
        link.symlink_to(Path("..") / path.name, target_is_directory=True)
        with hold_signals():
            if path.exists():
                exchange(new, path)
                new.rename(old)
            else:
                new.rename(path)
            link.replace(new)
        shutil.rmtree(old, ignore_errors=True)

    try:
        yield replace
    finally:
        with hold_signals():
            if lock is not None:
                _release(lock)
            shutil.rmtree(folder, ignore_errors=True)


def exchange(new: Path, path: Path) -> None:
    """Exchange what is at two paths of one file system.

    Linux does it in one step. Elsewhere what was at `path` is at `~old` beside `new` for a moment;
    `remove_leftovers` brings it back if the process is killed then.
    """
    if _renameat2(new, path, _EXCHANGE):
        return
    old = new.with_name(_OLD)
    with hold_signals():
        path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise
        old.rename(new)


def _renameat2(new: Path, path: Path, flag: int) -> bool:
    """Call Linux's renameat2; return False where the system or the file system lacks it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here = -100  # AT_FDCWD: relative paths start at the working directory
    if call(here, os.fsencode(new), here, os.fsencode(path), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(path))


@contextmanager
def locked(path: Path, wait: float = 0.0, inherit: bool = False) -> Iterator[None]:
    """Be the only process that writes `path`; remove what killed processes left in and beside it.

    The lock is the file `.NAME.lock` beside `path`. The operating system releases it with the
    process, however that ends, also on a shared disk of a cluster.

    Args:
        path: an output file or folder.
        wait: seconds to wait for another process, which may be ending.
        inherit: whether child processes that outlive this one keep the lock.

    Raises `RunError` that names the other process, if there is one.
    """
    real = path.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    file = real.with_name(f".{real.name}.lock")
    lock = _acquire(file, wait, inherit)
    if lock is None:
        holder = ""
        with suppress(OSError):
            holder = file.read_text(encoding="utf-8").strip()
        raise RunError(
            f"another process ({holder or 'unknown'}) is writing {path}; wait until it ends, or "
            "choose another output"
        )
    try:
        for folder in {path.parent.resolve(), real.parent}:
            remove_leftovers(folder)
        remove_leftovers(real, deep=True)
        yield
    finally:
        with hold_signals():
            _release(lock)


@contextmanager
def scratch_folder(parent: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """Yield a new temporary folder in `parent`; it is locked, and removed afterwards."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        # Another process may have removed the folder before it was locked.
        with suppress(FileNotFoundError):
            if (lock := _acquire(folder / _LOCK)) is not None:
                break
    try:
        yield folder
    finally:
        with hold_signals():
            _remove(folder, lock)


@contextmanager
def temporary_folder(name: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder `affectnet-NAME-*` for temporary files; those of killed processes go first.

    It is in the system's temporary folder unless `parent` is given.
    """
    system = Path(tempfile.gettempdir())
    for place in {system, MEMORY, parent or system}:
        remove_leftovers(place, name=re.compile(rf"affectnet-{name}-[a-z0-9_]{{8}}"))
    with scratch_folder(parent or system, f"affectnet-{name}-") as folder:
        yield folder


def remove_leftovers(
    folder: Path, deep: bool = False, name: "re.Pattern[str]" = _TEMPORARY
) -> None:
    """Remove the temporary folders in `folder` whose process was killed.

    Args:
        folder: where to look; may be missing.
        deep: whether to look into the folders in it, too.
        name: of the temporary folders, all of it; those of `write_beside` by default.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in entries:
        left, match = Path(entry.path), name.fullmatch(entry.name)
        if match is None:
            if deep:
                remove_leftovers(left, deep, name)
            continue
        try:
            inside = os.listdir(left)  # noqa: PTH208 (names)
            lock = _acquire(left / _LOCK) if _LOCK in inside else None
            if lock is not None:
                if _OLD in inside and not (folder / match[1]).exists():
                    (left / _OLD).rename(folder / match[1])
                _remove(left, lock)
            elif not inside:
                left.rmdir()
        except OSError:  # of another user, or just removed by its own process
            continue


def _acquire(file: Path, wait: float = 0.0, inherit: bool = False) -> BaseFileLock | None:
    """Lock a file and write into it who holds it; return None if another process does."""

    def sign(descriptor: int) -> None:
        os.set_inheritable(descriptor, inherit)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # the disk is full
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    lock: BaseFileLock = FileLock(file, on_acquired=sign)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.ENOLCK}:
            raise
        # Some cluster disks have no such locks. This one knows its process by number and machine.
        lock = SoftFileLock(file)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            return None
    return lock


def _remove(folder: Path, lock: BaseFileLock) -> None:
    """Remove a temporary folder, its lock last: without it nobody could tell what it is."""
    empty = False
    with suppress(OSError):  # a file is still open, or somebody has removed the folder
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink()
        empty = [entry.name for entry in folder.iterdir()] == [_LOCK]
    if empty:
        _release(lock)
        with suppress(OSError):  # another process removes it
            folder.rmdir()
    else:
        lock.release()


def _release(lock: BaseFileLock) -> None:
    """Remove a lock's file, then release it; who waits for it sees that the file is gone."""
    with suppress(OSError):  # Windows keeps open files
        Path(lock.lock_file).unlink()
    lock.release()
