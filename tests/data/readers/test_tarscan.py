import io
import random
import tarfile
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affectnet.data.readers import streams, tarscan
from affectnet.data.readers.tarscan import scan_tar
from affectnet.errors import DataError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture(params=[1024, 4096, 1 << 20], ids=lambda n: f"window{n}")
def window(request, monkeypatch):
    """Small windows, so that every kind of header and content crosses their edges."""
    monkeypatch.setattr(streams, "WINDOW", request.param)
    monkeypatch.setattr(tarscan, "WINDOW", request.param)


def pack(files, form=tarfile.GNU_FORMAT, **attributes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def scan(data: bytes) -> list[tuple[bytes, bytes | None]]:
    found = []
    for block in scan_tar(io.BytesIO(data), "x.tar"):
        for name, start, size, place in zip(
            block.names, block.starts, block.sizes, block.places, strict=True
        ):
            content = None if start < 0 else bytes(block.data[start : start + size])
            if content is not None:
                assert data[place : place + size] == content
            found.append((name, content))
        block.release()
    return found


def by_tarfile(data: bytes) -> list[tuple[bytes, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name.encode(), tar.extractfile(m).read()) for m in tar if m.isreg()]


def some_files(n: int, seed: int = 0) -> list[tuple[str, bytes]]:
    rng = random.Random(seed)
    return [
        (f"train_set/images/{i}.jpg", rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000])))
        for i in range(n)
    ]


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("form", FORMATS)
def test_reads_what_tarfile_reads(form):
    data = pack(some_files(200), FORMATS[form])
    assert scan(data) == by_tarfile(data)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("form", FORMATS)
def test_long_names_and_names_beyond_ascii(form):
    files = [
        ("a/" * 45 + "x.jpg", b"short"),
        ("folder_of_a_long_name/" * 6 + "train_set/images/1.jpg", b"prefix"),
        ("train_set/images/é😀.jpg", b"utf-8"),
        ("train_set/images/2.jpg", b"after"),
    ]
    if form != "ustar":
        files.insert(2, ("n" * 90 + "/" + "m" * 300 + "/3.jpg", b"long"))
    data = pack(files, FORMATS[form])
    assert scan(data) == [(name.encode(), content) for name, content in files]


@pytest.mark.usefixtures("window")
def test_pax_headers_without_a_path_change_nothing():
    files = some_files(50)
    data = pack(files, tarfile.PAX_FORMAT, mtime=1.5)
    assert data.count(b"mtime=1.5") == 50
    assert scan(data) == [(name.encode(), content) for name, content in files]


