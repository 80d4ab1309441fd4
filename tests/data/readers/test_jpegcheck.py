import io
from contextlib import suppress

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.readers.jpegcheck import look_whole


def picture(mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


KINDS = {
    "plain": picture(),
    "grey": picture("L"),
    "cmyk": picture("CMYK"),
    "progressive": picture(progressive=True),
    "optimised": picture(optimize=True),
    "restarts": picture(restart_marker_rows=1),
    "comment": picture(comment=b"\xff\xd9 no end" * 50),
    "exif": picture(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(300)),
    "4:2:0": picture(subsampling=2),
    "4:4:4": picture(subsampling=0),
}


def look(*images: bytes, between: bytes = b"\xff\xd8\xff") -> list[bool]:
    """Check images that stand in the middle of other bytes."""
    data, starts = bytearray(between), []
    for image in images:
        starts.append(len(data))
        data += image + between
    sizes = np.array([len(image) for image in images], np.int64)
    return look_whole(memoryview(bytes(data)), np.array(starts, np.int64), sizes).tolist()


@pytest.mark.parametrize("name", KINDS)
def test_whole_jpegs_pass(name):
    simplejpeg.decode_jpeg_header(KINDS[name])
    assert look(KINDS[name]) == [True]


def test_many_at_once_as_each_alone():
    images = list(KINDS.values())
    mixed = [part for image in images for part in (image, image[:-1], b"", image[:30])]
    assert look(*mixed) == [i % 4 == 0 for i in range(len(mixed))]
    assert look() == []


def test_other_formats_and_sizes_are_left_to_decoding():
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
    bad = [
        png.getvalue(),
        bytes(huge),
        bytes(empty),
        bytes(deep),
        bytes(components),
        twice,
        no_frame,
    ]
    assert look(*bad) == [False] * len(bad)


def test_every_cut_is_noticed():
    whole = KINDS["exif"]
    assert not any(look(*(whole[:cut] for cut in range(len(whole)))))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_what_passes_has_a_header_for_libjpeg(name, data):
    image = bytearray(KINDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    frame = image.find(b"\xff\xc0")
    if look(bytes(image))[0] and frame > 0:
        height = int.from_bytes(image[frame + 5 : frame + 7], "big")
        width = int.from_bytes(image[frame + 7 : frame + 9], "big")
        found = (height, width)
        with suppress(ValueError):  # sampling factors and tables: decoding alone tells
            found = simplejpeg.decode_jpeg_header(bytes(image))[:2]
        assert found == (height, width)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400))))
def test_any_bytes_are_looked_at_without_leaving_them(data, spans):
    data = b"\xff\xd8" + data + b"\xff\xd9"
    spans = [(a % len(data), min(b, len(data) - a % len(data))) for a, b in spans] + [
        (0, len(data))
    ]
    starts, sizes = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    assert look_whole(memoryview(data), starts, sizes).shape == (len(spans),)
