"""YuNet on a real portrait at many sizes."""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.detector import FaceDetector, yunet_file

FACE = Box(88, 63, 91, 113)
"""The face in the portrait: brow to chin, as a person would draw it."""


def iou(a: Box, b: Box) -> float:
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (a.width * a.height + b.width * b.height - shared)


def enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1, 3, 12])
def test_the_face_is_found_at_any_size(photo: np.ndarray, factor: float) -> None:
    found = FaceDetector().detect(enlarged(photo, factor))
    assert len(found) == 1
    box = Box(*(value / factor for value in found[0].box))
    assert iou(box, FACE) > 0.75
    right_eye, left_eye, nose, right_mouth, left_mouth = found[0].landmarks
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert found[0].score > 0.8


def test_a_face_that_fills_a_large_image_is_found(photo: np.ndarray) -> None:
    x, y, w, h = map(int, FACE)
    close = enlarged(photo[y - 4 : y + h + 4, x - 2 : x + w + 2], 20)
    found = FaceDetector().detect(close)
    assert len(found) == 1
    assert found[0].box.height > 0.7 * close.shape[0]


def test_a_small_face_in_a_large_image_needs_a_large_search(photo: np.ndarray) -> None:
    ground = np.full((2000, 3000, 3), 128, np.uint8)
    small = enlarged(photo, 0.3)
    ground[1500 : 1500 + small.shape[0], 2500 : 2500 + small.shape[1]] = small
    found = FaceDetector(size=2048).detect(ground)
    assert len(found) == 1
    expected = Box(2500 + 0.3 * FACE.x, 1500 + 0.3 * FACE.y, 0.3 * FACE.width, 0.3 * FACE.height)
    assert iou(found[0].box, expected) > 0.6


def test_several_faces_come_the_largest_first(photo: np.ndarray) -> None:
    small = enlarged(photo, 0.6)
    both = np.full((330, 560, 3), 128, np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[:, 280:] = photo
    found = FaceDetector().detect(both)
    assert len(found) == 2
    assert found[0].box.x > 280 > found[1].box.x


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 3), (300, 300)])
def test_no_face_is_found_where_none_is(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    # On inputs of up to 32 pixels, YuNet itself reports faces in two of three trials.
    assert all(FaceDetector().detect(image) == [] for _ in range(10))


def test_one_detector_serves_many_threads(photo: np.ndarray) -> None:
    detector = FaceDetector()
    images = [enlarged(photo, factor) for factor in (0.5, 1, 0.7, 1.3)] * 3
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, images)) == alone


@pytest.mark.parametrize("settings", [{"min_score": 1.5}, {"size": 10}, {"min_score": math.nan}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="it may be"):
        FaceDetector(**settings)


@pytest.mark.parametrize("size", [(560, 420), (333, 211), (290, 256)])
def test_the_faces_are_those_of_opencvs_own_detector(photo: np.ndarray, size) -> None:
    scene = np.full((330, 560, 3), 128, np.uint8)
    scene[:, :280] = photo
    scene[: enlarged(photo, 0.4).shape[0], 300:412] = enlarged(photo, 0.4)
    scene = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)
    for min_score in (0.7, 0.2):
        found = FaceDetector(min_score).detect(scene)
        theirs = cv2.FaceDetectorYN.create(str(yunet_file()), "", size, min_score, 0.3, 1000)
        _, rows = theirs.detect(cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
        assert len(found) == len(rows) > 0
        rows = sorted(rows.tolist(), key=lambda row: -row[2] * row[3])
        for face, row in zip(found, rows, strict=True):
            np.testing.assert_allclose(face.box, row[:4], atol=1e-2)
            np.testing.assert_allclose(np.ravel(face.landmarks), row[4:14], atol=1e-2)
            assert face.score == pytest.approx(row[14], abs=1e-4)
