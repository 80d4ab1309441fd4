"""The decoder: every format, form and orientation, and a reason for each refusal."""

import io
import os
import queue
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from affectnet.data import images
from affectnet.data.file_kinds import media_kind
from affectnet.data.images import (
    INTERPOLATIONS,
    MAX_PIXELS,
    as_face,
    as_pixels,
    decode_image,
    decode_into,
    one_large_at_a_time,
    read_file,
    read_header,
)
from affectnet.data.images import orientation as stated_orientation
from affectnet.errors import ConfigError, DataError

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_every_format_equals_pillow(form, pixels):
    data = encoded(pixels, form)
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, by_pillow(data))
    np.testing.assert_array_equal(decode_image(memoryview(data)), decoded)


def test_channels_come_red_first():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250
    for form in ("JPEG", "PNG"):
        assert np.abs(decode_image(encoded(red, form)).mean((0, 1)) - [250, 0, 0]).max() < 3


def test_grey_has_three_equal_channels():
    decoded = decode_image(encoded(GREY, "JPEG"))
    assert decoded.shape == (20, 30, 3)
    assert (decoded == decoded[..., :1]).all()


def test_resizes_to_a_square():
    data = encoded(COLOUR, "PNG")
    expected = Image.fromarray(COLOUR).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(data, 12), np.asarray(expected))


