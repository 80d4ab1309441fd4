"""The bytes of an archive, whatever compresses it, read ahead by a thread."""

import gzip
import io
import lzma
import queue
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Generic, Protocol, Self, TypeVar

import numpy as np
import zstandard

from affectnet.errors import DataError

WINDOW = 8 << 20
"""Bytes read at once: large enough that a thread switch costs nothing, small beside 1 GB."""

_XZ_MEMORY = 256 << 20
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    b"Rar!": "a rar file",
    b"BZh": "compressed by bzip2",
}


Prepared = TypeVar("Prepared")


class ByteStream(Protocol):
    """What the archive scanner reads from."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[ByteStream, bool, IO[bytes]]]:
    """Open an archive, told by its first bytes, not by its name.

    Yields the stream of the archive's own bytes, whether it is compressed, and the file below,
    whose position tells how far the reading has come.

    Raises:
        DataError: the path is missing or no regular file, or a kind of archive not read here; and
            inside the context, when a compressed stream is damaged or cut short.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is neither a file nor a folder; give a tar or a folder")
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give a tar or an unpacked folder") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        magic = file.read(6)
        file.seek(0)
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
    """`lzma.open`, but with a bound on the memory that the archive may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._engine = self._new_engine()

    @staticmethod
    def _new_engine() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

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
                self._engine = self._new_engine()
            elif self._engine.needs_input:
                packed = self._file.read(1 << 18)
                if not packed:
                    raise EOFError("the compressed stream ends too early")
            unpacked = self._engine.decompress(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


class ReadAhead(Generic[Prepared]):
    """Windows of a stream, read and prepared by a thread while the caller works on those before.

    Iterating yields (buffer, length, what `prepare` made of the window); the caller hands each
    buffer back by `recycle` once nothing looks into it any more. Errors of the thread come up in
    the iteration. Use as a context, so that the thread ends with it.
    """

    def __init__(
        self,
        stream: ByteStream,
        buffers: int,
        front: int,
        prepare: Callable[[memoryview], Prepared],
    ) -> None:
        """Take `buffers` buffers of WINDOW bytes, each with `front` spare bytes before them."""
        self._stream = stream
        self._front = front
        self._prepare = prepare
        self._stop = False
        # Last in, first out: memory that is still in the cache, and less of it.
        self._free: queue.LifoQueue[memoryview | None] = queue.LifoQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int, Prepared] | BaseException]
        self._full = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(new_memory(front + WINDOW))
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while (buffer := self._free.get()) is not None:
                length = 0
                while length < WINDOW:
                    got = self._stream.readinto(buffer[self._front + length :])
                    if not got or self._stop:
                        break
                    length += got
                window = buffer[self._front : self._front + length]
                self._full.put((buffer, length, self._prepare(window)))
                if length < WINDOW:
                    return
        except BaseException as error:  # every kind: the caller's thread shall raise it
            self._full.put(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._free.put(None)
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[memoryview, int, Prepared]]:
        """Yield the windows; the last one is shorter than WINDOW, perhaps empty."""
        while True:
            item = self._full.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if item[1] < WINDOW:
                return

    def recycle(self, buffer: memoryview) -> None:
        """Let the thread read into a buffer again."""
        self._free.put(buffer)


def new_memory(size: int) -> memoryview:
    """Return writable memory that costs nothing until it is written to, unlike a bytearray."""
    return np.empty(size, np.uint8).data


def read_at(file: IO[bytes], offset: int, target: memoryview, name: str) -> None:
    """Fill `target` from `offset` of a raw file.

    Raises:
        DataError: the file has become shorter.
    """
    file.seek(offset)
    done = 0
    while done < len(target):  # a raw file may hand out less than asked
        got = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name} became shorter while it was read; leave it alone and repeat")
        done += got