@pytest.mark.usefixtures("window")
def test_directories_devices_and_dots():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in [(".", tarfile.DIRTYPE), ("./train_set", tarfile.DIRTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = 4096 if kind == tarfile.FIFOTYPE else 0
            tar.addfile(info)
        fifo = tarfile.TarInfo("./pipe")
        fifo.type = tarfile.FIFOTYPE
        tar.addfile(fifo)
        info = tarfile.TarInfo("./train_set/1.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert scan(buffer.getvalue()) == [(b"./train_set/1.jpg", b"abc")]


@pytest.mark.usefixtures("window")
def test_headers_from_before_posix():
    data = bytearray(pack(some_files(20), tarfile.USTAR_FORMAT))
    position = 0
    while any(data[position : position + 512]):
        size = int(data[position + 124 : position + 135], 8)
        data[position + 257 : position + 265] = bytes(8)
        seal(data, position)
        position += 512 + (size + 511) // 512 * 512
    assert scan(bytes(data)) == by_tarfile(bytes(data))
    assert len(scan(bytes(data))) == 20


def seal(data: bytearray, position: int) -> None:
    """Put the right checksum into a header."""
    data[position + 148 : position + 156] = b" " * 8
    total = sum(data[position : position + 512])
    data[position + 148 : position + 156] = b"%06o\0 " % total


@pytest.mark.usefixtures("window")
def test_base_256_sizes():
    data = bytearray(pack([("1.jpg", b"x" * 700), ("2.jpg", b"y")]))
    data[124:136] = b"\x80" + (700).to_bytes(11, "big")
    seal(data, 0)
    assert scan(bytes(data)) == [(b"1.jpg", b"x" * 700), (b"2.jpg", b"y")]
    for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x80" + (2**62).to_bytes(11, "big")):
        data[124:136] = size  # -1, the largest number, more than any disk
        seal(data, 0)
        with pytest.raises(DataError, match=r"x\.tar"):
            scan(bytes(data))


@pytest.mark.usefixtures("window")
def test_a_tar_inside_a_tar_stays_a_file():
    inner = pack(some_files(30, 1))
    files = [("1.jpg", b"a" * 10), ("inner.tar", inner), ("2.jpg", b"b" * 2000), ("i2", inner)]
    assert [c for _, c in scan(pack(files))] == [content for _, content in files]


@pytest.mark.usefixtures("window")
def test_members_above_the_limit_are_skipped(monkeypatch):
    monkeypatch.setattr(tarscan, "MAX_MEMBER", 3000)
    files = [("1.jpg", b"a"), ("film.mp4", bytes(9000)), ("2.jpg", b"b"), ("end.bin", bytes(3001))]
    expected = [(b"1.jpg", b"a"), (b"film.mp4", None), (b"2.jpg", b"b"), (b"end.bin", None)]
    assert scan(pack(files)) == expected


@pytest.mark.usefixtures("window")
def test_pax_sizes_override_the_header():
    records = b"13 size=1000\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    data = header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    data += pack([("1.jpg", b"")])[:512] + b"q" * 1000 + bytes(24) + pack([("2.jpg", b"z")])
    assert scan(data) == [(b"1.jpg", b"q" * 1000), (b"2.jpg", b"z")]


def pax(records: bytes) -> bytes:
    """A PAX header before a file of one block."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    blocks = records.ljust(-(-len(records) // 512) * 512, b"\0")
    return header.tobuf(tarfile.USTAR_FORMAT) + blocks + pack([("1.jpg", b"a")])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"9 a=size=\n" * 600_000, "no valid header"),
        (b"6 a=b\n" * 150_000 + b"x size=1\n", "PAX header cannot be read"),
        (b"11 path=a\0\n\0\0" + b"8 size=", "PAX header cannot be read"),
        (b"3000014 path=" + b"../" * 1_000_000 + b"\n", "no valid header"),
        (b"300013 path=" + b"../" * 100_000 + b"\n", "leads out of"),
        (b"99999999999 path=a\n", "PAX header cannot be read"),
        (b"13 size=-100\n", "no valid size"),
    ],
)
def test_odd_pax_headers_are_refused_quickly_and_briefly(records, message):
    start = time.process_time()
    with pytest.raises(DataError, match=message) as error:
        scan(pax(records))
    assert time.process_time() - start < 2  # once 27 s, when the records were copied each time
    assert len(str(error.value)) < 400


@pytest.mark.usefixtures("window")
def test_links_are_listed():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("train_set/images/1.jpg")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 1000
            tar.addfile(info)
    links = [n for b in scan_tar(io.BytesIO(buffer.getvalue()), "x") for n in b.links]
    assert links == [b"train_set/images/1.jpg"] * 2


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../1.jpg", "train_set/../../1.jpg", "train_set/images/..", "a\\..\\b.jpg"],
)
@pytest.mark.parametrize("form", FORMATS)
def test_paths_out_of_the_archive_are_refused(name, form):
    data = pack([("fine.jpg", b"a"), ("tmp", b"b")], FORMATS[form])
    with pytest.raises(DataError, match="leads out of"):
        scan(pack([("fine.jpg", b"a"), (name, b"b")], FORMATS[form]))
    long_way = "n" * 120 + "/" + name
    if form != "ustar" and name[0] != "/":
        with pytest.raises(DataError, match="leads out of"):
            scan(pack([("fine.jpg", b"a"), (long_way, b"b")], FORMATS[form]))
    assert len(scan(data)) == 2
    assert scan(pack([("a..b.jpg", b"a"), ("...", b"b")], FORMATS[form]))


def test_sparse_files_are_refused():
    info = tarfile.TarInfo("1.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(DataError, match="--sparse"):
        scan(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    records = b"22 GNU.sparse.major=1\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    with pytest.raises(DataError, match="--sparse"):
        scan(header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + bytes(1024))


@pytest.mark.parametrize("data", [b"", b"x", b"hello " * 1000, b"<html>" + bytes(5000)])
def test_other_files_are_refused(data):
    with pytest.raises(DataError, match=r"x\.tar is not a tar archive"):
        scan(data)


def test_an_archive_of_nothing_is_empty():
    assert scan(pack([])) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_cut_is_detected(data):
    whole = pack(some_files(12))
    content_ends = len(whole) - 1 - next(i for i, x in enumerate(reversed(whole)) if x)
    cut = data.draw(st.integers(0, content_ends - content_ends % 512))
    with pytest.raises(DataError, match=r"cut short|not a tar archive"):
        scan(whole[:cut])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_archives_are_read_or_are_data_errors(data):
    form = data.draw(st.sampled_from(list(FORMATS)))
    files = [*some_files(6, data.draw(st.integers(0, 9))), ("long/" * 40 + "1.jpg", b"l" * 600)]
    whole = bytearray(pack(files, FORMATS[form], mtime=data.draw(st.sampled_from([0, 1.5]))))
    for _ in range(data.draw(st.integers(1, 6))):
        block = 512 * data.draw(st.integers(0, len(whole) // 512 - 1))
        at = block + data.draw(st.integers(0, 511))
        field = data.draw(st.sampled_from([at, block, block + 124, block + 156, block + 257]))
        value = data.draw(st.binary(min_size=1, max_size=12))
        whole[field : field + len(value)] = value
        if data.draw(st.booleans()):  # with its checksum mended, a wrong header gets further
            seal(whole, block)
    found, error = attempt(bytes(whole))
    assert error is None or ("x.tar" in error and "\n" not in error)
    assert all(b".." not in name.split(b"/") and name[:1] != b"/" for name, _ in found)


def attempt(data: bytes) -> tuple[list[tuple[bytes, bytes | None]], str | None]:
    """Scan; a DataError comes back as its text, any other error is the test's failure."""
    try:
        return scan(data), None
    except DataError as error:
        return [], str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 3))
def test_random_headers(tail, zeros):
    data = pack([("1.jpg", b"abc")])[:1024] + tail + bytes(512 * zeros)
    found, error = attempt(data)
    assert "x.tar" in error if error else found[0] == (b"1.jpg", b"abc")


def test_several_blocks_may_be_unreleased():
    rng = np.random.default_rng(0)
    files = [(f"{i}.jpg", rng.bytes(3 << 20)) for i in range(24)]
    data = pack(files)
    held = []
    seen = 0
    for block in scan_tar(io.BytesIO(data), "x"):
        held.append((block, seen))
        seen += len(block.names)
        if len(held) == tarscan.HELD:  # by now the thread has long read on
            old, first = held.pop(0)
            for i, (start, size) in enumerate(zip(old.starts, old.sizes, strict=True)):
                assert old.data[start : start + size] == files[first + i][1]
            old.release()
    assert seen == 24