def test_transparency_palettes_cmyk_and_16_bits():
    rgba = np.dstack([COLOUR, np.full((20, 30), 128, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(rgba, "PNG")), COLOUR)
    colour = Image.fromarray(COLOUR)
    for data in (encoded(colour.quantize(256), "PNG"), encoded(colour.convert("CMYK"), "JPEG")):
        np.testing.assert_array_equal(decode_image(data), by_pillow(data))
    deep = encoded(GREY.astype(np.uint16) * 257, "PNG")
    np.testing.assert_array_equal(decode_image(deep), np.repeat(GREY[..., None], 3, axis=2))


def test_pillow_path_turns_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = decode_image(encoded(COLOUR, "PNG", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(COLOUR, -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_cut_images_are_refused(form):
    data = encoded(COLOUR, form)
    decode_image(data)
    for keep in (0, 1, 3, 20, len(data) // 2, len(data) - 100):
        with pytest.raises(DataError, match=r"cannot be decoded|the file is empty"):
            decode_image(data[:keep])


def test_no_image_says_what_is_read():
    with pytest.raises(DataError, match="not a JPEG, PNG"):
        decode_image(b"hello" * 100)


def test_stray_bytes_that_pillow_reads_are_read():
    data = encoded(COLOUR, "JPEG")
    np.testing.assert_array_equal(decode_image(data + b"\0" * 50), by_pillow(data))


def test_forged_sizes_take_no_memory():
    jpeg = bytearray(encoded(COLOUR, "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xff\xff\xff"
    png = bytearray(encoded(COLOUR, "PNG"))
    png[16:24] = b"\x00\x00\xff\xff\x00\x00\xff\xff"
    for forged in (jpeg, png):
        with pytest.raises(DataError):
            decode_image(bytes(forged))


def test_a_face_is_resized_as_the_backbone_asks() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    data = encoded(image, "PNG")
    for name, method in INTERPOLATIONS.items():
        wanted = np.asarray(image.resize((48, 48), method))
        np.testing.assert_array_equal(decode_image(data, 48, name), wanted)
        target = np.empty((48, 48, 3), np.uint8)
        decode_into(data, target, name)
        np.testing.assert_array_equal(target, wanted)
    with pytest.raises(ConfigError, match="did you mean 'bicubic'"):
        decode_image(data, 48, "bicubix")


def png_of_size(width: int, height: int, kind: int = 2) -> bytes:
    """Return a PNG whose header states a large size, with almost no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


TURNS = {  # EXIF orientation -> how the stored pixels differ from the upright ones
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_respected(photo: np.ndarray, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](photo)))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, quality=95, **lossless)
    assert stated_orientation(data) == orientation
    upright = decode_image(data)
    assert upright.shape == photo.shape
    assert np.abs(upright.astype(int) - photo).mean() < 3
    target = np.empty((280, 280, 3), np.uint8)
    decode_into(data, target)
    np.testing.assert_array_equal(target, decode_image(data, 280))
    small, width, height = as_face(data, 32)
    assert small.shape == (32, 32, 3)
    assert (height, width) == photo.shape[:2]


@pytest.mark.parametrize("size", [None, 48, 300])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels_are_those_that_training_reads(photo: np.ndarray, kind: str, size: int | None):
    data = encoded(Image.fromarray(photo), kind)
    pixels = decode_image(data, size)
    if size is None:
        np.testing.assert_array_equal(as_pixels(data), pixels)
    else:
        np.testing.assert_array_equal(as_face(data, size)[0], pixels)


def test_unusual_images_become_rgb(photo: np.ndarray) -> None:
    image = Image.fromarray(photo)
    grey16 = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    alpha = image.copy()
    alpha.putalpha(128)
    kinds = {
        "cmyk": encoded(image.convert("CMYK"), "JPEG", quality=95),
        "alpha": encoded(alpha, "PNG"),
        "palette": encoded(image.quantize(256), "PNG"),
        "webp": encoded(alpha, "WEBP", lossless=True),
        "tiff cmyk": encoded(image.convert("CMYK"), "TIFF"),
        "bmp": encoded(image, "BMP"),
        "ppm": encoded(image, "PPM"),
    }
    for name, data in kinds.items():
        pixels = decode_image(data)
        assert pixels.shape == photo.shape, name
        assert np.abs(pixels.astype(int) - photo).mean() < 8, name
    for kind in ("PNG", "TIFF"):
        grey = decode_image(encoded(grey16, kind))
        np.testing.assert_array_equal(grey[..., 0], photo[..., 0])
        np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert decode_image(encoded(image.convert("1"), "PNG")).shape == photo.shape
    assert decode_image(encoded(image.resize((1, 1)), "PNG")).shape == (1, 1, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    np.testing.assert_array_equal(decode_image(data)[5, 5], (255, 0, 0))


@pytest.mark.filterwarnings("ignore:Image size:Warning")
@pytest.mark.parametrize("width", [4_000, 20_000, 60_000, 2**31 - 1])
def test_bombs_are_refused_from_the_header(width: int) -> None:
    with pytest.raises(DataError, match=f"at most {MAX_PIXELS:,}"):
        decode_image(png_of_size(width, 20_000))


def test_a_jpeg_of_too_many_scans_is_refused(photo: np.ndarray) -> None:
    data = encoded(Image.fromarray(photo).resize((4000, 4000)), "JPEG", progressive=True)
    assert decode_image(data).shape == (4000, 4000, 3)
    scan = data.index(b"\xff\xda")
    with pytest.raises(DataError, match="too many scans"):
        as_pixels(data[:scan] + data[scan : scan + 20] * 300 + data[scan:])


def with_second_image(first: bytes) -> bytes:
    """The JPEG as phones write it, with the header of a multi-picture file and a second image."""
    frames = [Image.open(io.BytesIO(first)), Image.new("RGB", (8, 8))]
    mpo = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    start = mpo.index(b"MPF\0") - 4
    length = int.from_bytes(mpo[start + 2 : start + 4], "big")
    return first[:2] + mpo[start : start + 2 + length] + first[2:] + encoded(frames[1], "JPEG")


@pytest.mark.parametrize("orientation", TURNS)
def test_a_jpeg_with_a_second_image_is_the_same_picture(photo: np.ndarray, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = encoded(Image.fromarray(photo), "JPEG", exif=exif)
    double = with_second_image(plain)
    assert Image.open(io.BytesIO(double)).format == "MPO"
    assert read_header(double) == read_header(plain)
    np.testing.assert_array_equal(decode_image(double), decode_image(plain))
    for got, wanted in zip(as_face(double, 48), as_face(plain, 48), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_scans_of_a_second_kind_of_jpeg_are_limited_too(photo: np.ndarray) -> None:
    plain = encoded(Image.fromarray(photo).resize((4000, 4000)), "JPEG", progressive=True)
    scan = plain.index(b"\xff\xda")
    for jpeg in (plain, with_second_image(plain)):
        many = jpeg.replace(plain[scan : scan + 20], plain[scan : scan + 20] * 300)
        for read in (decode_image, read_header, lambda data: as_face(data, 48)):
            with pytest.raises(DataError, match="too many scans"):
                read(many)


def test_a_large_tiff_of_random_bytes_has_no_scans() -> None:
    pixels = np.frombuffer(b"\xff\xda" * 6_000_000, np.uint8).reshape(2000, 2000, 3)
    np.testing.assert_array_equal(decode_image(encoded(pixels, "TIFF")), pixels)


def test_floating_point_images_are_refused(photo: np.ndarray) -> None:
    grey = photo[..., 0]
    for pixels in (grey / np.float32(255), grey.astype(np.float32), grey.astype(np.int32)):
        image = Image.fromarray(pixels)
        for given in (encoded(image, "TIFF"), image):
            with pytest.raises(DataError, match="nothing states which number is white"):
                as_pixels(given)


def test_a_16_bit_ppm_is_scaled() -> None:
    data = b"P5 3 1 65535\n" + np.array([0, 128 * 257, 65535], ">u2").tobytes()
    np.testing.assert_array_equal(decode_image(data)[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="no pixels"):
        as_pixels(Image.new("RGB", size))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_and_heic_are_read_upright(photo: np.ndarray, kind: str, orientation: int) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](photo)))
    data = encoded(stored, kind, exif=exif.tobytes(), quality=95)
    assert media_kind(data[:200]) == "image"
    upright = decode_image(data)
    assert upright.shape == photo.shape
    assert np.abs(upright.astype(int) - photo).mean() < 4
    assert as_face(data, 32)[1:] == (280, 330)
    with pytest.raises(DataError, match="cannot be"):
        decode_image(data[: len(data) // 2])


def test_heic_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"HEIC image; `pip install 'affectnet\[heif\]'`"):
        decode_image(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(200))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello", "not a JPEG, PNG"),
        (b"\xff\xd8\xff", "cannot be read|not a JPEG"),
        (png_of_size(100, 100)[:-30], "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(200), "it is a video"),
    ],
)
def test_what_is_not_an_image_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        as_pixels(data)


def test_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    sparse = tmp_path / "huge.jpg"
    with sparse.open("wb") as file:
        file.truncate(10 * 2**30)
    for name, says in (
        ("empty.jpg", "empty"),
        ("pipe.jpg", "not a regular file"),
        ("huge.jpg", "10,240 MB"),
        ("missing.jpg", "No such file"),
        ("a\0b.jpg", "null"),
        (".", "folder"),
    ):
        with pytest.raises(DataError, match=says):
            read_file(tmp_path / name)


def test_a_wrong_extension_does_no_harm(photo_file: Path, photo: np.ndarray, tmp_path: Path):
    file = tmp_path / "photo.png"
    file.write_bytes(photo_file.read_bytes())
    assert as_pixels(str(file)).shape == photo.shape


def test_every_form_gives_the_same_pixels(photo: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(photo)
    data = encoded(image, "PNG")
    (tmp_path / "p.png").write_bytes(data)
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    forms = (photo, image, tensor, data, bytearray(data), memoryview(data), tmp_path / "p.png")
    for form in forms:
        np.testing.assert_array_equal(as_pixels(form), photo)
        np.testing.assert_array_equal(as_face(form, 48)[0], decode_image(data, 48))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((8, 8, 3)), "float64; give uint8"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\); give"),
        (np.zeros((3, 8, 8), np.uint8), "height, width, 3"),
        (np.zeros((8, 8, 4), np.uint8), "height, width, 3"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 8, 8), "float32; give uint8"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "3, height, width"),
        (None, "NoneType"),
        (7, "an image cannot be a int"),
    ],
)
def test_arrays_in_another_form_are_refused(image: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        as_pixels(image)


def mutants(seeds: list[bytes], count: int, seed: int) -> list[bytes]:
    """Return images with bytes changed, removed or repeated, mostly in the header, or cut short."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(rng.integers(1, 9)):
            reach = len(data) if rng.random() < 0.5 else min(len(data), 200)
            at, kind = int(rng.integers(0, max(reach, 1))), rng.integers(0, 5)
            if kind == 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            elif kind == 1:
                data[at : at + 4] = rng.bytes(4)
            elif kind == 2:
                del data[at : at + int(rng.integers(1, 50))]
            elif kind == 3:
                data[at:at] = data[at : at + int(rng.integers(1, 300))]
            elif rng.random() < 0.3:
                del data[at:]
        made.append(bytes(data))
    return made


def seed_images(photo: np.ndarray) -> list[bytes]:
    small = Image.fromarray(photo).resize((70, 82))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(small)[..., 0].astype(np.uint16) * 257)
    kinds = [encoded(small, kind) for kind in ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")]
    return [
        *kinds,
        encoded(small, "JPEG", progressive=True, exif=exif),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "TIFF", compression="tiff_lzw"),
        encoded(grey16, "PNG"),
        encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
    ]


@pytest.mark.parametrize(
    ("count", "seed"), [(360, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size:Warning")
def test_mutated_images_are_read_or_refused(photo: np.ndarray, count: int, seed: int) -> None:
    read = 0
    for data in mutants(seed_images(photo), count, seed):
        assert stated_orientation(data) in range(1, 9)
        for decode in (decode_image, as_pixels):
            try:
                pixels = decode(data)
            except DataError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            read += 1
    assert 0 < read < 2 * count


def test_only_one_large_image_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one waits; small images, and the thread that works on the large one, do not."""
    monkeypatch.setattr(images, "LARGE_PIXELS", 10_000)
    buffers = {side: io.BytesIO() for side in (20, 200)}
    for side, buffer in buffers.items():
        Image.new("RGB", (side, side)).save(buffer, "PNG")
    small, large = (buffers[side].getvalue() for side in (20, 200))
    done: queue.Queue[int] = queue.Queue()

    def decode(data: bytes) -> None:
        done.put(len(decode_image(data)))

    with one_large_at_a_time(large, 10_000):
        assert len(decode_image(large)) == 200
        threads = [threading.Thread(target=decode, args=(data,)) for data in (large, small)]
        for thread in threads:
            thread.start()
        assert done.get(timeout=10) == 20
        assert done.empty()
    assert done.get(timeout=10) == 200
