"""Faces cut out of pictures: square around a box, or with the eyes in fixed places."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from affectnet.errors import DataError

ALIGNMENT: Final = "eyes"
"""What `dataset.json` and a model's `config.json` say of faces that `align` made."""

LEFT_EYE: Final = (0.35, 0.36)
RIGHT_EYE: Final = (0.65, 0.36)
"""Where the centres of the eyes come to lie, as shares of the side from the left upper corner.

Left and right are the viewer's. The eyes of an adult are about 63 mm apart and 118 mm above the
chin, so the chin of a frontal face is near 0.92 and the hairline near the upper border.
"""

_LEFT, _RIGHT = slice(36, 42), slice(42, 48)
_MAX_SIDES = 4.0


def eye_centres(landmarks: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centres of the left and the right eye (the viewer's), each (x, y) in pixels.

    Args:
        landmarks: (68, 2) in the order of the 300-W mark-up, where 36-41 go round one eye and
            42-47 round the other.
    """
    points = np.asarray(landmarks, np.float64).reshape(68, 2)
    return points[_LEFT].mean(axis=0), points[_RIGHT].mean(axis=0)


def align(
    image: NDArray[np.uint8],
    left_eye: Sequence[float] | NDArray[Any],
    right_eye: Sequence[float] | NDArray[Any],
    size: int,
) -> NDArray[np.uint8]:
    """Turn, scale and shift a picture so that the eyes come to `LEFT_EYE` and `RIGHT_EYE`.

    A similarity transform: angles and proportions stay. Bilinear; a picture that shrinks is first
    averaged over blocks of pixels. Beyond its border the picture's last pixels are repeated.

    Args:
        image: RGB (height, width, 3).
        left_eye: centre of the eye on the viewer's left, (x, y) in pixels, pixel centres at whole
            numbers; from `eye_centres`, or a detector's.
        right_eye: the other one's.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: the eyes are no finite numbers, coincide, or are not in the picture.
    """
    return warp(image, alignment(image, left_eye, right_eye, size), size)


def alignment(
    image: NDArray[np.uint8],
    left_eye: Sequence[float] | NDArray[Any],
    right_eye: Sequence[float] | NDArray[Any],
    size: int,
) -> NDArray[np.float64]:
    """Return the transform of `align`, (2, 3): place in the picture -> place in the result.

    Raises:
        DataError: as `align`.
    """
    eyes = np.array([left_eye, right_eye], np.float64).reshape(2, 2)
    height, width = image.shape[:2]
    if not np.isfinite(eyes).all():
        raise DataError("the eyes' places are no finite numbers")
    if (eyes < -0.5).any() or (eyes > (width - 0.5, height - 0.5)).any():
        raise DataError(f"an eye is not in the picture of {width}x{height} pixels")
    (x0, y0), (x1, y1) = eyes.tolist()
    if np.hypot(x1 - x0, y1 - y0) < 1:
        raise DataError("the eyes are less than a pixel apart")
    # As complex numbers a similarity transform is z -> a z + b.
    source = complex(x0, y0), complex(x1, y1)
    half = 0.5 * (1 + 1j)  # pixel centres are whole numbers, shares count from the corner
    target = complex(*LEFT_EYE) * size - half, complex(*RIGHT_EYE) * size - half
    a = (target[1] - target[0]) / (source[1] - source[0])
    b = target[0] - a * source[0]
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_transform(
    image: NDArray[np.uint8], box: Sequence[float], margin: float, size: int
) -> NDArray[np.float64]:
    """Return the transform that cuts out a square around a box, (2, 3).

    The side is the box's longer side plus `margin` of it on either end; the centre is the box's.

    Args:
        image: RGB (height, width, 3).
        box: x, y, width and height in pixels; it may reach out of the picture.
        margin: share of the longer side, above -0.5.
        size: side of the result in pixels.

    Raises:
        DataError: the box has no area, lies outside the picture, or is many times larger.
    """
    x, y, w, h = map(float, box)
    height, width = image.shape[:2]
    shown = f"the box {x:g}, {y:g}, {w:g}, {h:g}"
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise DataError(f"{shown} has no area")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise DataError(f"{shown} is outside the picture of {width}x{height} pixels")
    if max(w, h) > _MAX_SIDES * max(width, height):
        raise DataError(f"{shown} is many times larger than the picture of {width}x{height} pixels")
    side = max(1.0, max(w, h) * (1 + 2 * margin))
    scale = size / side
    left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
    # A pixel's own middle is half a pixel from its corner, before and after.
    return np.array(
        [
            [scale, 0, (0.5 - left) * scale - 0.5],
            [0, scale, (0.5 - top) * scale - 0.5],
        ]
    )


def move_points(points: NDArray[Any], transform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Take points (n, 2) through a transform (2, 3)."""
    moved = np.asarray(points, np.float64).reshape(-1, 2) @ transform[:, :2].T + transform[:, 2]
    return moved.astype(np.float32)


def warp(image: NDArray[np.uint8], transform: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Apply a similarity transform (2, 3), with antialiasing; see `align`.

    Memory goes with the result and the part of the picture that it shows, whatever the scale.

    Returns:
        uint8 (size, size, 3).
    """
    height, width = image.shape[:2]
    back: Any = cv2.invertAffineTransform(transform)
    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], np.float64)
    seen = corners @ back[:, :2].T + back[:, 2]
    shrink = float(np.hypot(*back[:, 0]))
    # Room for the neighbours that interpolation and averaging ask for.
    room = np.ceil(2 * max(shrink, 1.0)) + 1
    low = np.clip(np.floor(seen.min(axis=0) - room), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0) + room), low + 1, (width, height)).astype(int)
    patch: Any = image[low[1] : high[1], low[0] : high[0]]
    to_patch = back.copy()
    to_patch[:, 2] -= low
    if shrink > 1:
        before = np.array(patch.shape[1::-1])
        after = np.maximum(1, np.round(before / shrink)).astype(int)
        patch = cv2.resize(patch, tuple(after.tolist()), interpolation=cv2.INTER_AREA)
        ratio = after / before
        to_patch = to_patch * ratio[:, None]
        to_patch[:, 2] += (ratio - 1) / 2
    result: Any = cv2.warpAffine(
        np.ascontiguousarray(patch),
        to_patch,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(result, np.uint8)
