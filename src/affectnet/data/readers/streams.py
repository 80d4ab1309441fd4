"""The bytes of an archive, however it is compressed, read ahead by a thread."""

import gzip
import io
import lzma
import queue
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Generic, Protocol, Self, TypeVar

import numpy as np
import zstandard

from affectnet.errors import DataError
from affectnet.threads import overlap

WINDOW = 8 << 20
"""Bytes read at once: large enough that switching threads costs nothing, small next to 1 GB."""

_new_xz_engine = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=256 << 20)
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    b"Rar!": "a rar file",
    b"BZh": "compressed by bzip2",
}


_PART_OF_ARCHIVE = re.compile(
    r"(.+\.(?:tar|tgz|gz|xz|zst|zip|7z|rar))\.(?:\d{2,4}|part[-_]?\d+|[a-f][a-z])", re.IGNORECASE
)

Prepared = TypeVar("Prepared")


class ByteStream(Protocol):
    """What the archive scanner reads from."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[ByteStream, bool, IO[bytes]]]:
    """Open an archive, recognised by its first bytes, not by its name.

    Yields the stream of the unpacked archive, whether it is compressed, and the underlying file,
    whose position shows the progress.

    Raises:
        DataError: the path does not exist or is not a regular file, or the kind of archive is not
            supported; inside the context too, when a compressed stream is damaged or cut short.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is neither a file nor a folder; give a tar archive or folder")
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; give a tar archive or an unpacked folder"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        magic = file.read(6)
        file.seek(0)
        if whole := _PART_OF_ARCHIVE.fullmatch(path.name):
            raise DataError(
                f"{path} is one part of a split archive; join the parts first, as by `cat "
                f"{whole[1]}.* > {whole[1]}`, and give {whole[1]}"
            )
        for start, kind in _OTHER_KINDS.items():
            if magic.startswith(start):
                raise DataError(
                    f"{path} is {kind}; unpack it and give the folder, or pack it as "
                    ".tar, .tar.gz, .tar.xz or .tar.zst"
                )
        try:
            if magic.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=io.BufferedReader(file, 1 << 18)) as unpacked:
                    yield unpacked, True, file
            elif magic == b"\xfd7zXZ\x00":
                yield _XzStream(file), True, file
            elif magic.startswith(b"\x28\xb5\x2f\xfd"):
                engine = zstandard.ZstdDecompressor()
                yield engine.stream_reader(file, read_across_frames=True), True, file
            else:
                yield file, False, file
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError) as e:
            raise DataError(
                f"{path} is damaged or cut short ({e}); copy or download it again"
            ) from e


class _XzStream:
    """`lzma.open`, but with a limit on the memory that the archive may request."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._engine = _new_xz_engine()

    def readinto(self, buffer: memoryview, /) -> int:
        while True:
            packed = b""
            if self._engine.eof:
                # Further streams may follow, with zero padding between (`cat a.xz b.xz`).
                packed = self._engine.unused_data.lstrip(b"\0")
                while not packed:
                    more = self._file.read(1 << 18)
                    if not more:
                        return 0
                    packed = more.lstrip(b"\0")
                self._engine = _new_xz_engine()
            elif self._engine.needs_input:
                packed = self._file.read(1 << 18)
                if not packed:
                    raise EOFError("the compressed stream ends too early")
            unpacked = self._engine.decompress(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


class ReadAhead(Generic[Prepared]):
    """Windows of a stream, read and prepared by a thread while the caller works on earlier ones.

    Iterating yields (buffer, length, what `prepare` made of the window); the last window is shorter
    than WINDOW, perhaps empty. The caller returns each buffer by `recycle` once it is not needed
    any more. There are `buffers` of them, with `front` spare bytes before each window. Errors of
    the thread are raised by the iteration. A context manager, so that the thread ends with it.
    """

    def __init__(
        self,
        stream: ByteStream,
        buffers: int,
        front: int,
        prepare: Callable[[memoryview], Prepared],
    ) -> None:
        self._stream = stream
        self._front = front
        self._prepare = prepare
        # Last in, first out: reuses memory that is still in the cache, and takes less of it.
        self._free: queue.LifoQueue[memoryview | None] = queue.LifoQueue()
        for _ in range(buffers):
            self.recycle(new_memory(front + WINDOW))
        self._windows = overlap(self._read(), buffers)

    def _read(self) -> Iterator[tuple[memoryview, int, Prepared]]:
        length = WINDOW
        while length == WINDOW and (buffer := self._free.get()) is not None:
            length = 0
            while length < WINDOW and (
                got := self._stream.readinto(buffer[self._front + length :])
            ):
                length += got
            yield buffer, length, self._prepare(buffer[self._front : self._front + length])

    def __enter__(self) -> Self:
        return self

    def __iter__(self) -> Iterator[tuple[memoryview, int, Prepared]]:
        return self._windows

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        self._windows.close()

    def recycle(self, buffer: memoryview) -> None:
        """Let the thread read into a buffer again."""
        self._free.put(buffer)


def new_memory(size: int) -> memoryview:
    """Return writable memory that, unlike a bytearray, costs nothing until it is written to."""
    return np.empty(size, np.uint8).data


def read_at(file: IO[bytes], offset: int, target: memoryview, name: str) -> None:
    """Fill `target` from `offset` of a raw file.

    Raises:
        DataError: the file has become shorter.
    """
    file.seek(offset)
    done = 0
    while done < len(target):  # a raw file may return less than requested
        got = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name} became shorter while it was read; run the command again")
        done += got
