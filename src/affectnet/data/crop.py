"""Faces cropped from images: a square around a box, or the eyes in fixed places.

Ingest and prediction both crop with `crop_face`. Ingest also moves the landmarks, by the transform
of the same crop (`crop_transform` or `alignment`).
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.images import INTERPOLATIONS, Pixels, resize
from affectnet.errors import DataError

ALIGNMENT: Final = "eyes"
"""Value of `alignment` in `dataset.json` and a model's `config.json` for faces made by `align`."""

DEFAULT_MARGIN: Final = 0.1
"""Fraction of the box's longer side added on each side where no other margin is given."""

LEFT_EYE: Final = (0.35, 0.36)
RIGHT_EYE: Final = (0.65, 0.36)
"""Places of the eye centres in an aligned face, as fractions of the side from the top left corner.

Left and right are the viewer's. The eyes of an adult are about 63 mm apart and 118 mm above the
chin, so the chin of a frontal face is near 0.92 and the hairline near the top edge.
"""

_LEFT, _RIGHT = slice(36, 42), slice(42, 48)
_MAX_SIDES = 4.0
_DIGITS = 3  # decimals of a pixel; hides rounding errors, which would add a row of pixels
_GAP = 4.0  # a square is averaged down to no fewer than this many times the size before resizing


class Box(NamedTuple):
    """A rectangle in pixels of the upright image; x and y are its top left corner."""

    x: float
    y: float
    width: float
    height: float


Landmarks = tuple[tuple[float, float], ...]
"""Five (x, y) in pixels: right eye, left eye, nose tip, right and left corner of the mouth; right
and left are the person's own."""


def as_boxes(boxes: Any) -> list[Box]:
    """Convert numbers of shape (n, 4) to boxes; raises `DataError` for another shape."""
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        array = np.empty(())
    if array.shape == (0,):
        return []
    if array.ndim != 2 or array.shape[1] != 4:
        raise DataError(
            "the boxes must be numbers of shape (n, 4): x, y, width, height in pixels for each face"
        )
    return [Box(*map(float, row)) for row in array]


