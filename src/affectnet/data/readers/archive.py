"""Where the files of a release come from: a tar archive or an unpacked folder, read in one pass."""

import os
import stat
import tempfile
from array import array
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Protocol

from affectnet.data.readers.streams import WINDOW, new_memory, open_archive, read_at
from affectnet.data.readers.tarscan import MAX_MEMBER, Block, scan_tar
from affectnet.errors import DataError

_GAP = 64 << 10
_SPOOL_BUFFER = 1 << 20
_DEPTH = 6
_FILES_A_BLOCK = 10_000

Progress = Callable[[int, int], None]
"""Called with what is done and the whole, in the source's own unit."""


BlockStream = Generator[Block, None, None]
"""Blocks of a source; closing it ends the reading."""


class Images(Protocol):
    """Encoded images that can be read by place and size."""

    name: str

    def read_into(
        self, places: Sequence[int], sizes: Sequence[int], target: memoryview, begins: Sequence[int]
    ) -> None:
        """Read kept files; file i goes to `target[begins[i] :]`."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Source(Images, Protocol):
    """Files that are read twice: all of them once, in the source's order, then the images wanted.

    Between the two readings images are kept by `keep`, which returns the place to ask for.
    """

    def blocks(self, progress: Progress) -> BlockStream:
        """Yield all files; at most `tarscan.HELD` blocks may be unreleased."""
        ...

    def keep(self, block: Block, index: int) -> int:
        """Make sure that a file of an unreleased block can be read again; return its place."""
        ...


class Spool:
    """A nameless temporary file: gone with the process, however that ends.

    Args:
        folder: where it takes its room: the disk of the dataset, not the system's /tmp.
    """

    def __init__(self, folder: Path) -> None:
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
                while done < len(rest):  # a raw file may take less than given
                    done += self._file.write(rest[done:])
            self._written += done
            self._pending.clear()

    def read(self, place: int, size: int) -> bytes:
        """Read what was appended."""
        data = bytearray(size)
        self.read_into(place, memoryview(data))
        return bytes(data)

    def read_into(self, place: int, target: memoryview) -> None:
        """Read what was appended into memory."""
        self._flush()
        read_at(self._file, place, target, "the temporary file")

    def close(self) -> None:
        """Give the room back."""
        self._file.close()


class TarSource:
    """A tar archive. A plain one is read where it lies; of a compressed one, images are spooled."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.name = str(path)
        self._path = path
        self._scratch = scratch
        self._spool: Spool | None = None
        self._file: IO[bytes] | None = None
        self._stretch = new_memory(WINDOW)

    def blocks(self, progress: Progress) -> BlockStream:
        with open_archive(self._path) as (stream, compressed, file):
            whole = self._path.stat().st_size
            if compressed:
                self._spool = Spool(self._scratch)
            for block in scan_tar(stream, self.name):
                # Asking a plain file for its position would wait for the thread that reads it.
                progress(min(file.tell() if compressed else block.done, whole), whole)
                yield block

    def keep(self, block: Block, index: int) -> int:
        if self._spool is None:
            return block.places[index]
        start = block.starts[index]
        return self._spool.append(block.data[start : start + block.sizes[index]])

    def read_into(
        self, places: Sequence[int], sizes: Sequence[int], target: memoryview, begins: Sequence[int]
    ) -> None:
        order = sorted(range(len(places)), key=places.__getitem__)
        # Neighbours come in one reading: a call per image would cost more than the copying.
        first = 0
        while first < len(order):
            place = places[order[first]]
            end = place + sizes[order[first]]
            last = first + 1
            while last < len(order):
                i = order[last]
                if places[i] - end > _GAP or places[i] + sizes[i] - place > WINDOW:
                    break
                end = max(end, places[i] + sizes[i])
                last += 1
            if last == first + 1:
                begin = begins[order[first]]
                self._read(place, target[begin : begin + end - place])
            else:
                self._read(place, self._stretch[: end - place])
                for i in order[first:last]:
                    size, at = sizes[i], places[i] - place
                    target[begins[i] : begins[i] + size] = self._stretch[at : at + size]
            first = last

    def _read(self, place: int, target: memoryview) -> None:
        if self._spool is not None:
            self._spool.read_into(place, target)
            return
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        read_at(self._file, place, target, self.name)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._spool is not None:
            self._spool.close()


