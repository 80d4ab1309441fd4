"""Crops by boxes and by eyes, against Pillow and known geometry."""

import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.crop import (
    LEFT_EYE,
    RIGHT_EYE,
    Box,
    align,
    alignment,
    as_boxes,
    crop_face,
    crop_transform,
    eye_centres,
    move_points,
)
from affectnet.data.images import resize
from affectnet.errors import DataError


def spots(width: int, height: int, places, radius: float) -> np.ndarray:
    """Return a black image with one soft bright spot in each of red and green."""
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for channel, (px, py) in enumerate(places):
        image[..., channel] = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2))
    return np.round(image).astype(np.uint8)


def centroid(channel: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: channel.shape[0], : channel.shape[1]]
    weight = channel.astype(float)
    return (x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()


@settings(deadline=None, max_examples=60)
@given(
    angle=st.floats(-np.pi, np.pi),
    distance=st.floats(20, 160),
    size=st.sampled_from([48, 112, 224]),
    dx=st.floats(-20, 20),
    dy=st.floats(-20, 20),
)
def test_eyes_are_put_in_their_places_whatever_the_pose(angle, distance, size, dx, dy):
    middle = np.array([200 + dx, 180 + dy])
    half = distance / 2 * np.array([np.cos(angle), np.sin(angle)])
    eyes = middle - half, middle + half
    image = spots(400, 360, eyes, distance / 12)
    made = align(image, *eyes, size)
    assert made.shape == (size, size, 3)
    assert made.dtype == np.uint8
    for channel, place in enumerate((LEFT_EYE, RIGHT_EYE)):
        found = centroid(made[..., channel])
        wanted = np.array(place) * size - 0.5
        assert np.hypot(*(found - wanted)) < 0.02 * size


def test_landmarks_move_as_the_image_does():
    rng = np.random.default_rng(0)
    points = rng.uniform(40, 160, (68, 2))
    points[36:42] = np.array([70, 90]) + rng.normal(0, 2, (6, 2))
    points[42:48] = np.array([130, 70]) + rng.normal(0, 2, (6, 2))
    left, right = eye_centres(points)
    np.testing.assert_allclose(left, points[36:42].mean(axis=0))
    image = np.zeros((200, 200, 3), np.uint8)
    transform = alignment(image, left, right, 100)
    moved = move_points(points, transform)
    np.testing.assert_allclose(moved[36:42].mean(axis=0), (34.5, 35.5), atol=1e-4)
    np.testing.assert_allclose(moved[42:48].mean(axis=0), (64.5, 35.5), atol=1e-4)
    # A similarity: all distances change by the same factor.
    before = np.linalg.norm(points[:, None] - points[None], axis=2)
    after = np.linalg.norm(moved[:, None] - moved[None], axis=2)
    np.testing.assert_allclose(after, before * 30 / np.hypot(*(right - left)), atol=1e-3)
    assert np.linalg.det(transform[:, :2]) > 0  # not mirrored


def test_an_aligned_face_is_unchanged():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
    eyes = (34.5, 35.5), (64.5, 35.5)
    np.testing.assert_array_equal(align(image, *eyes, 100), image)


@pytest.mark.parametrize("side", [31, 224, 300, 1000])
def test_a_crop_equals_pillows(side):
    rng = np.random.default_rng(2)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((1200, 1100), Image.Resampling.BICUBIC))
    made = crop_face(image, (50, 300, side, side / 2), 224, margin=0)
    top = 300 + side / 4 - side / 2
    expected = Image.fromarray(image).resize(
        (224, 224), Image.Resampling.BILINEAR, box=(50, top, 50 + side, top + side)
    )
    # Pillow's box takes the pixels next to the square into account.
    assert np.abs(made.astype(int) - np.asarray(expected)).max() <= 6
    assert np.abs(made.astype(int) - np.asarray(expected)).mean() < 0.1


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("box", [(100, 100, 800, 800), (3.3, 7.8, 61.5, 41.2), (-40, -30, 90, 95)])
def test_landmarks_move_with_the_crop(box, margin):
    """A spot in the image is where its moved landmark says."""
    y, x = np.mgrid[:1000, :1000]
    spot = (box[0] + 0.5 * box[2] + 0.13 * box[3], box[1] + 0.62 * box[3])
    width = 0.05 * max(box[2:])
    light = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * width**2))
    image = np.repeat(light[..., None].round(), 3, axis=2).astype(np.uint8)
    face = crop_face(image, box, 64, margin=margin)[..., 0].astype(float)
    ((moved_x, moved_y),) = move_points(
        np.array([spot]), crop_transform(image, box, margin, 64)
    ).tolist()
    rows, columns = np.indices(face.shape)
    assert (face * columns).sum() / face.sum() == pytest.approx(moved_x, abs=0.1)
    assert (face * rows).sum() / face.sum() == pytest.approx(moved_y, abs=0.1)


def test_shrinking_averages():
    board = np.indices((1000, 1000)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    made = crop_face(image, (100, 100, 800, 800), 50, margin=0)
    assert np.abs(made.astype(int) - 127).max() <= 4
    aligned = align(image, (300, 300), (600, 300), 50)
    assert np.abs(aligned.astype(int) - 127).max() <= 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 40_000), (40_000, 2), (3, 5)])
