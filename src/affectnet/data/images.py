"""Images of any origin to RGB pixels: the one decoder of ingest, training, audit and prediction."""

import base64
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from affectnet.data.file_kinds import START, is_heic, media_kind, size_of_file
from affectnet.data.orientation import exif_of_jpeg, turn
from affectnet.errors import DataError, check_choice

Pixels = NDArray[np.uint8]
"""uint8 RGB, (height, width, 3)."""

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused before any memory is taken: a forged header must not cost 10 GB."""

MAX_FILE_BYTES: Final = 256 * 2**20
"""Larger image files are refused unread: no common encoding of 64 million pixels needs more."""

MAX_SCAN_PIXELS: Final = 2_000_000_000
"""Limit of a JPEG's scans times its pixels. A progressive file has about ten scans; one with
thousands of scans of a few bytes each would keep the decoder busy for minutes."""

_SCAN_BYTES: Final = 10
"""Length of the shortest header of a scan."""

LARGE_PIXELS: Final = 16_000_000
"""Only one thread at a time decodes an image with more pixels than this."""
_large_lock = threading.RLock()

INTERPOLATIONS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Methods of resizing, by timm's names."""

FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")
"""By Pillow's names; HEIF, as phones write it (.heic), needs the package pillow-heif."""

_CMYK: Final = ("CMYK", "YCCK")
"""Colour spaces left to Pillow, which reads in an Adobe marker whether they are inverted."""

_ORIENTATION: Final = 0x0112
_EXIF_MARKS: Final = (
    b"eXIf",
    b"EXIF",
    b"exif",
    b"tiff:Or",
    b"irot",
    b"imir",
    b"\x12\x01",
    b"\x01\x12",
)
"""Bytes without one of which no image, JPEGs aside, states an orientation."""

# This module checks the pixel limit before it decodes anything, so Pillow's own warning, at a
# higher number, only repeats it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Pillow allocates large images in blocks. The C library returns blocks of more than 32 MB to the
# system at once; smaller ones stay with the thread, so that many threads keep a gigabyte.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]


def resize(pixels: Pixels, size: int, interpolation: str = "bilinear") -> Pixels:
    """Resize to (size, size, 3), with antialiasing; pixels of this size are returned unchanged.

    Raises:
        ConfigError: the interpolation is not one of `INTERPOLATIONS`.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    method = INTERPOLATIONS[interpolation]
    return np.asarray(Image.fromarray(pixels).resize((size, size), method))


Resize = Callable[[Pixels, int, str], Pixels]
"""A function that resizes as `resize` does."""


def decode_image(
    data: bytes | memoryview,
    size: int | None = None,
    interpolation: str = "bilinear",
    resize: Resize = resize,
) -> Pixels:
    """Decode an encoded image to RGB, upright: turned as its EXIF orientation says.

    libjpeg-turbo decodes plain JPEG, Pillow everything else. Grey images get three equal channels,
    transparency is dropped, 16 bits become 8, and only the first frame of an animation is read.
    The interpreter lock is released while JPEGs are decoded, so threads help.

    Args:
        data: the encoded image; a memoryview is not copied on the JPEG path.
        size: when given, the result is resized to a square of this side, with antialiasing. A
            JPEG of four times the side or more is first decoded at a half, quarter
            or eighth of its size, never below twice the side, which costs a fraction of the time.
        interpolation: of the resizing, one of `INTERPOLATIONS`.
        resize: another implementation of `resize`.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DataError: the bytes are not an image, are cut short, or hold over 64 million pixels.
    """
    pixels = _decode_jpeg(data, 2 * size if size else 0)
    if pixels is None:
        try:
            with _open(data) as image, _one_large(image.width * image.height):
                pixels = _pixels_of_pillow(image, in_place=True)
        except Exception as error:
            raise _refusal("decoded", error, data) from error
    return pixels if size is None else resize(pixels, size, interpolation)


def decode_into(
    data: bytes | memoryview,
    target: Pixels,
    interpolation: str = "bilinear",
    resize: Resize = resize,
) -> None:
    """Decode as `decode_image` does, into an array: uint8 (size, size, 3), contiguous.

    A JPEG that has this size already, the usual case, is decoded without an array in between.

    Raises:
        DataError: as `decode_image`; the content of the array is then undefined.
    """
    size = len(target)
    header = jpeg_header(data)
    plain = header is not None and header[:2] == (size, size) and header[2] not in _CMYK
    if plain and orientation(data) == 1:
        _check_scans(data, size * size)
        try:
            simplejpeg.decode_jpeg(data, "RGB", buffer=target)
            return
        except ValueError:  # Pillow may still decode it
            pass
    target[:] = decode_image(data, size, interpolation, resize)


GREY: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def brightness(image: NDArray[np.uint8]) -> float:
    """Mean grey value of an RGB image (H, W, 3), in [0, 1]."""
    return float((image @ GREY).mean() / 255)


def sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an RGB image's grey values, which are in [0, 255].

    Low for blurred images (Pech-Pacheco et al., 2000). It grows with the size of the image, so
    compare images of one size only; 0 where a side is under three pixels.
    """
    grey = image @ GREY
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * middle).var())


