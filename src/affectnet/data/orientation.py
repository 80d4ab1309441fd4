"""EXIF orientation: reading it from a JPEG, and turning pixels and annotations upright."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NO_MORE_SEGMENTS: Final = (0xDA, 0xD9)  # start of scan, end of image
_EYES, _MOUTH = slice(36, 48), slice(48, 68)


def exif_of_jpeg(data: bytes | memoryview) -> bytes:
    """Return the EXIF segment of a JPEG, b"" where it has none."""
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF and data[at + 1] not in _NO_MORE_SEGMENTS:
        size = 0 if data[at + 1] == 0xFF else (data[at + 2] << 8 | data[at + 3]) + 1
        if data[at + 1] == 0xE1 and bytes(data[at + 4 : at + 10]) == b"Exif\0\0":
            return bytes(data[at + 4 : at + 1 + size])
        at += 1 + size  # 0xFF may be repeated before a marker
    return b""


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels (height, width, 3) upright, as an EXIF orientation from 1 to 8 says."""
    if orientation == 1:
        return pixels
    swap, mirror, flip = turn_steps(orientation)
    turned = pixels.transpose(1, 0, 2) if swap else pixels
    return np.ascontiguousarray(turned[:: -1 if flip else 1, :: -1 if mirror else 1])


def turn_steps(orientation: int) -> tuple[bool, bool, bool]:
    """Return whether x and y are swapped, then x mirrored, then y flipped, to turn upright."""
    return orientation >= 5, orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


def upright_annotations(
    points: NDArray[np.float32] | None,
    box: tuple[float, float, float, float] | None,
    orientation: int,
    upright: tuple[int, int],
) -> tuple[NDArray[np.float32] | None, tuple[float, float, float, float] | None]:
    """Return the landmarks (68, 2) and the box of a face in the frame of the upright image.

    Annotations of an image with an EXIF orientation may be in the frame of its stored pixels or in
    that of the upright image. Landmarks are taken to be in the frame in which the mouth is further
    below the eyes, a box alone in the one of which it covers more; when in doubt, both are in that
    of the upright image, where detectors find faces.

    Args:
        points: landmarks in pixels, pixel centres at whole numbers, or None.
        box: x, y, width and height in pixels, or None.
        orientation: EXIF orientation, 1 to 8.
        upright: width and height of the upright image.
    """
    if orientation == 1:
        return points, box
    swap, mirror, flip = turn_steps(orientation)
    width, height = upright
    turned_points, turned_box = points, box
    if points is not None:
        x, y = (points[:, 1], points[:, 0]) if swap else (points[:, 0], points[:, 1])
        x, y = width - 1 - x if mirror else x, height - 1 - y if flip else y
        turned_points = np.stack([x, y], axis=1).astype(np.float32)
    if box is not None:
        x0, y0, w, h = (box[1], box[0], box[3], box[2]) if swap else box
        turned_box = width - w - x0 if mirror else x0, height - h - y0 if flip else y0, w, h
    if points is not None and turned_points is not None:
        stored = _mouth_below_eyes(turned_points) > _mouth_below_eyes(points)
    else:
        stored = _area_inside(turned_box, upright) > _area_inside(box, upright)
    return (turned_points, turned_box) if stored else (points, box)


def _mouth_below_eyes(points: NDArray[np.float32]) -> float:
    """Return how far the mouth is below the eyes, in pixels."""
    return float(points[_MOUTH, 1].mean() - points[_EYES, 1].mean())


def _area_inside(box: Sequence[float] | None, size: tuple[int, int]) -> float:
    """Return how many pixels of an image of this width and height a box covers."""
    if box is None:
        return 0.0
    sides = [min(box[i] + box[i + 2], size[i]) - max(box[i], 0.0) for i in (0, 1)]
    return max(0.0, sides[0]) * max(0.0, sides[1])