def _check_box(box: Sequence[float], image: Pixels) -> Box:
    x, y, w, h = map(float, box)
    height, width = image.shape[:2]
    name = f"the box {x:g}, {y:g}, {w:g}, {h:g}"
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise DataError(
            f"{name} has no area; give x, y, width, height in pixels, both sides above 0"
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise DataError(f"{name} is outside the image of {width}x{height} pixels")
    if max(w, h) > _MAX_SIDES * max(width, height):
        raise DataError(f"{name} is many times larger than the image of {width}x{height} pixels")
    return Box(x, y, w, h)


def crop_face(
    image: Pixels,
    box: Sequence[float] | None,
    size: int,
    *,
    margin: float = DEFAULT_MARGIN,
    landmarks: Sequence[Sequence[float] | NDArray[Any]] | None = None,
    alignment: str | None = None,
    interpolation: str = "bilinear",
    face_size: int | None = None,
) -> Pixels:
    """Crop a face as a square and resize it as training does.

    The side is the box's longer side plus `margin` of it on either end; the centre is the box's.
    Where the square leaves the image, the image's border is repeated. Fractions of a pixel count.

    Args:
        image: RGB (height, width, 3).
        box: around the face; it may extend beyond the image. Not used with an alignment.
        size: side of the result in pixels.
        margin: fraction of the longer side added on each side, above -0.5.
        landmarks: needed for an alignment: the eye on the viewer's left, the other eye, and more
            points that are not used, as of `Landmarks`.
        alignment: None, or `ALIGNMENT` ("eyes"): both eyes are moved to `LEFT_EYE` and `RIGHT_EYE`
            and the box is not used. (YuNet's points follow a tilt only in part where a face is
            small: 24 of 30 degrees for a face of 300 pixels, 4 of 30 for one of 100.)
        interpolation: of the resizing, as in `decode_image`.
        face_size: side of the faces that ingest stored for training, where it cropped them. The
            face is cropped at this size and then resized to `size`, as in training.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: the box has no area, lies outside the image or is many times larger, or
            landmarks are needed and missing or cannot be used.
    """
    if face_size is not None:
        face = crop_face(
            image, box, face_size, margin=margin, landmarks=landmarks, alignment=alignment
        )
        return resize(face, size, interpolation)
    if alignment is not None:
        if alignment != ALIGNMENT:
            raise DataError(f"alignment {alignment!r} is not known; upgrade affectnet")
        if landmarks is None:
            raise DataError(
                "this model needs faces aligned by their eyes, and a box does not say where they "
                "are; let the faces be detected, or give faces that are aligned already"
            )
        return align(image, landmarks[0], landmarks[1], size)
    if box is None:
        raise DataError("no box")
    left, top, side = _square(image, box, margin)
    return _resized_square(image, left, top, side, size, interpolation)


def _square(image: Pixels, box: Sequence[float], margin: float) -> tuple[float, float, float]:
    """Return the left edge, the top edge and the side of the square to crop, in pixels."""
    x, y, width, height = _check_box(box, image)
    side = max(1.0, round(max(width, height) * (1 + 2 * margin), _DIGITS))
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    return round(left, _DIGITS), round(top, _DIGITS), side


def _resized_square(
    image: Pixels, left: float, top: float, side: float, size: int, interpolation: str
) -> Pixels:
    """Resize a square of the image, of which only the pixels inside count, with antialiasing."""
    height, width = image.shape[:2]
    x0, y0 = min(max(math.floor(left), 0), width - 1), min(max(math.floor(top), 0), height - 1)
    x1, y1 = min(max(math.ceil(left + side), 1), width), min(max(math.ceil(top + side), 1), height)
    inner = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    left, top = left - x0, top - y0
    factor = int(side / (_GAP * size))
    if factor > 1:  # averaging whole pixels first saves time and, before the padding, memory
        inner = inner.reduce(factor)
        left, top, side = left / factor, top / factor, side / factor
    pads = [
        (max(0, math.ceil(-start)), max(0, math.ceil(start + side - length)))
        for start, length in ((top, inner.height), (left, inner.width))
    ]
    if any(map(any, pads)):
        inner = Image.fromarray(np.pad(np.asarray(inner), [*pads, (0, 0)], mode="edge"))
    left, top = left + pads[1][0], top + pads[0][0]
    right, bottom = min(left + side, inner.width), min(top + side, inner.height)
    method = INTERPOLATIONS[interpolation]
    return np.asarray(inner.resize((size, size), method, box=(left, top, right, bottom)))


def shrink(image: Pixels, largest: int) -> Pixels:
    """Return the image with a long side of at most `largest` pixels."""
    height, width = image.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # makes no copy before
    return np.asarray(small)


def eye_centres(landmarks: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centres of the left and the right eye (the viewer's), each (x, y) in pixels.

    Args:
        landmarks: (68, 2) in the order of the 300-W mark-up, where 36-41 are one eye and 42-47 the
            other.
    """
    points = np.asarray(landmarks, np.float64).reshape(68, 2)
    return points[_LEFT].mean(axis=0), points[_RIGHT].mean(axis=0)


def align(
    image: Pixels,
    left_eye: Sequence[float] | NDArray[Any],
    right_eye: Sequence[float] | NDArray[Any],
    size: int,
) -> Pixels:
    """Rotate, scale and shift an image so that the eyes are at `LEFT_EYE` and `RIGHT_EYE`.

    A similarity transform, which preserves angles and proportions. Bilinear; an image that shrinks
    is first averaged over blocks of pixels. Beyond the border the last pixels are repeated.

    Args:
        image: RGB (height, width, 3).
        left_eye: centre of the eye on the viewer's left, (x, y) in pixels, pixel centres at whole
            numbers; from `eye_centres`, or a detector's.
        right_eye: centre of the other eye.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: the places of the eyes are not finite numbers, coincide, or are outside
            the image.
    """
    return warp(image, alignment(image, left_eye, right_eye, size), size)


def alignment(
    image: Pixels,
    left_eye: Sequence[float] | NDArray[Any],
    right_eye: Sequence[float] | NDArray[Any],
    size: int,
) -> NDArray[np.float64]:
    """Return the transform of `align`, (2, 3), from places in the image to places in the result.

    Raises:
        DataError: as `align`.
    """
    eyes = np.array([left_eye, right_eye], np.float64).reshape(2, 2)
    height, width = image.shape[:2]
    if not np.isfinite(eyes).all():
        raise DataError("the places of the eyes are not finite numbers")
    if (eyes < -0.5).any() or (eyes > (width - 0.5, height - 0.5)).any():
        raise DataError(f"an eye is outside the image of {width}x{height} pixels")
    (x0, y0), (x1, y1) = eyes.tolist()
    if np.hypot(x1 - x0, y1 - y0) < 1:
        raise DataError("the eyes are less than a pixel apart")
    # As complex numbers a similarity transform is z -> a z + b.
    source = complex(x0, y0), complex(x1, y1)
    half = 0.5 * (1 + 1j)  # pixel centres are whole numbers, fractions count from the corner
    target = complex(*LEFT_EYE) * size - half, complex(*RIGHT_EYE) * size - half
    a = (target[1] - target[0]) / (source[1] - source[0])
    b = target[0] - a * source[0]
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_transform(
    image: Pixels, box: Sequence[float], margin: float, size: int
) -> NDArray[np.float64]:
    """Return the transform, (2, 3), from places in the image to places in the face of `crop_face`.

    Raises:
        DataError: as `crop_face`.
    """
    left, top, side = _square(image, box, margin)
    scale = size / side
    # A pixel's own middle is half a pixel from its corner, before and after.
    return np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])


def move_points(points: NDArray[Any], transform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Apply a transform (2, 3) to points (n, 2)."""
    moved = np.asarray(points, np.float64).reshape(-1, 2) @ transform[:, :2].T + transform[:, 2]
    return moved.astype(np.float32)


def warp(image: Pixels, transform: NDArray[np.float64], size: int) -> Pixels:
    """Apply a similarity transform (2, 3), with antialiasing; see `align`.

    Memory use depends on the result and the region of the image that it shows, not on the scale.

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
