"""What a file is, an image or a video: by its first bytes, or quicker by its name."""

import os
import re
import stat
from pathlib import Path
from typing import Final, Literal

from affectnet.errors import DataError

Kind = Literal["image", "video"]

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"}
)
"""Usual endings of the names of image files. `media_kind` decides by the content."""
VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".flv", ".wmv", ".ogv", ".3gp"}
)
"""Those of video files."""
START: Final = 200
"""Number of first bytes that tell what a file is."""

_IMAGE_STARTS: Final = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*"),
)
# Two letters alone would take a text that starts with them for an image.
_SHORT_START: Final = re.compile(
    rb"P[1-6]\s|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL
)
_AVIF: Final = frozenset({b"avif", b"avis"})
_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_VIDEO_STARTS: Final = (
    *(b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"OggS"),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
)


def media_kind(head: bytes) -> Kind | None:
    """Distinguish images and videos by the first 200 bytes; None for anything else.

    By content and not by name: a wrong extension does no harm, and a playlist that names other
    files or addresses is never taken for a video.
    """
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])  # type: ignore[return-value]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "image" if _iso_format(head) else "video"
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "video"
    if head.startswith(_VIDEO_STARTS):
        return "video"
    return "image" if head.startswith(_IMAGE_STARTS) or _SHORT_START.match(head) else None


def is_heic(data: bytes | memoryview) -> bool:
    """Whether an image is HEIC, which needs the package pillow-heif."""
    return _iso_format(bytes(data[:START])) == "HEIF"


def _iso_format(head: bytes) -> Literal["AVIF", "HEIF"] | None:
    """Which kind of image a file of the ISO base media format is; None for videos and others."""
    if head[4:8] != b"ftyp" or head[8:12] not in _AVIF | _HEIF:
        return None
    brands = head[8 : min(int.from_bytes(head[:4], "big"), START)]
    return "AVIF" if any(brand in brands for brand in _AVIF) else "HEIF"


def is_named(path: str | os.PathLike[str], suffixes: frozenset[str]) -> bool:
    """Whether a file has one of the endings, in any case."""
    return os.path.splitext(path)[1].lower() in suffixes  # noqa: PTH122 (for a million)


def kind_of_file(path: str | os.PathLike[str]) -> Kind | None:
    """Return what a file is by its content; None for what is neither, or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (reading a pipe would block)
            return None
        with open(path, "rb") as file:  # noqa: PTH123
            return media_kind(file.read(START))
    except (OSError, ValueError):
        return None


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the ending of an image or else, whatever its name, begins like one."""
    return is_named(path, IMAGE_SUFFIXES) or kind_of_file(path) == "image"


def size_of_file(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        DataError: the file is not regular (reading a pipe could block forever), or empty.
        OSError: it is missing, or must not be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError("it is not a regular file")
    if status.st_size == 0:
        raise DataError("the file is empty")
    return status.st_size