def _decode_jpeg(data: bytes | memoryview, min_side: int) -> Pixels | None:
    """Return upright RGB pixels, or None where Pillow has to decode.

    Above 0, `min_side` lets the decoder shrink the image while both sides stay at least as long.
    """
    header = jpeg_header(data)
    if header is None:
        return None
    height, width, colours = header
    _check_size(width, height)
    _check_scans(data, width * height)
    if colours in _CMYK:
        return None
    try:
        with _one_large(width * height):
            pixels: Pixels = simplejpeg.decode_jpeg(
                data, "RGB", min_height=min_side, min_width=min_side
            )
    except ValueError:  # also mere warnings, such as stray bytes between markers
        return None
    return turn(pixels, orientation(data))


def orientation(data: bytes | memoryview) -> int:
    """Return the EXIF orientation of an encoded image, 1 (upright) to 8; 1 where it has none.

    Takes 2 microseconds for a JPEG without EXIF data. Damaged EXIF data count as none.
    """
    exif = Image.Exif()
    try:
        if bytes(data[:2]) == b"\xff\xd8":
            exif.load(exif_of_jpeg(data))
        elif any(mark in bytes(data) for mark in _EXIF_MARKS):
            with _open(data) as image:
                exif = image.getexif()
        stated = exif.get(_ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise exceptions of any class; decoding reports damage
        return 1
    return stated if stated in range(2, 9) else 1


def _pixels_of_pillow(image: Image.Image, *, in_place: bool) -> Pixels:
    """Return the upright RGB pixels; `in_place` may change the image, which saves a copy."""
    _check_size(image.width, image.height)
    image.load()
    if in_place:
        ImageOps.exif_transpose(image, in_place=True)
    else:
        image = ImageOps.exif_transpose(image)
    # Pillow would clip 16 bits instead of scaling; its PPM reader has 16 bits in 32.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        numbers = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise DataError(
            f"its pixels are {numbers}, and nothing states which number is white; save it with 8 "
            "or 16 bits per channel"
        )
    # `convert` copies even where there is nothing to do, and large photos are 192 MB.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _open(data: bytes | memoryview) -> Image.Image:
    """Open with Pillow, which reads only the header; the size and the scans are checked.

    Raises `DataError` for no bytes, too many pixels or scans, and for HEIC without pillow-heif;
    Pillow's own errors are of any class.
    """
    if len(data) == 0:
        raise DataError("the file is empty")
    heif = is_heic(data)
    if heif:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise DataError(
                "it is a HEIC image; `pip install 'affectnet[heif]'` makes it readable, or save "
                "it as a JPEG"
            ) from None
        register_heif_opener()
    image = Image.open(io.BytesIO(data), formats=["HEIF"] if heif else FORMATS[:-1])
    _check_size(image.width, image.height)
    # By the bytes: Pillow calls a JPEG with a second image MPO, and a TIFF can contain a JPEG.
    if data[:2] == b"\xff\xd8" or "jpeg" in str(image.info.get("compression")):
        _check_scans(data, image.width * image.height)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the image has {width}x{height} pixels; at most {MAX_PIXELS:,} pixels are read"
        )
    if width * height == 0:
        raise DataError(f"the image has no pixels: its size is {width}x{height}")