class FolderSource:
    """An unpacked release. Links to files and folders are followed: they lie on the user's disk."""

    def __init__(self, path: Path, wanted: Sequence[str]) -> None:
        """Take the folders `PART/KIND` below `path` whose names are in `wanted` ("a/b")."""
        self.name = str(path)
        # Not resolved: a link named train_set is a train_set, whatever it points to.
        top = Path(os.path.abspath(path))  # noqa: PTH100
        self._folders = _find_folders(top, frozenset(wanted))
        self._names: list[str] = []
        self._folder_of = array("B")

    def blocks(self, progress: Progress) -> BlockStream:
        listings = [_list(folder) for folder in self._folders]
        whole = sum(map(len, listings))
        block, buffer = Block(memoryview(b"")), bytearray()
        for number, (folder, listing) in enumerate(zip(self._folders, listings, strict=True)):
            prefix = os.fsencode(f"{folder.parent.name}/{folder.name}/")
            for name in listing:
                self._add(block, buffer, folder, prefix, name)
                self._names.append(name)
                self._folder_of.append(number)
                if len(buffer) >= WINDOW or len(block.names) >= _FILES_A_BLOCK:
                    progress(len(self._names), whole)
                    block.data = memoryview(buffer).toreadonly()
                    yield block
                    block, buffer = Block(memoryview(b"")), bytearray()
        block.data = memoryview(buffer).toreadonly()
        yield block
        progress(whole, whole)

    def _add(self, block: Block, buffer: bytearray, folder: Path, prefix: bytes, name: str) -> None:
        """Put a file into a block; folders are left out."""
        path = os.path.join(folder, name)  # noqa: PTH118 (a Path costs more than the reading)
        try:
            found = os.stat(path)  # noqa: PTH116
            if stat.S_ISDIR(found.st_mode):
                return
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{path} is no regular file; take it away and repeat")
            data = None
            if found.st_size <= MAX_MEMBER:
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                    data = file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        block.names.append(prefix + os.fsencode(name))
        block.starts.append(-1 if data is None else len(buffer))
        block.sizes.append(found.st_size if data is None else len(data))
        block.places.append(len(self._names))
        buffer += data or b""

    def keep(self, block: Block, index: int) -> int:
        return block.places[index]

    def read_into(
        self, places: Sequence[int], sizes: Sequence[int], target: memoryview, begins: Sequence[int]
    ) -> None:
        for place, size, begin in zip(places, sizes, begins, strict=True):
            path = self._folders[self._folder_of[place]] / self._names[place]
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            if len(data) != size:
                raise DataError(f"{path} changed while it was read; leave it alone and repeat")
            target[begin : begin + size] = data

    def close(self) -> None:
        self._names.clear()


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def _find_folders(top: Path, wanted: frozenset[str]) -> list[Path]:
    """Return the folders `PART/KIND` at or below `top`, at most six levels down."""
    found: list[Path] = []
    parts = {name.partition("/")[0] for name in wanted}
    seen: set[tuple[int, int]] = set()  # links may lead in circles

    def look(folder: Path, depth: int) -> None:
        at = folder.stat()
        if (at.st_dev, at.st_ino) in seen:
            return
        seen.add((at.st_dev, at.st_ino))
        for child in (folder / name for name in _list(folder)):
            if not child.is_dir():
                continue
            if f"{folder.name}/{child.name}" in wanted:
                found.append(child)
            elif depth < _DEPTH and folder.name not in parts and not child.name.startswith("."):
                look(child, depth + 1)

    look(top, 0)
    return found


def open_source(path: Path, scratch: Path, wanted: Sequence[str]) -> TarSource | FolderSource:
    """Take a path for what it is.

    Args:
        path: a tar archive or a folder.
        scratch: folder for the temporary file of a compressed archive.
        wanted: folders of interest, as "PART/KIND".

    Raises:
        DataError: there is nothing at the path.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a tar or an unpacked folder")
    return FolderSource(path, wanted) if path.is_dir() else TarSource(path, scratch)
