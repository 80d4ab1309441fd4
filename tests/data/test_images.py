import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.images import INTERPOLATIONS, decode_image, decode_into
from affectnet.errors import ConfigError, DataError

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def encode(pixels: np.ndarray, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_every_format_equals_pillow(form, pixels):
    data = encode(pixels, form)
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, by_pillow(data))
    np.testing.assert_array_equal(decode_image(memoryview(data)), decoded)


def test_channels_come_red_first():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250
    for form in ("JPEG", "PNG"):
        assert np.abs(decode_image(encode(red, form)).mean((0, 1)) - [250, 0, 0]).max() < 3


def test_grey_has_three_equal_channels():
    decoded = decode_image(encode(GREY, "JPEG"))
    assert decoded.shape == (20, 30, 3)
    assert (decoded == decoded[..., :1]).all()


def test_resizes_to_a_square():
    data = encode(COLOUR, "PNG")
    expected = Image.fromarray(COLOUR).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(data, 12), np.asarray(expected))


def test_transparency_palettes_cmyk_and_16_bits():
    rgba = np.dstack([COLOUR, np.full((20, 30), 128, np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(rgba, "PNG")), COLOUR)
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).quantize(256).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), by_pillow(buffer.getvalue()))
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).convert("CMYK").save(buffer, "JPEG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), by_pillow(buffer.getvalue()))
    deep = encode(GREY.astype(np.uint16) * 257, "PNG")
    np.testing.assert_array_equal(decode_image(deep), np.repeat(GREY[..., None], 3, axis=2))


def test_pillow_path_turns_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = decode_image(encode(COLOUR, "PNG", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(COLOUR, -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_cut_images_are_refused(form):
    data = encode(COLOUR, form)
    decode_image(data)
    for keep in (0, 1, 3, 20, len(data) // 2, len(data) - 100):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode_image(data[:keep])


def test_no_image_says_what_is_read():
    with pytest.raises(DataError, match="not a JPEG, PNG"):
        decode_image(b"hello" * 100)


def test_stray_bytes_that_pillow_reads_are_read():
    data = encode(COLOUR, "JPEG")
    np.testing.assert_array_equal(decode_image(data + b"\0" * 50), by_pillow(data))


def test_forged_sizes_take_no_memory():
    jpeg = bytearray(encode(COLOUR, "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xff\xff\xff"
    png = bytearray(encode(COLOUR, "PNG"))
    png[16:24] = b"\x00\x00\xff\xff\x00\x00\xff\xff"
    for forged in (jpeg, png):
        with pytest.raises(DataError):
            decode_image(bytes(forged))


@settings(deadline=None)
@given(st.data())
def test_mutated_images_decode_or_are_data_errors(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"]))
    whole = bytearray(encode(COLOUR, form))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DataError):
        assert decode_image(bytes(whole)).shape[2] == 3


def test_a_face_is_resized_as_the_backbone_asks() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    for name, way in INTERPOLATIONS.items():
        wanted = np.asarray(Image.fromarray(picture).resize((48, 48), way))
        np.testing.assert_array_equal(decode_image(buffer.getvalue(), 48, name), wanted)
        target = np.empty((48, 48, 3), np.uint8)
        decode_into(buffer.getvalue(), target, name)
        np.testing.assert_array_equal(target, wanted)
    with pytest.raises(ConfigError, match="did you mean 'bicubic'"):
        decode_image(buffer.getvalue(), 48, "bicubix")
