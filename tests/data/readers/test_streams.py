import gzip
import io
import lzma
import threading
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.readers.streams import WINDOW, ReadAhead, open_archive
from affectnet.errors import DataError

PACKERS = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
CONTENT = bytes(range(256)) * 4000


def unpack(path) -> bytes:
    with open_archive(path) as (stream, compressed, _):
        assert compressed == (path.name != "plain")
        parts = []
        buffer = memoryview(bytearray(70_000))
        while got := stream.readinto(buffer):
            parts.append(bytes(buffer[:got]))
        return b"".join(parts)


@pytest.mark.parametrize("kind", PACKERS)
def test_every_compression_is_recognised_by_its_content(tmp_path, kind):
    path = tmp_path / kind
    path.write_bytes(PACKERS[kind](CONTENT))
    assert unpack(path) == CONTENT


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_streams_end_to_end_are_one(tmp_path, kind):
    path = tmp_path / kind
    halves = [PACKERS[kind](CONTENT[:1000]), PACKERS[kind](CONTENT[1000:])]
    padding = bytes(8) if kind == "xz" else b""
    path.write_bytes(halves[0] + padding + halves[1] + padding)
    assert unpack(path) == CONTENT


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_cut_streams_are_data_errors(tmp_path, kind):
    path = tmp_path / kind
    whole = PACKERS[kind](CONTENT)
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="damaged or cut short"):
            unpack(path)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["gz", "xz", "zst"]), st.data())
def test_damaged_streams_are_data_errors_or_read(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / kind
    whole = bytearray(PACKERS[kind](CONTENT))
    at = data.draw(st.integers(6, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    with suppress(DataError):
        unpack(path)


def test_the_memory_of_xz_is_limited(tmp_path):
    path = tmp_path / "xz"
    raw = bytearray(lzma.compress(CONTENT, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    raw[16] = 36  # in the header of the first block: a dictionary of 1 GiB
    raw[20:24] = zlib.crc32(raw[12:20]).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"[Mm]emory"):
        unpack(path)


@pytest.mark.parametrize(
    ("magic", "word"), [(b"PK\x03\x04", "zip"), (b"Rar!\x1a\x07", "rar"), (b"BZh91AY", "bzip2")]
)
def test_other_archives_are_named(tmp_path, magic, word):
    path = tmp_path / "x"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(DataError, match=word):
        unpack(path)


def test_paths_that_are_not_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        unpack(tmp_path / "absent")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        unpack(tmp_path)


class Failing(io.RawIOBase):
    def readinto(self, buffer):
        raise OSError("the disk is gone")


def test_errors_of_the_thread_are_raised():
    with (
        pytest.raises(OSError, match="the disk is gone"),
        ReadAhead(Failing(), 2, 0, len) as windows,
    ):
        next(iter(windows))


def test_the_thread_ends_when_the_reading_stops_early():
    before = threading.active_count()
    with ReadAhead(io.BytesIO(bytes(WINDOW * 3)), 2, 0, len) as windows:
        next(iter(windows))
    assert threading.active_count() == before
