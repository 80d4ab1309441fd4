import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.crop import (
    LEFT_EYE,
    RIGHT_EYE,
    align,
    alignment,
    crop_transform,
    eye_centres,
    move_points,
    warp,
)
from affectnet.errors import DataError


def spots(width: int, height: int, places, radius: float) -> np.ndarray:
    """Black picture with one soft bright spot in each of red and green."""
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width, 3))
    for channel, (px, py) in enumerate(places):
        picture[..., channel] = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2))
    return np.round(picture).astype(np.uint8)


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
def test_eyes_come_to_their_places_whatever_the_pose(angle, distance, size, dx, dy):
    middle = np.array([200 + dx, 180 + dy])
    half = distance / 2 * np.array([np.cos(angle), np.sin(angle)])
    eyes = middle - half, middle + half
    picture = spots(400, 360, eyes, distance / 12)
    made = align(picture, *eyes, size)
    assert made.shape == (size, size, 3)
    assert made.dtype == np.uint8
    for channel, place in enumerate((LEFT_EYE, RIGHT_EYE)):
        found = centroid(made[..., channel])
        wanted = np.array(place) * size - 0.5
        assert np.hypot(*(found - wanted)) < 0.02 * size


def test_landmarks_move_as_the_picture_does():
    rng = np.random.default_rng(0)
    points = rng.uniform(40, 160, (68, 2))
    points[36:42] = np.array([70, 90]) + rng.normal(0, 2, (6, 2))
    points[42:48] = np.array([130, 70]) + rng.normal(0, 2, (6, 2))
    left, right = eye_centres(points)
    np.testing.assert_allclose(left, points[36:42].mean(axis=0))
    picture = np.zeros((200, 200, 3), np.uint8)
    transform = alignment(picture, left, right, 100)
    moved = move_points(points, transform)
    np.testing.assert_allclose(moved[36:42].mean(axis=0), (34.5, 35.5), atol=1e-4)
    np.testing.assert_allclose(moved[42:48].mean(axis=0), (64.5, 35.5), atol=1e-4)
    # A similarity: all distances change by the same factor.
    before = np.linalg.norm(points[:, None] - points[None], axis=2)
    after = np.linalg.norm(moved[:, None] - moved[None], axis=2)
    np.testing.assert_allclose(after, before * 30 / np.hypot(*(right - left)), atol=1e-3)
    assert np.linalg.det(transform[:, :2]) > 0  # not mirrored


def test_a_face_in_place_already_stays_as_it_is():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
    eyes = (34.5, 35.5), (64.5, 35.5)
    np.testing.assert_array_equal(align(picture, *eyes, 100), picture)


@pytest.mark.parametrize("side", [31, 224, 300, 1000])
def test_a_crop_equals_pillows(side):
    rng = np.random.default_rng(2)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((1200, 1100), Image.Resampling.BICUBIC))
    made = warp(picture, crop_transform(picture, (50, 300, side, side / 2), 0, 224), 224)
    top = 300 + side / 4 - side / 2
    expected = Image.fromarray(picture).resize(
        (224, 224), Image.Resampling.BILINEAR, box=(50, top, 50 + side, top + side)
    )
    assert np.abs(made.astype(int) - np.asarray(expected)).mean() < 2


def test_shrinking_averages():
    board = np.indices((1000, 1000)).sum(axis=0) % 2 * 255
    picture = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    made = warp(picture, crop_transform(picture, (100, 100, 800, 800), 0, 50), 50)
    assert np.abs(made.astype(int) - 127).max() <= 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 40_000), (40_000, 2), (3, 5)])
def test_odd_pictures_cost_nothing_extra(shape):
    picture = np.full((*shape, 3), 77, np.uint8)
    height, width = shape
    made = warp(picture, crop_transform(picture, (-1, -1, width + 2, height + 2), 0.5, 64), 64)
    assert made.shape == (64, 64, 3)
    assert (made == 77).all()


@pytest.mark.parametrize(
    ("left", "right", "word"),
    [
        ((10, 10), (10.2, 10), "less than a pixel apart"),
        ((-1, 10), (20, 10), "not in the picture of 60x40"),
        ((10, 10), (20, 39.6), "not in the picture"),
        ((np.nan, 10), (20, 10), "no finite numbers"),
        ((10, 10), (np.inf, 10), "no finite numbers"),
    ],
)
def test_eyes_that_cannot_be_are_refused(left, right, word):
    with pytest.raises(DataError, match=word):
        align(np.zeros((40, 60, 3), np.uint8), left, right, 32)
