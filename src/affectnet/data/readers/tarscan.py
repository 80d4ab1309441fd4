"""A scanner of tar archives that is fast on millions of small members.

NumPy finds, checks and chains all headers in a window of the archive at once; `tarfile` reads the
other headers (old or unusual ones) one by one. Nothing is unpacked to disk, so no member can write
anywhere.
"""

import tarfile
from bisect import bisect_left
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.streams import WINDOW, ByteStream, ReadAhead
from affectnet.errors import DataError

BLOCK = 512
MAX_MEMBER = 32 << 20
"""Larger members are skipped; no face is that large."""

_MAX_DESCRIPTION = 1 << 20
"""Of a PAX header or a long name; real ones have some hundred bytes."""

BUFFERS = 5
HELD = 3
"""Number of windows that may be unreleased at a time; the others are being read ahead."""

_REGULAR = frozenset((0, ord("0"), ord("7")))
_LINKS = frozenset((ord("1"), ord("2")))
_GNU_LONG_NAME = ord("L")
_PAX = frozenset((ord("x"), ord("X")))
_SPARSE = ord("S")
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_FIRST_WITHOUT_DATA, _LAST_WITHOUT_DATA = ord("1"), ord("6")


@dataclass(slots=True)
class FileBlock:
    """Some files of an archive or a folder: their names, places and bytes.

    File i is `data[starts[i] : starts[i] + sizes[i]]`; `starts[i]` is -1 for a file that is too
    large to be a face, whose bytes are left out. `places[i]` is where it can be read again. `links`
    are the names of links. `done` counts the bytes of the archive read so far. `data` is
    overwritten after `release()`.
    """

    data: memoryview
    names: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)
    done: int = 0
    on_release: Callable[[], None] | None = None

    def add(self, name: bytes, start: int, size: int, place: int) -> None:
        """Add one file."""
        self.names.append(name)
        self.starts.append(start)
        self.sizes.append(size)
        self.places.append(place)

    def release(self) -> None:
        """Return the memory to the reader."""
        if self.on_release is not None:
            self.on_release()
            self.on_release = None


def scan_tar(stream: ByteStream, source: str) -> Generator[FileBlock, None, None]:
    """Yield the files of a tar archive in its order, without directories, devices and the like.

    At most `HELD` blocks may be unreleased when the next one is requested. `places` are byte
    offsets in the (unpacked) archive.

    Args:
        stream: the archive, unpacked.
        source: its name, for messages.

    Raises:
        DataError: it is not a tar archive, is damaged or cut short, or contains sparse files or a
            path that leads out of it.
    """
    scanner = _Scanner(source)
    carried = b""
    base = 0  # the offset of the window in the archive
    front = 1 << 20
    with ReadAhead(stream, BUFFERS, front, _Headers) as windows:
        for buffer, length, headers in windows:
            last = length < WINDOW
            if len(carried) <= front:
                begin = front - len(carried)
                buffer[begin:front] = carried
                data = buffer[begin : front + length]
            else:  # a large member: rare, so a copy is acceptable
                data = memoryview(carried + bytes(buffer[front : front + length]))
            block = FileBlock(data.toreadonly())
            used = scanner.scan(block, base, headers, len(carried))
            block.done = base + len(data)
            block.on_release = partial(windows.recycle, buffer)
            carried = bytes(data[used:])
            base += used
            yield block
            if scanner.finished:
                return
            if last:
                raise scanner.cut_short(base + len(carried))


