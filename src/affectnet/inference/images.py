"""Pictures of any origin to upright RGB pixels, or a reason for the refusal."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from affectnet.data.images import MAX_PIXELS, decode_image, resize
from affectnet.errors import DataError

Pixels = NDArray[np.uint8]
"""uint8 RGB, (height, width, 3)."""

FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_FILE_BYTES: Final = 256 * 2**20
"""Larger picture files are refused unread: 64 million pixels need less in any sane encoding."""

MAX_SCAN_PIXELS: Final = 2_000_000_000
"""Scans times pixels of a JPEG. A progressive file has about ten scans; one of thousands, each of a
few bytes, would keep the decoder busy for minutes."""

LARGE: Final = 16_000_000
"""Pictures of more pixels than this are worked on one at a time by `one_large_at_a_time`."""
_large_ones = threading.Lock()

_ORIENTATION: Final = 0x0112
_PICTURE_STARTS: Final = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a"),
    *(b"II*\x00", b"MM\x00*", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)
_VIDEO_STARTS: Final = (
    *(b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"OggS"),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
)

# The pixel limit is checked here before anything is decoded, so Pillow's own warning, at a higher
# number, only repeats it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def kind_of(head: bytes) -> Literal["picture", "video"] | None:
    """Tell a picture from a video by the first bytes (200 are enough); None for anything else.

    By content and not by name: a wrong extension does no harm, and a playlist that names other
    files or addresses is never taken for a video.
    """
    if head[:4] == b"RIFF":
        return {b"WEBP": "picture", b"AVI ": "video"}.get(head[8:12])  # type: ignore[return-value]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return None if head[8:12] in (b"avif", b"heic", b"heix", b"mif1") else "video"
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "video"
    if head.startswith(_VIDEO_STARTS):
        return "video"
    return "picture" if head.startswith(_PICTURE_STARTS) else None


def read_file(path: Path) -> bytes:
    """Read a picture file whole.

    Raises `DataError` where it is missing, no regular file (a pipe would wait for ever), empty or
    over 256 MB.
    """
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise DataError("it is a folder, not a picture")
        if not stat.S_ISREG(about.st_mode):
            raise DataError("it is no regular file")
        if about.st_size == 0:
            raise DataError("the file is empty")
        if about.st_size > MAX_FILE_BYTES:
            raise DataError(
                f"the file has {about.st_size / 2**20:,.0f} MB; pictures are read up to "
                f"{MAX_FILE_BYTES // 2**20} MB"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise DataError(f"the file cannot be read: {error}") from error


def decode_picture(data: bytes, size: int | None = None) -> Pixels:
    """Decode an encoded picture to upright RGB, (size, size, 3) where a size is given.

    The pixels are those of `affectnet.data.images.decode_image`, which training and evaluation
    read, save that a JPEG is turned as its EXIF orientation says. Of an animation the first frame
    is read; transparency is dropped; 16 bits become 8.

    Raises `DataError` with the reason, before memory is taken for the pixels where there are too
    many of them.
    """
    return _decode(data, look_at_header(data), size)


def decode_face(data: bytes, size: int, interpolation: str = "bilinear") -> tuple[Pixels, int, int]:
    """Decode a picture that is one face to (size, size, 3), as `decode_picture` does.

    Returns the pixels, and the width and height of the whole upright picture.
    """
    header = look_at_header(data)
    if header.kind == "JPEG":
        # Resized while decoding, as in training; the header tells how large it was.
        turned = header.orientation >= 5
        width, height = header.width, header.height
        pixels = _decode(data, header, size, interpolation)
        return (pixels, height, width) if turned else (pixels, width, height)
    whole = _decode(data, header, None)
    return resize(whole, size, interpolation), whole.shape[1], whole.shape[0]


def _decode(
    data: bytes, header: "Header", size: int | None, interpolation: str = "bilinear"
) -> Pixels:
    decode = _decode_turned_jpeg if header.orientation > 1 else decode_image
    return decode(data, size, interpolation)


@contextmanager
def one_large_at_a_time(picture: Any) -> Iterator[None]:
    """Let only one thread at a time work on a large encoded picture.

    Decoders take several times the memory of the pixels; eight threads with 64 million pixels each
    would take 4 GB. Raises `DataError` as `decode_picture` where the header cannot be read.
    """
    header = look_at_header(picture) if isinstance(picture, bytes) else None
    large = header is not None and header.width * header.height > LARGE
    with _large_ones if large else nullcontext():
        yield


def as_pixels(picture: Any, size: int | None = None) -> Pixels:
    """Turn whatever a caller holds into upright RGB pixels, (size, size, 3) where a size is given.

    Args:
        picture: a path; encoded bytes; a `PIL.Image.Image`; a NumPy array uint8 (height, width, 3)
            in RGB order; a torch tensor uint8 (3, height, width) in RGB order.

    Raises `DataError` for anything else, so that neither a float image in an unknown range nor a
    wrong axis order passes in silence. RGB and BGR cannot be told apart: arrays of OpenCV need
    `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)` first.
    """
    if isinstance(picture, str | os.PathLike):
        return decode_picture(read_file(Path(picture)), size)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode_picture(bytes(picture), size)
    if isinstance(picture, Image.Image):
        pixels = _of_pillow(picture)
    elif isinstance(picture, np.ndarray):
        pixels = _of_array(picture, "array", "(height, width, 3)", channels=2)
    elif is_tensor(picture):
        array = picture.detach().cpu().numpy()
        chw = _of_array(array, "tensor", "(3, height, width)", channels=0)
        pixels = np.ascontiguousarray(chw.transpose(1, 2, 0))
    else:
        raise DataError(
            f"a picture cannot be a {type(picture).__name__}; give a path, encoded bytes, a PIL "
            "image, a uint8 RGB array (height, width, 3) or a uint8 RGB tensor (3, height, width)"
        )
    return pixels if size is None else resize(pixels, size)


def as_face(picture: Any, size: int, interpolation: str = "bilinear") -> tuple[Pixels, int, int]:
    """Turn a picture that is one face, in any form `as_pixels` takes, to (size, size, 3).

    Returns the pixels, and the width and height of the whole upright picture.
    """
    if isinstance(picture, str | os.PathLike):
        return decode_face(read_file(Path(picture)), size, interpolation)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode_face(bytes(picture), size, interpolation)
    pixels = as_pixels(picture)
    return resize(pixels, size, interpolation), pixels.shape[1], pixels.shape[0]


def shrink(pixels: Pixels, largest: int) -> Pixels:
    """Return the picture with a long side of `largest` at most."""
    height, width = pixels.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Any = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # makes no copy before
    return np.asarray(small)


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor, asked without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


class Header(NamedTuple):
    """What a picture's header says: its format, its sides as stored, and how a JPEG is turned."""

    kind: str
    width: int
    height: int
    orientation: int
    """EXIF orientation, 1 to 8; 1 for everything but JPEG, which is turned while it is decoded."""


