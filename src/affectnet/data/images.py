"""Encoded image bytes to RGB pixels, and the check that they are whole."""

import io
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from affectnet.errors import ConfigError, DataError, suggest

MAX_PIXELS = 64_000_000
"""Larger images are refused before any memory is taken: a forged header must not cost 10 GB."""

_CMYK = ("CMYK", "YCCK")
"""Colour spaces left to Pillow: inverted or not, as an Adobe marker says, which it reads."""

INTERPOLATIONS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""How a picture is resized, by timm's names."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def decode_image(
    data: bytes | memoryview, size: int | None = None, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """Decode an encoded image to RGB.

    Plain JPEG goes through libjpeg-turbo, everything else through Pillow, which also turns the
    picture as its EXIF orientation says. Grey images get three equal channels; transparency is
    dropped. The interpreter lock is released while JPEGs are decoded, so threads help.

    Args:
        data: the encoded image; a memoryview is not copied on the JPEG path.
        size: when given, the result is resized to a square of this side, with antialiasing. A
            JPEG of four times the side or more is first decoded at a half, quarter
            or eighth of its size, never below twice the side, which costs a fraction of the time.
        interpolation: of the resizing, one of `INTERPOLATIONS`.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DataError: the bytes are no image, are cut short, or hold over 64 million pixels.
    """
    pixels = _decode_jpeg(data, 2 * size if size else 0)
    if pixels is None:
        pixels = _decode_with_pillow(data)
    return pixels if size is None else resize(pixels, size, interpolation)


def resize(
    pixels: NDArray[np.uint8], size: int, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """Resize RGB pixels to (size, size, 3), with antialiasing; as they are where they fit.

    Raises:
        ConfigError: the interpolation is none of `INTERPOLATIONS`.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(
            f"the interpolation is '{interpolation}'{suggest(interpolation, INTERPOLATIONS)}; "
            f"it may be {', '.join(INTERPOLATIONS)}"
        )
    way = INTERPOLATIONS[interpolation]
    return np.asarray(Image.fromarray(pixels).resize((size, size), way))


def decode_into(
    data: bytes | memoryview, target: NDArray[np.uint8], interpolation: str = "bilinear"
) -> None:
    """Decode as `decode_image` does, into an array: uint8 (size, size, 3), contiguous.

    A JPEG that has this size already, the usual case, is decoded without an array in between.

    Raises:
        DataError: as `decode_image`; the array then holds anything.
    """
    size = len(target)
    if bytes(data[:2]) == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height == width == size and colours not in _CMYK:
                simplejpeg.decode_jpeg(data, "RGB", buffer=target)
                return
        except ValueError:  # let Pillow have its try
            pass
    target[:] = decode_image(data, size, interpolation)


def _decode_jpeg(data: bytes | memoryview, least: int) -> NDArray[np.uint8] | None:
    """Return RGB pixels, or None where libjpeg-turbo declines and Pillow shall have its try.

    Above 0, `least` lets the decoder shrink the image while both its sides stay at least as long.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            raise _too_large(width, height)
        if colours in _CMYK:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_height=least, min_width=least
        )
    except ValueError:  # also mere warnings, such as stray bytes between markers
        return None
    return pixels


def _decode_with_pillow(data: bytes | memoryview) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(image.width, image.height)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):  # Pillow would clip 16 bits instead of scaling
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            # `convert` copies even where there is nothing to do, and large photos are 192 MB.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing stumbled upon
        reason = " ".join(str(error).split())
        if "cannot identify image file" in reason:
            reason = f"not a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image"
        raise DataError(f"the image cannot be decoded: {reason}") from error


def looks_whole(data: memoryview) -> bool:
    """Whether this is a JPEG with a sound header of a readable size, and its end marker.

    Takes 3 microseconds and sees no damage in between: False means only that decoding has to tell.
    """
    if data[-2:].tobytes() != b"\xff\xd9" or data[:2].tobytes() != b"\xff\xd8":
        return False
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return bool(0 < height * width <= MAX_PIXELS)


def count_pixels(data: memoryview) -> int:
    """Return width times height as the header has it, without decoding; 0 where it has none."""
    try:
        if bytes(data[:2]) == b"\xff\xd8":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        else:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
    except Exception:  # whatever is wrong, decoding will say it
        return 0
    return int(height) * int(width)


def _too_large(width: int, height: int) -> DataError:
    return DataError(
        f"the image is {width}x{height} pixels; at most {MAX_PIXELS:,} pixels are read"
    )
