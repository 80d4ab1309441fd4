"""Tracks and filters against plain implementations and known movements."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.crop import Box
from affectnet.inference.tracks import ENLARGEMENT, Ema, OneEuro, Smoother, Tracker, overlap


def at(x: float, y: float, side: float = 100) -> Box:
    return Box(x, y, side, side)


def test_faces_that_pass_each_other_keep_their_numbers() -> None:
    tracker = Tracker()
    called: list[set[int]] = [set(), set()]
    for i in range(60):
        boxes = [at(20 * i, 100), at(1180 - 20 * i, 190)]
        order = (0, 1) if i % 2 else (1, 0)  # the detector's order means nothing
        numbers = tracker.update([boxes[k] for k in order], i / 25)
        for k, number in zip(order, numbers, strict=True):
            called[k].add(number)
    assert sorted(map(sorted, called)) == [[1], [2]]


def test_a_face_keeps_its_number_through_a_short_absence_only() -> None:
    tracker = Tracker(gap=1.0)
    assert tracker.update([at(0, 0)], 0.0) == [1]
    assert tracker.update([], 0.5) == []
    assert tracker.update([at(5, 0)], 0.9) == [1]
    assert tracker.update([at(5, 0)], 2.0) == [2]
    assert tracker.alive == {2}


def test_a_quick_movement_is_followed() -> None:
    tracker = Tracker()
    # Each step is nine tenths of a side: the boxes themselves hardly overlap.
    assert [tracker.update([at(90 * i, 0)], i / 5)[0] for i in range(10)] == [1] * 10


def test_a_face_elsewhere_is_another() -> None:
    tracker = Tracker()
    tracker.update([at(0, 0)], 0)
    assert tracker.update([at(500, 0), at(0, 4)], 0.04) == [2, 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(1, 300)] * 2), max_size=5),
        max_size=12,
    )
)
def test_numbers_are_never_shared(frames: list[list[tuple[float, ...]]]) -> None:
    tracker = Tracker()
    seen: set[int] = set()
    for i, frame in enumerate(frames):
        numbers = tracker.update([Box(*box) for box in frame], i / 25)
        assert len(set(numbers)) == len(frame)
        assert all(number >= 1 for number in numbers)
        new = sorted(set(numbers) - seen)
        assert new == list(range(len(seen) + 1, len(seen) + 1 + len(new)))
        seen |= set(numbers)


def test_overlap_counts_pixels() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.integers(4, 40, (6, 4)).astype(float) * 4
    given = overlap(boxes[:3], boxes[3:])
    grid = np.mgrid[-300:600, -300:600].astype(float) + 0.5

    def mask(box: np.ndarray) -> np.ndarray:
        inside = [
            np.abs(grid[1 - axis] - box[axis]) < box[2 + axis] * ENLARGEMENT / 2 for axis in (0, 1)
        ]
        return inside[0] & inside[1]

    for i in range(3):
        for j in range(3):
            a, b = mask(boxes[i]), mask(boxes[3 + j])
            assert given[i, j] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-9)


def reference_one_euro(signal, times, min_cutoff, beta, speed_cutoff):
    """The paper's algorithm, one number at a time."""

    def alpha(rate: float, cutoff: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau * rate)

    out, speed = [signal[0]], 0.0
    for k in range(1, len(signal)):
        rate = 1 / (times[k] - times[k - 1])
        raw_speed = (signal[k] - out[-1]) * rate
        a = alpha(rate, speed_cutoff)
        speed = a * raw_speed + (1 - a) * speed
        a = alpha(rate, min_cutoff + beta * abs(speed))
        out.append(a * signal[k] + (1 - a) * out[-1])
    return out


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 1)), min_size=2, max_size=30),
    st.floats(0.1, 5),
    st.floats(0, 5),
)
def test_one_euro_is_the_papers(pairs, min_cutoff, beta) -> None:
    values = np.array([pair[0] for pair in pairs])
    times = np.cumsum([pair[1] for pair in pairs])
    one = OneEuro(min_cutoff, beta)
    given = [one(np.array([v, -v]), float(t)) for v, t in zip(values, times, strict=True)]
    expected = reference_one_euro(values, times, min_cutoff, beta, 1.0)
    np.testing.assert_allclose([g[0] for g in given], expected, atol=1e-9)
    np.testing.assert_allclose([g[1] for g in given], -np.array(expected), atol=1e-9)


def test_ema_reaches_63_percent_at_any_frame_rate() -> None:
    for rate in (5, 30, 200):
        ema = Ema(seconds=0.4)
        ema(np.zeros(1), 0.0)
        for i in range(1, round(0.4 * rate) + 1):
            value = ema(np.ones(1), i / rate)
        assert value[0] == pytest.approx(1 - math.exp(-1), abs=1e-9)


@pytest.mark.parametrize("kind", ["one-euro", "ema"])
def test_smoothing_calms_noise_and_keeps_the_sum(kind) -> None:
    rng = np.random.default_rng(2)
    smoother = Smoother(kind)
    shares, affect = [], []
    for i in range(200):
        p = rng.dirichlet(np.ones(8))
        a = np.clip(rng.normal(0.9, 0.3, 2), -1, 1)
        q, b = smoother(1, p, a, i / 25)
        assert q.sum() == pytest.approx(1)
        assert (q >= 0).all()
        assert (np.abs(b) <= 1).all()
        shares.append((p, q))
        affect.append((a, b))
    raw, smooth = (np.diff([pair[k] for pair in affect], axis=0).std() for k in (0, 1))
    assert smooth < raw / 2


def test_smoothing_can_be_off_and_forgets_the_gone() -> None:
    p, a = np.full(8, 1 / 8), np.array([0.5, -0.5])
    none = Smoother("none")
    none(1, p, a, 0.0)
    np.testing.assert_array_equal(none(1, np.eye(8)[0], -a, 0.1)[1], -a)
    ema = Smoother("ema")
    ema(1, p, a, 0.0)
    ema.forget_all_but({2})
    np.testing.assert_array_equal(ema(1, p, -a, 0.1)[1], -a)
