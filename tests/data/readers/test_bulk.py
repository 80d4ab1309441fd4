import io
from contextlib import suppress

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.readers.annotations import read_npy_number, read_npy_points
from affectnet.data.readers.bulk import (
    group_names,
    have_sound_headers,
    plain_numbers,
    plain_points,
)

ENDINGS = (b"_exp.npy", b"_val.npy", b".jpg")
STEMS = st.text("ab0_.", max_size=6).map(str.encode)
FOLDERS = st.sampled_from([b"", b"/", b"a/", b"train_set/images/", b"x/train_set/images/", b"./a/"])
NAMES = st.builds(
    lambda folder, stem, ending: folder + stem + ending,
    FOLDERS,
    STEMS,
    st.sampled_from([*ENDINGS, b".png", b"", b".npy", b"exp.npy"]),
).filter(bool)


def one_by_one(names):
    """Group by the definition."""
    groups, alone = {}, []
    for i, name in enumerate(names):
        folder, slash, file = name.rpartition(b"/")
        ending = next((e for e in ENDINGS if file.endswith(e) and len(file) > len(e)), None)
        if slash and ending and file[:1] != b"." and len(name) >= 8:
            groups.setdefault((folder, ending), []).append((i, file[: -len(ending)]))
        else:
            alone.append(i)
    return groups, alone


@settings(deadline=None, max_examples=300)
@given(st.lists(NAMES, max_size=40))
def test_names_are_grouped_by_folder_and_ending(names):
    groups, alone = group_names(names, ENDINGS)
    expected, expected_alone = one_by_one(names)
    if max(map(len, names), default=0) < 8:
        assert groups == []
        assert alone.tolist() == list(range(len(names)))
        return
    found = {
        (g.folder, g.ending): list(zip(g.members.tolist(), g.stems, strict=True)) for g in groups
    }
    assert found == expected
    assert alone.tolist() == expected_alone


def test_very_long_names_and_too_many_folders_are_left_out():
    long = [b"a/" * 200 + b"1.jpg", b"a/1.jpg"]
    assert group_names(long, ENDINGS)[1].tolist() == [0, 1]
    many = [b"folder%02d/1.jpg" % i for i in range(40)]
    groups, alone = group_names(many, ENDINGS)
    assert len(groups) + len(alone) == 40
    assert 10 < len(groups) < 40


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def lay_out(files):
    """Put files behind one another with something between."""
    data, starts = bytearray(b"xyz"), []
    for file in files:
        starts.append(len(data))
        data += file + b"!"
    sizes = [len(file) for file in files]
    return memoryview(bytes(data)), np.array(starts, np.int64), np.array(sizes, np.int64)


NUMBERS = st.one_of(
    st.floats(-2, 2).map(lambda x: npy(str(x))),
    st.integers(-2, 12).map(lambda x: npy(str(x))),
    st.integers(-2, 12).map(npy),
    st.sampled_from(
        [
            b"",
            npy("\ud800"),
            npy("\0"),
            npy([1, 2]),
            npy("1")[:-1],
            npy("é"),
            npy(["3"]),
            npy("nan"),
        ]
    ),
    st.binary(max_size=200),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(NUMBERS, max_size=30))
def test_numbers_are_those_read_one_by_one(files):
    numbers, read = plain_numbers(*lay_out(files))
    for file, number, was_read in zip(files, numbers.tolist(), read.tolist(), strict=True):
        if was_read:
            np.testing.assert_equal(number, read_npy_number(file))


def test_numbers_of_the_usual_form_are_all_read():
    texts = ["0", "7", "-0.785714", "1e-05", "0.1", " 1 "]
    numbers, read = plain_numbers(*lay_out([npy(text) for text in texts]))
    assert read.all()
    assert numbers.tolist() == [float(text) for text in texts]


