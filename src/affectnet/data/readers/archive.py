"""Where the files of a release are: a tar archive or an unpacked folder, read in one pass.

Also the search for the files and folders of a release below a folder.
"""

import errno
import os
import stat
import tempfile
from array import array
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Final, Protocol, TypeVar

from affectnet.data.file_kinds import is_image_file
from affectnet.data.readers.streams import WINDOW, new_memory, open_archive, read_at
from affectnet.data.readers.tarscan import MAX_MEMBER, FileBlock, scan_tar
from affectnet.errors import DataError

DEPTH: Final = 5
MOST_FOLDERS: Final = 20_000
_AFFECTNET_PARTS = ("train_set", "val_set", "validation_set")
_AFFECTNET_KINDS = ("images", "annotations")
_GAP = 64 << 10
_SPOOL_BUFFER = 1 << 20
_FILES_PER_BLOCK = 10_000

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the amount done and the total, in the source's own unit."""

Entry = tuple[str, bool]
"""A name in a folder, and whether it is a folder itself."""


class ImageStore(Protocol):
    """Encoded images that can be read by place and size."""

    name: str

    def read_into(self, places: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Read stored images; image i fills `targets[i]`.

        Raises:
            DataError: a file has changed or cannot be read.
        """
        ...

    def close(self) -> None:
        """Release files and disk space."""
        ...


class Spool:
    """A temporary file without a name: it disappears with the process, however that ends.

    Args:
        folder: on the disk of the dataset, rather than the system's /tmp, which may be small.
    """

    def __init__(self, folder: Path) -> None:
        self.name = "the temporary file"
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._pending = bytearray()
        self._written = 0

    def append(self, data: bytes | memoryview) -> int:
        """Write at the end; return where it begins."""
        begin = self._written + len(self._pending)
        self._pending += data
        if len(self._pending) >= _SPOOL_BUFFER:
            self._flush()
        return begin

    def _flush(self) -> None:
        if self._pending:
            self._file.seek(self._written)
            with memoryview(self._pending) as rest:
                done = 0
                while done < len(rest):  # a raw file may write less than it is given
                    done += self._file.write(rest[done:])
            self._written += done
            self._pending.clear()

    def read(self, place: int, size: int) -> bytes:
        """Return appended bytes."""
        data = bytearray(size)
        self.read_into([place], [memoryview(data)])
        return bytes(data)

    def read_into(self, places: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Read stored images; see `ImageStore`."""
        self._flush()
        for place, target in zip(places, targets, strict=True):
            read_at(self._file, place, target, self.name)

    def close(self) -> None:
        """Release the disk space."""
        self._file.close()


class FileImages:
    """Images in files of their own, which are read from there again."""

    def __init__(self) -> None:
        self.name = "the images"
        self._folders: dict[str, int] = {}
        self._folder_of = array("i")
        self._names: list[str] = []

    def add(self, folder: str, name: str) -> int:
        """Remember a file; return its place."""
        self._folder_of.append(self._folders.setdefault(folder, len(self._folders)))
        self._names.append(name)
        return len(self._names) - 1

    def read_into(self, places: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Read stored images; see `ImageStore`."""
        folders = list(self._folders)
        for place, target in zip(places, targets, strict=True):
            path = Path(folders[self._folder_of[place]], self._names[place])
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            if len(data) != len(target):
                raise DataError(
                    f"{path} changed while it was read; run the command again without changing it"
                )
            target[:] = data

    def close(self) -> None:
        """Forget the files."""
        self._names.clear()


class TarSource:
    """A tar archive, read twice: first all files, in its order, then the images that `store` named.

    Images of a compressed archive are copied to a temporary file in between.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.name = str(path)
        self._path = path
        self._scratch = scratch
        self._spool: Spool | None = None
        self._file: IO[bytes] | None = None
        self._buffer = new_memory(WINDOW)

    def blocks(self, progress: Progress) -> Generator[FileBlock, None, None]:
        """Yield all files; at most `tarscan.HELD` blocks may be unreleased."""
        with open_archive(self._path) as (stream, compressed, file):
            total = self._path.stat().st_size
            if compressed:
                self._spool = Spool(self._scratch)
            with closing(scan_tar(stream, self.name)) as blocks:
                for block in blocks:
                    # Asking a plain file for its position would wait for the reading thread.
                    progress(min(file.tell() if compressed else block.done, total), total)
                    yield block

    def store(self, block: FileBlock, index: int) -> int:
        """Make sure that a file of an unreleased block can be read again; return its place."""
        if self._spool is None:
            return block.places[index]
        start = block.starts[index]
        return self._spool.append(block.data[start : start + block.sizes[index]])

    def read_into(self, places: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Read stored images; see `ImageStore`."""
        order = sorted(range(len(places)), key=places.__getitem__)
        # Neighbours are read at once: a call per image would cost more than the copying.
        first = 0
        while first < len(order):
            place = places[order[first]]
            end = place + len(targets[order[first]])
            last = first + 1
            while last < len(order):
                i = order[last]
                if places[i] - end > _GAP or places[i] + len(targets[i]) - place > WINDOW:
                    break
                end = max(end, places[i] + len(targets[i]))
                last += 1
            if last == first + 1:
                self._read(place, targets[order[first]])
            else:
                self._read(place, self._buffer[: end - place])
                for i in order[first:last]:
                    at = places[i] - place
                    targets[i][:] = self._buffer[at : at + len(targets[i])]
            first = last

    def _read(self, place: int, target: memoryview) -> None:
        if self._spool is not None:
            self._spool.read_into([place], [target])
            return
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        read_at(self._file, place, target, self.name)

    def close(self) -> None:
        """Release files and disk space."""
        if self._file is not None:
            self._file.close()
        if self._spool is not None:
            self._spool.close()


class FolderSource(FileImages):
    """An unpacked release. Links to files and folders are followed.

    Args:
        path: the folder given.
        parts: names of the parts' folders, at or below `path`.
        kinds: names of the folders in a part that are read.
    """

    def __init__(self, path: Path, parts: Collection[str], kinds: Sequence[str]) -> None:
        super().__init__()
        self.name = str(path)
        self._wanted = [
            folder / kind
            for folder in find_folders([path], parts)
            for kind in kinds
            if (folder / kind).is_dir()
        ]

    def blocks(self, progress: Progress) -> Generator[FileBlock, None, None]:
        """Yield all files; see `TarSource`."""
        listings = [
            [name for name, is_folder in entries(folder) if not is_folder]
            for folder in self._wanted
        ]
        total = sum(map(len, listings))
        block, buffer = FileBlock(memoryview(b"")), bytearray()
        done = 0
        for folder, listing in zip(self._wanted, listings, strict=True):
            top = str(folder)
            prefix = os.fsencode(f"{folder.parent.name}/{folder.name}/")
            for name in listing:
                path = os.path.join(top, name)  # noqa: PTH118 (a Path takes longer than reading)
                try:
                    data, size = read_member(path)
                except OSError as error:
                    raise DataError(
                        f"{path} cannot be read: {error.strerror}; remove or repair it"
                    ) from error
                start = -1 if data is None else len(buffer)
                block.add(prefix + os.fsencode(name), start, size, self.add(top, name))
                buffer += data or b""
                done += 1
                if len(buffer) >= WINDOW or len(block.names) >= _FILES_PER_BLOCK:
                    progress(done, total)
                    block.data = memoryview(buffer).toreadonly()
                    yield block
                    block, buffer = FileBlock(memoryview(b"")), bytearray()
        block.data = memoryview(buffer).toreadonly()
        yield block
        progress(total, total)

    def store(self, block: FileBlock, index: int) -> int:
        """Return the place of a file; see `TarSource`."""
        return block.places[index]


Archive = TarSource | FolderSource


def read_member(path: str | Path) -> tuple[bytes | None, int]:
    """Read a file of at most `MAX_MEMBER` bytes.

    Returns:
        The content, None for a larger file; and the size.

    Raises:
        OSError: the file cannot be read, or is not a regular file (a pipe would block forever).
        ValueError: the name contains NUL.
    """
    found = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if found.st_size > MAX_MEMBER:
        return None, found.st_size
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        data = file.read()
    return data, len(data)


def open_source(path: Path, scratch: Path, parts: Collection[str], kinds: Sequence[str]) -> Archive:
    """Open a tar archive or a folder.

    Args:
        path: a tar archive or a folder.
        scratch: folder for the temporary file of a compressed archive.
        parts: names of the parts' folders.
        kinds: names of the folders in a part that are read.

    Raises:
        DataError: the path does not exist.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a tar archive or an unpacked folder")
    return FolderSource(path, parts, kinds) if path.is_dir() else TarSource(path, scratch)


def tracked(items: Sequence[T], progress: Progress) -> Iterator[T]:
    """Yield the items; report the progress now and then."""
    for done, item in enumerate(items):
        if done % 256 == 0:
            progress(done, len(items))
        yield item


def walk(
    top: Path, skip: Callable[[str], bool] = lambda _: False, depth: int | None = DEPTH
) -> Iterator[tuple[Path, list[Entry]]]:
    """Yield a folder and all folders below it, at most `depth` levels down, with their entries.

    Level by level, by name. Names that begin with a dot are skipped, and so are folders to `skip`
    and the images and annotations of AffectNet's parts. Links are followed, but no folder is
    visited twice.

    Raises:
        DataError: a folder cannot be read, or there are over `MOST_FOLDERS`.
    """
    level = [top]
    seen: set[tuple[int, int]] = set()
    down = 0
    while level and (depth is None or down <= depth):
        down += 1
        deeper: list[Path] = []
        for folder in level:
            at = folder.stat()
            if (at.st_dev, at.st_ino) in seen:
                continue
            seen.add((at.st_dev, at.st_ino))
            if len(seen) > MOST_FOLDERS:
                raise DataError(
                    f"{top} contains over {MOST_FOLDERS:,} folders; give a folder further down"
                )
            inside = entries(folder)
            yield folder, inside
            # Listing a million annotations takes seconds, and there is nothing to find in them.
            excluded = _AFFECTNET_KINDS if folder.name in _AFFECTNET_PARTS else ()
            deeper += [
                folder / name
                for name, is_folder in inside
                if is_folder and name not in excluded and not skip(name)
            ]
        level = deeper


def below(top: Path, wanted: Callable[[str], bool], *, folders: bool = False) -> Iterator[Path]:
    """Yield files, or folders, whose name is wanted; see `walk`.

    Folders below a wanted folder are not visited.
    """
    for folder, inside in walk(top, wanted) if folders else walk(top):
        for name, is_folder in inside:
            if is_folder == folders and wanted(name):
                yield folder / name


def find_folders(tops: Sequence[Path], names: Collection[str]) -> list[Path]:
    """Return the folders of these names, at or below some paths, each once; see `below`."""
    found: dict[Path, Path] = {}
    for top in tops:
        # Not resolved: a link named train_set is a train_set, whatever it points to.
        path = Path(os.path.abspath(top))  # noqa: PTH100
        here = [path] if path.name in names else []
        for folder in [*here, *below(path, lambda name: name in names, folders=True)]:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def entries(folder: Path) -> list[Entry]:
    """Return the names in a folder, sorted, without those that begin with a dot.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((e.name, e.is_dir()) for e in found if not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def image_names(folder: Path) -> list[str]:
    """Return the names of the images in a folder, sorted; see `is_image_file`."""
    return [
        name
        for name, is_folder in entries(folder)
        if not is_folder and is_image_file(os.path.join(folder, name))  # noqa: PTH118
    ]


def files_below(top: Path) -> Iterator[tuple[str, bool]]:
    """Yield every file in a folder and below: its path from there, and whether it is an image.

    Level by level, by name, without names that begin with a dot; links are followed.

    Raises:
        DataError: as `walk`.
    """
    for folder, inside in walk(top, depth=None):
        prefix = "" if folder == top else f"{folder.relative_to(top).as_posix()}/"
        for name, is_folder in inside:
            if not is_folder:
                path = os.path.join(folder, name)  # noqa: PTH118 (a Path takes longer)
                yield prefix + name, is_image_file(path)


def with_folder(path: Path) -> str:
    """Name a file with the folder that it is in."""
    return f"{path.parent.name}/{path.name}"