def look_at_header(data: bytes) -> Header:
    """Read a picture's header; raises `DataError` for what shall not be decoded."""
    if len(data) == 0:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind, (width, height) = str(image.format), image.size
            orientation = 1
            if kind == "JPEG" and "exif" in image.info:
                orientation = image.getexif().get(_ORIENTATION, 1)
    except Image.DecompressionBombError:
        raise DataError(
            f"the picture is far too large; at most {MAX_PIXELS:,} pixels are read"
        ) from None
    except Exception as error:  # Pillow's parsers raise whatever they stumble upon
        reason = " ".join(str(error).split())
        if kind_of(data[:200]) == "video":
            reason = "it is a video"
        elif not reason or "cannot identify image file" in reason:
            reason = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise DataError(f"the picture cannot be read: {reason}") from error
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the picture has {width}x{height} pixels; at most {MAX_PIXELS:,} pixels are read"
        )
    if kind == "JPEG" and data.count(b"\xff\xda") * width * height > MAX_SCAN_PIXELS:
        raise DataError("the JPEG has too many scans for its size; save it again as a plain JPEG")
    return Header(kind, width, height, orientation if orientation in range(2, 9) else 1)


def _decode_turned_jpeg(data: bytes, size: int | None, interpolation: str) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise DataError(f"the picture cannot be decoded: {reason}") from error
    return pixels if size is None else resize(pixels, size, interpolation)


def _of_pillow(image: Image.Image) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"the picture has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} "
            "pixels are read"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # a lazy image is decoded only now
        raise DataError(f"the picture cannot be decoded: {error}") from error


def _of_array(array: NDArray[Any], what: str, shape: str, channels: int) -> Pixels:
    if array.dtype != np.uint8:
        raise DataError(f"the {what} is {array.dtype}; give uint8, 0 to 255, RGB, of shape {shape}")
    if array.ndim != 3 or array.shape[channels] != 3:
        raise DataError(
            f"the {what} has the shape {tuple(array.shape)}; give uint8 RGB of shape {shape}"
        )
    if array.size == 0:
        raise DataError(f"the {what} has no pixels: its shape is {tuple(array.shape)}")
    if array.size // 3 > MAX_PIXELS:
        raise DataError(
            f"the {what} has {array.size // 3:,} pixels; at most {MAX_PIXELS:,} are taken"
        )
    return np.ascontiguousarray(array)