def test_extreme_shapes_cost_nothing_extra(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    height, width = shape
    tracemalloc.start()
    made = crop_face(image, (-1, -1, width + 2, height + 2), 64, margin=0.5)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert made.shape == (64, 64, 3)
    assert (made == 77).all()


@pytest.mark.parametrize(
    ("left", "right", "word"),
    [
        ((10, 10), (10.2, 10), "less than a pixel apart"),
        ((-1, 10), (20, 10), "outside the image of 60x40"),
        ((10, 10), (20, 39.6), "outside the image"),
        ((np.nan, 10), (20, 10), "not finite numbers"),
        ((10, 10), (np.inf, 10), "not finite numbers"),
    ],
)
def test_impossible_eyes_are_refused(left, right, word):
    with pytest.raises(DataError, match=word):
        align(np.zeros((40, 60, 3), np.uint8), left, right, 32)


FACE = Box(88, 63, 91, 113)
"""The face in the portrait: brow to chin, as a person would draw it."""


def reference_crop(image: np.ndarray, box: Box, margin: float, size: int) -> np.ndarray:
    """The same square, taken from an image that is padded on all sides beforehand."""
    side = max(1, round(max(box.width, box.height) * (1 + 2 * margin), 3))
    left = round(box.x + box.width / 2 - side / 2, 3)
    top = round(box.y + box.height / 2 - side / 2, 3)
    pad = 400
    padded = Image.fromarray(np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
    inside = (math.floor(left), math.floor(top), math.ceil(left + side), math.ceil(top + side))
    square = padded.crop(tuple(pad + edge for edge in inside))
    box = (left - inside[0], top - inside[1])
    box = (*box, min(box[0] + side, square.width), min(box[1] + side, square.height))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR, box=box))


@settings(max_examples=150, deadline=None)
@given(
    x=st.floats(-60, 39),
    y=st.floats(-60, 29),
    width=st.floats(0.1, 120),
    height=st.floats(0.1, 120),
    margin=st.floats(-0.4, 1.0),
    size=st.integers(48, 96),
)
def test_the_crop_is_the_square_of_a_padded_image(x, y, width, height, margin, size) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    box = Box(x, y, width, height)
    if x + width <= 0 or y + height <= 0:
        with pytest.raises(DataError, match="outside"):
            crop_face(image, box, size, margin=margin)
        return
    crop = crop_face(image, box, size, margin=margin)
    assert crop.shape == (size, size, 3)
    difference = crop.astype(int) - reference_crop(image, box, margin, size)
    assert np.abs(difference).max() <= 1


def test_a_box_gives_the_numbers_of_the_face_cut_out(photo: np.ndarray) -> None:
    for size, kind in ((48, "bilinear"), (300, "bicubic")):
        cut = photo[60:160, 88:188]
        face = crop_face(photo, (88, 60, 100, 100), size, margin=0, interpolation=kind)
        np.testing.assert_array_equal(face, resize(cut, size, kind))
        via = crop_face(photo, FACE, size, interpolation=kind, face_size=112)
        np.testing.assert_array_equal(via, resize(crop_face(photo, FACE, 112), size, kind))


def test_the_whole_image_as_the_box_is_the_image(photo: np.ndarray) -> None:
    image = photo[:280, :280]
    np.testing.assert_array_equal(crop_face(image, (0, 0, 280, 280), 280, margin=0), image)


def test_the_margin_is_a_fraction_of_the_box() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[50:150, 60:140] = 255  # 80 wide, 100 high
    crop = crop_face(image, Box(60, 50, 80, 100), 120, margin=0.1)
    rows, columns = np.flatnonzero(crop[:, 60, 0] > 127), np.flatnonzero(crop[60, :, 0] > 127)
    assert (rows[0], rows[-1]) == (10, 109)
    assert (columns[0], columns[-1]) == (20, 99)


EYES = np.array([(112.0, 104.0), (153.0, 104.0), (133.0, 127.0), (114.0, 143.0), (151.0, 143.0)])


@pytest.mark.parametrize("angle", [-35, -10, 20, 60])
def test_alignment_undoes_a_rotation(photo: np.ndarray, angle: float) -> None:
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
        (Box(100, 0, 5, 5), "outside the image"),
        (Box(-1e6, -1e6, 2e6, 2e6), "many times larger"),
    ],
)
def test_invalid_boxes_are_refused(box: Box, says: str) -> None:
    with pytest.raises(DataError, match=says):
        crop_face(np.zeros((50, 60, 3), np.uint8), box, 48)


def test_alignment_needs_landmarks(photo: np.ndarray) -> None:
    with pytest.raises(DataError, match="a box does not say where"):
        crop_face(photo, FACE, 48, alignment="eyes")
    with pytest.raises(DataError, match="'mouth' is not known"):
        crop_face(photo, FACE, 48, alignment="mouth")


def test_boxes_have_four_numbers() -> None:
    assert as_boxes([[1, 2, 3, 4]]) == [Box(1, 2, 3, 4)]
    assert as_boxes(np.empty((0, 4))) == []
    assert as_boxes([]) == []
    for wrong in ([1, 2, 3, 4], [[1, 2, 3]], "box", [[1, 2, 3, "x"]], None):
        with pytest.raises(DataError, match=r"\(n, 4\)"):
            as_boxes(wrong)