def _check_scans(data: bytes | memoryview, pixels: int) -> None:
    """Raise `DataError` for a JPEG with too many scans; quick for small files."""
    if len(data) // _SCAN_BYTES * pixels <= MAX_SCAN_PIXELS:
        return
    if bytes(data).count(b"\xff\xda") * pixels > MAX_SCAN_PIXELS:
        raise DataError("the JPEG has too many scans for its size; save it again as a plain JPEG")


def _refusal(verb: str, error: Exception, data: bytes | memoryview = b"") -> DataError:
    """Return the error to raise for one of Pillow, whose parsers raise exceptions of any class."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"the image is far too large; at most {MAX_PIXELS:,} pixels are read")
    reason = " ".join(str(error).split())
    if media_kind(bytes(data[:START])) == "video":
        reason = "it is a video"
    elif not reason or "cannot identify image file" in reason:
        reason = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    return DataError(f"the image cannot be {verb}: {reason}")


class ImageHeader(NamedTuple):
    """The facts in an image's header; width and height are those of the stored pixels."""

    format: str
    """One of `FORMATS`; JPEG also for the files with several images that Pillow calls MPO."""
    width: int
    height: int
    orientation: int
    """EXIF orientation, 1 to 8; 1 for formats other than JPEG, where Pillow turns the pixels."""
    grey: bool
    """Whether one channel is stored, besides transparency."""


def read_header(data: bytes | memoryview) -> ImageHeader:
    """Read an image's header without decoding.

    Raises:
        DataError: the bytes are not an image, it has over 64 million pixels, or it is a JPEG with
            too many scans.
    """
    try:
        with _open(data) as image:
            jpeg = data[:2] == b"\xff\xd8"
            kind, (width, height) = "JPEG" if jpeg else str(image.format), image.size
            grey = image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F")
    except Exception as error:
        raise _refusal("read", error, data) from error
    return ImageHeader(kind, width, height, orientation(data) if jpeg else 1, grey)