@pytest.mark.parametrize("bad", ["happy", "1_0", "\ud800", ""])
def test_files_without_a_number_are_left_out(bad):
    files = [npy("1"), npy(np.array(bad, "<U5")), npy("-0.5"), npy(np.array("9", "<U3"))]
    numbers, read = plain_numbers(*lay_out(files))
    assert read.tolist() == [True, False, True, True]
    assert numbers[read].tolist() == [1, -0.5, 9]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_points_are_those_read_one_by_one(data):
    rng = np.random.default_rng(0)
    kinds = [
        rng.random(6),
        rng.random(6) * 1e300,
        np.full(6, np.nan),
        rng.random((3, 2)),
        rng.random(6).astype("f4"),
        rng.random(5),
    ]
    chosen = data.draw(st.lists(st.integers(0, len(kinds) - 1), max_size=12))
    files = [npy(kinds[i]) for i in chosen]
    points, read = plain_points(*lay_out(files), 3)
    assert read.tolist() == [i == 0 for i in chosen]
    assert [row.tobytes() for row in points] == [read_npy_points(npy(kinds[0]), 3)] * len(points)


def jpeg(mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


KINDS = {
    "plain": jpeg(),
    "grey": jpeg("L"),
    "cmyk": jpeg("CMYK"),
    "progressive": jpeg(progressive=True),
    "optimised": jpeg(optimize=True),
    "restarts": jpeg(restart_marker_rows=1),
    "comment": jpeg(comment=b"\xff\xd9 no end" * 50),
    "profile": jpeg(icc_profile=bytes(300)),
    "4:2:0": jpeg(subsampling=2),
    "4:4:4": jpeg(subsampling=0),
}


def sound(*images: bytes, between: bytes = b"\xff\xd8\xff") -> list[bool]:
    """Check images that are surrounded by other bytes."""
    data, starts = bytearray(between), []
    for image in images:
        starts.append(len(data))
        data += image + between
    sizes = np.array([len(image) for image in images], np.int64)
    return have_sound_headers(memoryview(bytes(data)), np.array(starts, np.int64), sizes).tolist()


@pytest.mark.parametrize("name", KINDS)
def test_whole_jpegs_pass(name):
    simplejpeg.decode_jpeg_header(KINDS[name])
    assert sound(KINDS[name]) == [True]


def test_many_at_once_are_checked_like_each_alone():
    images = list(KINDS.values())
    mixed = [part for image in images for part in (image, image[:-1], b"", image[:30])]
    assert sound(*mixed) == [i % 4 == 0 for i in range(len(mixed))]
    assert sound() == []


def test_other_formats_and_sizes_need_decoding():
    png = io.BytesIO()
    Image.new("RGB", (9, 9)).save(png, "PNG")
    frame = KINDS["plain"].index(b"\xff\xc0")
    huge, empty, deep, components = (bytearray(KINDS["plain"]) for _ in range(4))
    huge[frame + 5 : frame + 9] = b"\xff" * 4
    empty[frame + 5 : frame + 7] = b"\0\0"
    deep[frame + 4] = 12
    components[frame + 9] = 2
    twice = KINDS["plain"][:frame] + KINDS["plain"][frame : frame + 19] * 2
    twice += KINDS["plain"][frame + 19 :]
    no_frame = KINDS["plain"][:frame] + KINDS["plain"][frame + 19 :]
    exif = jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(300))  # may have to be turned
    bad = [
        exif,
        png.getvalue(),
        bytes(huge),
        bytes(empty),
        bytes(deep),
        bytes(components),
        twice,
        no_frame,
    ]
    assert sound(*bad) == [False] * len(bad)


def test_every_cut_is_detected():
    whole = KINDS["profile"]
    assert not any(sound(*(whole[:cut] for cut in range(len(whole)))))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_what_passes_has_a_header_for_libjpeg(name, data):
    image = bytearray(KINDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    frame = image.find(b"\xff\xc0")
    if sound(bytes(image))[0] and frame > 0:
        height = int.from_bytes(image[frame + 5 : frame + 7], "big")
        width = int.from_bytes(image[frame + 7 : frame + 9], "big")
        found = (height, width)
        with suppress(ValueError):  # sampling factors and tables: only decoding can check them
            found = simplejpeg.decode_jpeg_header(bytes(image))[:2]
        assert found == (height, width)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400))))
def test_no_byte_outside_an_image_is_read(data, spans):
    data = b"\xff\xd8" + data + b"\xff\xd9"
    spans = [(a % len(data), min(b, len(data) - a % len(data))) for a, b in spans] + [
        (0, len(data))
    ]
    starts, sizes = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    assert have_sound_headers(memoryview(data), starts, sizes).shape == (len(spans),)