class _Headers:
    """All the blocks of a window that look like plain headers, decoded at once.

    Not all of them are headers: the content of a file may look like one. Only those that the chain
    of sizes leads to are used. `run(i)` returns where a run of plain files that follow one another
    ends, so that they can be read at once.
    """

    def __init__(self, data: memoryview) -> None:
        length = len(data) // BLOCK * BLOCK
        blocks = np.frombuffer(data, np.uint8, length).reshape(-1, BLOCK)
        at = np.flatnonzero(blocks[:, 257] == ord("u"))
        heads = blocks[at]
        digits = heads[:, 124:135] - ord("0")  # unsigned: all else becomes large
        sums = heads[:, 148:154] - ord("0")
        total = heads.sum(axis=1, dtype=np.uint32) - heads[:, 148:156].sum(axis=1, dtype=np.uint32)
        plain = (
            (heads[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(axis=1)
            & (digits < 8).all(axis=1)
            & ((heads[:, 135] == 0) | (heads[:, 135] == ord(" ")))
            & (sums < 8).all(axis=1)
            & (sums @ _OCTAL[5:] == total + 8 * ord(" "))
        )
        if not plain.all():
            heads, at, digits = heads[plain], at[plain], digits[plain]
        kinds = heads[:, 156]
        sizes = digits @ _OCTAL
        sizes[(kinds >= _FIRST_WITHOUT_DATA) & (kinds <= _LAST_WITHOUT_DATA)] = 0
        position = at * BLOCK
        self.ends = position + BLOCK + (sizes + BLOCK - 1) // BLOCK * BLOCK
        self.at: list[int] = position.tolist()
        self.starts: list[int] = (position + BLOCK).tolist()
        self.kinds: list[int] = kinds.tolist()
        self.sizes: list[int] = sizes.tolist()
        self.names = _names(heads)
        files = ((kinds == ord("0")) | (kinds == 0)) & (sizes <= MAX_MEMBER)
        files &= self.ends <= len(data)
        files &= (heads[:, 0] != ord("/")) & (heads[:, 345] == 0)
        joined = b"\n".join([*self.names, b""])
        if b"\0" in joined or b".." in joined or b"/\n" in joined:
            files[:] = False  # one of them needs a check: rare, so all are checked
        follows = np.append(position[1:] == self.ends[:-1], False)
        # A run ends before the first that is not a plain file, and after the last of a chain.
        self._no_file: list[int] = [*np.flatnonzero(~files).tolist(), len(at)]
        self._last: list[int] = np.flatnonzero(~follows).tolist()

    def find(self, position: int) -> int:
        """Return the index of the header at a position, or -1."""
        i = bisect_left(self.at, position)
        return i if i < len(self.at) and self.at[i] == position else -1

    def run(self, i: int) -> int:
        """Return the index after the run of plain files that begins at i; i when there is none."""
        no_file = self._no_file[bisect_left(self._no_file, i)]
        return min(no_file, self._last[bisect_left(self._last, i)] + 1)


def _names(heads: NDArray[np.uint8]) -> list[bytes]:
    names: list[bytes] = np.ascontiguousarray(heads[:, :100]).view("S100").ravel().tolist()
    # Only POSIX headers have the prefix field; GNU stores other things there.
    for i in np.flatnonzero((heads[:, 345] != 0) & (heads[:, 262] == 0)).tolist():
        prefix = heads[i, 345:500].tobytes()
        names[i] = _until_nul(prefix) + b"/" + _until_nul(names[i])
    return names


def _until_nul(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _add_run(block: FileBlock, headers: _Headers, run: slice, base: int, origin: int) -> None:
    """Add plain files that follow one another to a block."""
    starts = headers.starts[run]
    if origin:  # the rest of the previous data is in front
        starts = [start + origin for start in starts]
    block.names += headers.names[run]
    block.starts += starts
    block.sizes += headers.sizes[run]
    block.places += [base + start for start in starts]


class _Scanner:
    """Goes from header to header and remembers what a header states about the next one."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.finished = False
        self._started = False
        self._next_name: bytes | None = None
        self._next_size: int | None = None
        self._skip = 0  # remaining bytes of a skipped member

    def cut_short(self, position: int) -> DataError:
        if position == 0:
            return DataError(
                f"{self.source} is not a tar archive: it is empty or cut short; download it again"
            )
        if not self._started:
            return self._no_archive()
        return DataError(
            f"{self.source} is cut short: it ends at byte {position:,} without the mark that ends "
            "an archive; copy or download it again"
        )

    def scan(self, block: FileBlock, base: int, headers: _Headers, origin: int) -> int:
        """Put the complete files of `block.data` into the block; return how much data was used.

        `base` is the offset of the data in the archive; `headers` are those of its new part, from
        `origin` on. The caller puts the rest in front of the next data. Sets `finished` at the end
        mark.
        """
        data = block.data
        end = len(data)
        position = min(self._skip, end)
        self._skip -= position
        if position == end:
            return position
        while position + BLOCK <= end:
            i = headers.find(position - origin)
            if i >= 0 and self._next_name is None and self._next_size is None:
                after = headers.run(i)
                if after > i:
                    self._started = True
                    position = origin + int(headers.ends[after - 1])
                    _add_run(block, headers, slice(i, after), base, origin)
                    continue
            if i >= 0:
                kind, size, name = headers.kinds[i], headers.sizes[i], headers.names[i]
                if b"\0" in name:
                    name = _until_nul(name)
            else:
                header = bytes(data[position : position + BLOCK])
                if not any(header):
                    if not self._started and any(data[position : position + 2 * BLOCK]):
                        raise self._no_archive()
                    self.finished = True
                    return end
                kind, size, name = self._odd_header(header, base + position)
            self._started = True
            if self._next_size is not None and kind in _REGULAR:
                size = self._next_size
            start = position + BLOCK
            padded = start + (size + BLOCK - 1) // BLOCK * BLOCK
            if size > (MAX_MEMBER if kind in _REGULAR else _MAX_DESCRIPTION):
                self._skip_member(block, kind, name, size, base + start)
                self._forget()
                if padded > end:
                    self._skip = padded - end
                    return end
                position = padded
                continue
            if padded > end:
                return position
            position = padded
            if kind in _REGULAR:
                if self._next_name is not None:
                    name = self._next_name
                if name[:1] == b"/" or b".." in name:
                    self._refuse_outside(name)
                if name[-1:] != b"/":  # before POSIX, a directory was a file with a slash
                    block.add(name, start, size, base + start)
                self._forget()
            elif kind in _PAX:
                self._read_pax(bytes(data[start : start + size]))
            elif kind == _GNU_LONG_NAME:
                self._next_name = _until_nul(bytes(data[start : start + size]))
            else:
                self._other_kind(block, kind, self._next_name or name)
        return position

    def _forget(self) -> None:
        self._next_name = self._next_size = None

    def _skip_member(self, block: FileBlock, kind: int, name: bytes, size: int, place: int) -> None:
        if kind in _REGULAR:
            name = self._next_name or name
            self._refuse_outside(name)
            block.add(name, -1, size, place)
        elif kind in _PAX or kind == _GNU_LONG_NAME:
            raise self._damaged(place - BLOCK)

    def _other_kind(self, block: FileBlock, kind: int, name: bytes) -> None:
        """Handle members that are not files: directories, devices, links, volume labels."""
        if kind == _SPARSE:
            raise self._sparse(name)
        self._refuse_outside(name)
        if kind in _LINKS:
            block.links.append(name)
        if kind not in (ord("g"), ord("K")):  # these two describe later members
            self._forget()

    def _odd_header(self, header: bytes, position: int) -> tuple[int, int, bytes]:
        """Read an unusual header with tarfile: before POSIX, base-256 numbers, spaces."""
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            kind, size = info.type[0], info.size
            name = info.name.encode("utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise (self._damaged(position) if self._started else self._no_archive()) from error
        if not 0 <= size < 1 << 60:  # a number in base 256 may have 95 bits
            raise self._damaged(position)
        if info.isdir():
            return ord("5"), 0, name
        if _FIRST_WITHOUT_DATA <= kind <= _LAST_WITHOUT_DATA:
            size = 0
        return kind, size, name

    def _read_pax(self, records: bytes) -> None:
        """Read path and size of the next member from PAX records: b"LENGTH KEY=VALUE\\n"."""
        if b"path=" not in records and b"size=" not in records and b"GNU.sparse" not in records:
            return
        at, end = 0, len(records.rstrip(b"\0"))
        while at < end:
            digits, space, _ = records[at : at + 10].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            if not space or not len(digits) + 1 < length <= end - at:
                raise DataError(f"{self.source} is damaged: a PAX header cannot be read")
            key, _, value = records[at + len(digits) + 1 : at + length - 1].partition(b"=")
            at += length
            if key == b"path":
                self._next_name = _until_nul(value)
            elif key == b"size":
                if not value.isdigit() or len(value) > 18:
                    raise DataError(f"{self.source} is damaged: a PAX header has no valid size")
                self._next_size = int(value)
            elif key.startswith(b"GNU.sparse"):
                raise self._sparse(self._next_name or b"a file")

    def _refuse_outside(self, name: bytes) -> None:
        parts = name.replace(b"\\", b"/").split(b"/")
        if name[:1] == b"/" or b".." in parts:
            raise DataError(
                f"{self.source} contains the path '{_shown(name)}', which leads out of the "
                "archive; such archives are not read: pack it again with relative paths"
            )

    def _sparse(self, name: bytes) -> DataError:
        return DataError(
            f"{self.source} contains '{_shown(name)}' as a sparse file; pack it again without "
            "--sparse"
        )

    def _damaged(self, position: int) -> DataError:
        return DataError(
            f"{self.source} is damaged: no valid header at byte {position:,}; "
            "copy or download it again"
        )

    def _no_archive(self) -> DataError:
        return DataError(
            f"{self.source} is not a tar archive (plain, .gz, .xz or .zst); give the tar archive "
            "of the release or the folder that it was unpacked to"
        )


def _shown(name: bytes) -> str:
    """Return the beginning of a name as text."""
    return name[:200].decode("utf-8", "backslashreplace") + ("..." if len(name) > 200 else "")
