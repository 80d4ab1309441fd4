"""YuNet on a real portrait at many sizes, and the geometry of the crop."""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.crop import align
from affectnet.errors import ConfigError, DataError
from affectnet.inference.detector import Box, FaceDetector, as_boxes, crop_face

FACE = Box(88, 63, 91, 113)
"""The face in the portrait: brow to chin, as a person would draw it."""


def iou(a: Box, b: Box) -> float:
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (a.width * a.height + b.width * b.height - shared)


def enlarged(picture: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=way)


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


def test_a_face_that_fills_a_large_picture_is_found(photo: np.ndarray) -> None:
    x, y, w, h = map(int, FACE)
    close = enlarged(photo[y - 4 : y + h + 4, x - 2 : x + w + 2], 20)
    found = FaceDetector().detect(close)
    assert len(found) == 1
    assert found[0].box.height > 0.7 * close.shape[0]


def test_a_small_face_in_a_large_picture_needs_a_large_search(photo: np.ndarray) -> None:
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
    assert FaceDetector().detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_one_detector_serves_many_threads(photo: np.ndarray) -> None:
    detector = FaceDetector()
    pictures = [enlarged(photo, factor) for factor in (0.5, 1, 0.7, 1.3)] * 3
    alone = [detector.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, pictures)) == alone


@pytest.mark.parametrize("settings", [{"min_score": 1.5}, {"size": 10}, {"min_score": math.nan}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="it may be"):
        FaceDetector(**settings)


def reference_crop(picture: np.ndarray, box: Box, margin: float, size: int) -> np.ndarray:
    """The same square, taken from a picture that is padded on all sides beforehand."""
    side = max(1, round(max(box.width, box.height) * (1 + 2 * margin)))
    left = round(box.x + box.width / 2 - side / 2)
    top = round(box.y + box.height / 2 - side / 2)
    pad = side + max(picture.shape) + max(abs(left), abs(top))
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    square = padded[top + pad : top + pad + side, left + pad : left + pad + side]
    image = Image.fromarray(square)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@settings(max_examples=150, deadline=None)
@given(
    x=st.floats(-60, 39),
    y=st.floats(-60, 29),
    width=st.floats(0.1, 120),
    height=st.floats(0.1, 120),
    margin=st.floats(-0.4, 1.0),
    size=st.integers(1, 64),
)
def test_the_crop_is_the_square_of_a_padded_picture(x, y, width, height, margin, size) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    box = Box(x, y, width, height)
    if x + width <= 0 or y + height <= 0:
        with pytest.raises(DataError, match="outside"):
            crop_face(picture, box, size, margin=margin)
        return
    crop = crop_face(picture, box, size, margin=margin)
    assert crop.shape == (size, size, 3)
    np.testing.assert_array_equal(crop, reference_crop(picture, box, margin, size))


def test_the_margin_is_a_share_of_the_box() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[50:150, 60:140] = 255  # 80 wide, 100 high
    crop = crop_face(picture, Box(60, 50, 80, 100), 120, margin=0.1)
    rows, columns = np.flatnonzero(crop[:, 60, 0] > 127), np.flatnonzero(crop[60, :, 0] > 127)
    assert (rows[0], rows[-1]) == (10, 109)
    assert (columns[0], columns[-1]) == (20, 99)


EYES = np.array([(112.0, 104.0), (153.0, 104.0), (133.0, 127.0), (114.0, 143.0), (151.0, 143.0)])


@pytest.mark.parametrize("angle", [-35, -10, 20, 60])
def test_alignment_undoes_a_turn(photo: np.ndarray, angle: float) -> None:
    centre = (FACE.x + FACE.width / 2, FACE.y + FACE.height / 2)
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turned = cv2.warpAffine(photo, turn, (280, 330), borderMode=cv2.BORDER_REPLICATE)
    eyes = tuple(map(tuple, EYES @ turn[:, :2].T + turn[:, 2]))
    upright = crop_face(photo, FACE, 64, landmarks=EYES, alignment="eyes")
    aligned = crop_face(turned, FACE, 64, landmarks=eyes, alignment="eyes")
    crooked = crop_face(turned, FACE, 64, landmarks=EYES, alignment="eyes")
    near, far = (np.abs(upright.astype(int) - one).mean() for one in (aligned, crooked))
    assert near < 3
    assert far > 2 * near


def test_alignment_is_that_of_ingest(photo: np.ndarray) -> None:
    aligned = crop_face(photo, FACE, 64, landmarks=EYES, alignment="eyes")
    np.testing.assert_array_equal(aligned, align(photo, EYES[0], EYES[1], 64))


@pytest.mark.parametrize(
    ("box", "says"),
    [
        (Box(0, 0, 0, 10), "both sides above 0"),
        (Box(0, 0, -5, 10), "both sides above 0"),
        (Box(math.nan, 0, 5, 10), "both sides above 0"),
        (Box(0, 0, math.inf, 10), "both sides above 0"),
        (Box(100, 0, 5, 5), "outside the picture"),
        (Box(-1e6, -1e6, 2e6, 2e6), "many times larger"),
    ],
)
def test_boxes_that_are_none_are_refused(box: Box, says: str) -> None:
    with pytest.raises(DataError, match=says):
        crop_face(np.zeros((50, 60, 3), np.uint8), box, 48)


def test_alignment_needs_landmarks(photo: np.ndarray) -> None:
    with pytest.raises(DataError, match="a box alone does not tell"):
        crop_face(photo, FACE, 48, alignment="eyes")
    with pytest.raises(DataError, match="'mouth' is not known"):
        crop_face(photo, FACE, 48, alignment="mouth")


def test_boxes_are_numbers_by_four() -> None:
    assert as_boxes([[1, 2, 3, 4]]) == [Box(1, 2, 3, 4)]
    assert as_boxes(np.empty((0, 4))) == []
    assert as_boxes([]) == []
    for wrong in ([1, 2, 3, 4], [[1, 2, 3]], "box", [[1, 2, 3, "x"]], None):
        with pytest.raises(DataError, match=r"\(n, 4\)"):
            as_boxes(wrong)
