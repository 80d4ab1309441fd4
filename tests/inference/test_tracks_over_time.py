"""Means over time against a plain sum, and the bound on memory."""

import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.inference.tracks import MAX_BINS, MAX_TRACKS, OverTime
from affectnet.labels import EXPRESSIONS


def frame(i: int, rate: float, *faces: tuple[int, float, float, int]) -> PictureResult:
    made = tuple(
        FaceResult(
            Box(0, 0, 9, 9), None, None, EXPRESSIONS, tuple(np.eye(8)[e].tolist()), v, a, track
        )
        for track, v, a, e in faces
    )
    return PictureResult("v.mp4", 9, 9, made, frame=i, time=i / rate)


def test_a_short_video_keeps_every_frame() -> None:
    over_time = OverTime()
    for i in range(100):
        over_time.add(frame(i, 25, (1, i / 100, -i / 100, i // 50)))
    (course,) = over_time.courses()
    assert course.frames == 100
    np.testing.assert_allclose(course.valence, np.arange(100) / 100)
    np.testing.assert_allclose(course.arousal, -np.arange(100) / 100)
    np.testing.assert_allclose(course.time, np.arange(100) / 25, atol=1 / 60)
    assert course.expression.tolist() == [0] * 50 + [1] * 50
    assert course.step == pytest.approx(1 / 25, abs=0.011)
    assert np.diff(course.time).max() < 3 * course.step


def test_a_long_video_is_averaged_in_bounded_memory() -> None:
    over_time = OverTime()
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, 30_000)
    for i, value in enumerate(values):
        over_time.add(frame(i, 10, (1, value, 0.5, 3)))
    (course,) = over_time.courses()
    assert MAX_BINS / 2 <= len(course.time) <= MAX_BINS + 1
    bins = (np.arange(30_000) / 10 / over_time.width).astype(int)
    expected = np.bincount(bins, values) / np.bincount(bins)
    np.testing.assert_allclose(course.valence, expected, atol=1e-9)
    np.testing.assert_allclose(course.arousal, 0.5)


def test_of_very_many_persons_the_longest_seen_are_kept() -> None:
    over_time = OverTime()
    for i in range(5 * MAX_TRACKS):
        over_time.add(frame(i, 25, (1, 0.1, 0.1, 0), (i + 2, 0.2, 0.2, 1)))
    courses = over_time.courses()
    assert len(courses) <= 2 * MAX_TRACKS + 1
    assert courses[0].track == 1
    assert courses[0].frames == 5 * MAX_TRACKS