def jpeg_header(data: bytes | memoryview) -> tuple[int, int, str] | None:
    """Return a JPEG's height, width and colour space ("Gray" for one channel), in 3 microseconds.

    None where the bytes are not a JPEG or its header is damaged.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return height, width, colours


def data_uri(
    image: NDArray[np.uint8] | Image.Image, kind: Literal["jpeg", "webp"], quality: int
) -> str:
    """Encode an image, uint8 (h, w, 3) or of Pillow, as a `data:` URI for an HTML page."""
    buffer = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(buffer, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_complete_jpeg(data: memoryview) -> bool:
    """Whether this is a JPEG with a valid header, a readable size and its end marker.

    Takes 3 microseconds and misses damage in between. False means only that decoding has to decide.
    """
    header = jpeg_header(data) if data[-2:].tobytes() == b"\xff\xd9" else None
    return header is not None and 0 < header[0] * header[1] <= MAX_PIXELS


def count_pixels(data: memoryview) -> int:
    """Return width times height from the header, without decoding; 0 where it cannot be read."""
    header = jpeg_header(data)
    if header is not None:
        return header[0] * header[1]
    try:
        with _open(data) as image:
            return image.width * image.height
    except Exception:  # decoding reports what is wrong
        return 0


def read_file(path: Path) -> bytes:
    """Read an image file whole.

    Raises:
        DataError: the file is missing, not regular (reading a pipe could block forever), empty, or
            over 256 MB.
    """
    try:
        if path.is_dir():
            os.listdir(path)  # noqa: PTH208 (raises for a folder that must not be read)
            raise DataError("it is a folder, not an image")
        size = size_of_file(path)
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"the file has {size / 2**20:,.0f} MB; images are read up to "
                f"{MAX_FILE_BYTES // 2**20} MB"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise DataError(f"the file cannot be read: {error}") from error


@contextmanager
def one_large_at_a_time(image: Any, above: int | None = None) -> Iterator[None]:
    """Let only one thread at a time work on an encoded image of more than `above` pixels.

    Above `LARGE_PIXELS` where None. Decoders take several times the memory of the pixels; eight
    threads with 64 million pixels each would take 4 GB. Decoding itself waits in any case; callers
    use this where they keep the pixels.
    """
    encoded = isinstance(image, bytes | bytearray | memoryview)
    with _one_large(count_pixels(memoryview(image)) if encoded else 0, above):
        yield


def _one_large(pixels: int, above: int | None = None) -> AbstractContextManager[object]:
    return _large_lock if pixels > (above or LARGE_PIXELS) else nullcontext()


def as_pixels(image: Any) -> Pixels:
    """Turn an image in any of these forms into upright RGB pixels.

    Args:
        image: a path; encoded bytes; a file object; a `PIL.Image.Image`; a NumPy array uint8
            (height, width, 3) in RGB order; a torch tensor uint8 (3, height, width) in RGB order.

    Raises:
        DataError: anything else, so that neither a float image in an unknown range nor a wrong
            axis order goes unnoticed. RGB and BGR cannot be distinguished: arrays of OpenCV need
            `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)` first.
    """
    data = encoded(image)
    if data is not None:
        return decode_image(data)
    if isinstance(image, Image.Image):
        try:  # a lazy image is decoded only now
            return _pixels_of_pillow(image, in_place=False)
        except Exception as error:
            raise _refusal("decoded", error) from error
    if isinstance(image, np.ndarray):
        return _pixels_of_array(image, "array", "(height, width, 3)", channels=2)
    if is_tensor(image):
        array = image.detach().cpu().numpy()
        chw = _pixels_of_array(array, "tensor", "(3, height, width)", channels=0)
        return np.ascontiguousarray(chw.transpose(1, 2, 0))
    raise DataError(
        f"an image cannot be a {type(image).__name__}; give a path, encoded bytes, a file object, "
        "a PIL image, a uint8 RGB array (height, width, 3) or a uint8 RGB tensor (3, height, width)"
    )


def as_face(image: Any, size: int, interpolation: str = "bilinear") -> tuple[Pixels, int, int]:
    """Turn an image of one face, in any form that `as_pixels` takes, into (size, size, 3).

    Returns the pixels, and the width and height of the whole upright image.
    """
    data = encoded(image)
    header = None if data is None else read_header(data)
    if data is not None and header is not None and header.format == "JPEG":
        # Resized while decoding, as in training; the header states the original size.
        pixels = decode_image(data, size, interpolation)
        width, height = header.width, header.height
        return (pixels, height, width) if header.orientation >= 5 else (pixels, width, height)
    whole = as_pixels(image) if data is None else decode_image(data)
    return resize(whole, size, interpolation), whole.shape[1], whole.shape[0]


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor, without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def encoded(image: Any) -> bytes | None:
    """Return the encoded bytes of a path, a file object or bytes; None for pixels of any kind.

    Raises `DataError` for a file that `read_file` refuses, and a file object that is closed, opened
    as text, or longer than 256 MB.
    """
    if isinstance(image, str | os.PathLike):
        return read_file(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not is_file_object(image):
        return None
    try:
        data = image.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise DataError("the file object does not return bytes; open it in binary mode: 'rb'")
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"the file has more than {MAX_FILE_BYTES // 2**20} MB")
    return data


def is_file_object(value: Any) -> bool:
    """Whether it is an open file, a `BytesIO` or another object with a method `read`."""
    return callable(getattr(value, "read", None))


def _pixels_of_array(array: NDArray[Any], kind: str, shape: str, channels: int) -> Pixels:
    if array.dtype != np.uint8:
        raise DataError(f"the {kind} is {array.dtype}; give uint8, 0 to 255, RGB, of shape {shape}")
    if array.ndim != 3 or array.shape[channels] != 3:
        raise DataError(
            f"the {kind} has the shape {tuple(array.shape)}; give uint8 RGB of shape {shape}"
        )
    if array.size == 0:
        raise DataError(f"the {kind} has no pixels: its shape is {tuple(array.shape)}")
    if array.size // 3 > MAX_PIXELS:
        raise DataError(
            f"the {kind} has {array.size // 3:,} pixels; at most {MAX_PIXELS:,} are accepted"
        )
    return np.ascontiguousarray(array)
