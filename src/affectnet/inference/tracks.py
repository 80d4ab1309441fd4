"""Faces over time: tracking from frame to frame, smoothing, and affect over a whole video."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box
from affectnet.inference.results import PictureResult
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

Smoothing = Literal["one-euro", "ema", "none"]
Floats = NDArray[np.float64]

GAP: Final = 1.0
"""Seconds that a face may be out of sight and still keep its number."""
MIN_OVERLAP: Final = 0.2
ENLARGEMENT: Final = 1.5
"""Boxes are enlarged by this factor before they are compared, so that they still overlap after a
quick movement or at a low frame rate."""
_VELOCITY_WEIGHT = 0.5
_EXTRAPOLATED = 0.4
"""Seconds for which a face out of sight is expected to keep moving."""


@dataclass(slots=True)
class _Track:
    number: int
    box: Floats  # x and y of the centre, width, height
    velocity: Floats  # of the same, per second
    seen: float

    def expected(self, time: float) -> Floats:
        box = self.box + self.velocity * min(time - self.seen, _EXTRAPOLATED)
        box[2:] = self.box[2:]  # sizes jitter; only the position is extrapolated
        return box


class Tracker:
    """Numbers faces from 1, so that a person keeps one number while in sight.

    The position of each known face is extrapolated from its last movement. Expected and detected
    boxes are paired by the Hungarian method, which maximises the sum of their overlaps
    (intersection over union); boxes that overlap less than `MIN_OVERLAP` are not paired.
    """

    def __init__(self, gap: float = GAP) -> None:
        self.gap = gap
        self._tracks: list[_Track] = []
        self._count = 0

    @property
    def alive(self) -> set[int]:
        """Numbers of faces that may still return."""
        return {track.number for track in self._tracks}

    def update(self, boxes: Sequence[Box], time: float) -> list[int]:
        """Return the number of each box in the frame at `time` (seconds, increasing)."""
        self._tracks = [track for track in self._tracks if time - track.seen <= self.gap]
        found = [np.array([x + w / 2, y + h / 2, w, h]) for x, y, w, h in boxes]
        numbers = [0] * len(found)
        if found and self._tracks:
            from scipy.optimize import linear_sum_assignment  # only for videos: slow to import

            known = np.stack([track.expected(time) for track in self._tracks])
            overlaps = overlap(known, np.stack(found))
            for t, f in zip(*linear_sum_assignment(-overlaps), strict=True):
                if overlaps[t, f] >= MIN_OVERLAP:
                    self._move(self._tracks[t], found[f], time)
                    numbers[f] = self._tracks[t].number
        for f, number in enumerate(numbers):
            if number == 0:
                self._count += 1
                numbers[f] = self._count
                self._tracks.append(_Track(self._count, found[f], np.zeros(4), time))
        return numbers

    @staticmethod
    def _move(track: _Track, box: Floats, time: float) -> None:
        past = time - track.seen
        if past > 0:
            velocity = (box - track.box) / past
            track.velocity += _VELOCITY_WEIGHT * (velocity - track.velocity)
        track.box, track.seen = box, time


def overlap(some: Floats, others: Floats) -> Floats:
    """Return intersections over unions of boxes (n, 4) and (m, 4), (n, m) in [0, 1].

    A box is x and y of its centre, width and height; it is enlarged by `ENLARGEMENT` first.
    """
    a, b = some[:, None, :], others[None, :, :]
    sides_a, sides_b = a[..., 2:] * ENLARGEMENT, b[..., 2:] * ENLARGEMENT
    low = np.maximum(a[..., :2] - sides_a / 2, b[..., :2] - sides_b / 2)
    high = np.minimum(a[..., :2] + sides_a / 2, b[..., :2] + sides_b / 2)
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = sides_a.prod(axis=-1) + sides_b.prod(axis=-1) - shared
    return np.asarray(shared / union)


class Ema:
    """Exponential moving average with a time constant, independent of the frame rate.

    After a step, 63% of it is reached within `seconds`.
    """

    def __init__(self, seconds: float = 0.3) -> None:
        self.seconds = seconds
        self._state: tuple[Floats, float] | None = None

    def __call__(self, values: Floats, time: float) -> Floats:
        """Return the average of k values at `time` in seconds, which must increase."""
        if self._state is not None:
            last, then = self._state
            values = last + (1 - math.exp((then - time) / self.seconds)) * (values - last)
        self._state = (values, time)
        return values


class OneEuro:
    """One-euro filter: smooth where the signal is still, quick to follow where it moves.

    Casiez, Roussel and Vogel, "1 € filter: a simple speed-based low-pass filter for noisy input in
    interactive systems", CHI 2012: a first-order low pass whose cutoff is
    `min_cutoff` + `beta` * |speed|, the speed itself low-passed at `speed_cutoff`.

    Args:
        min_cutoff: hertz; lower smooths a still signal more.
        beta: hertz for each unit per second; higher lags less.
        speed_cutoff: hertz.
    """

    def __init__(
        self, min_cutoff: float = 0.6, beta: float = 1.0, speed_cutoff: float = 1.0
    ) -> None:
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._state: tuple[Floats, Floats, float] | None = None

    def __call__(self, values: Floats, time: float) -> Floats:
        """Return the filtered k values at `time` in seconds, which must increase."""
        speed = np.zeros_like(values)
        if self._state is not None:
            last, last_speed, then = self._state
            past = time - then
            if past <= 0:
                return last
            speed = last_speed + _weight(np.asarray(self.speed_cutoff), past) * (
                (values - last) / past - last_speed
            )
            cutoff = self.min_cutoff + self.beta * np.abs(speed)
            values = last + _weight(cutoff, past) * (values - last)
        self._state = (values, speed, time)
        return values


def _weight(cutoff: Floats, past: float) -> Floats:
    """Return the weight of a new value in a low pass, `past` seconds after the last one."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * cutoff * past)))


class Smoother:
    """Smooths the predictions of each tracked face separately.

    Args:
        kind: `one-euro`, `ema`, or `none`, which returns its input.
    """

    def __init__(self, kind: Smoothing) -> None:
        self.kind = kind
        self._filters: dict[int, Ema | OneEuro] = {}

    def __call__(
        self, track: int, probabilities: Floats, affect: Floats, time: float
    ) -> tuple[Floats, Floats]:
        """Smooth probabilities (k,), which still add up to 1, and (valence, arousal)."""
        if self.kind == "none":
            return probabilities, affect
        if track not in self._filters:
            self._filters[track] = OneEuro() if self.kind == "one-euro" else Ema()
        smooth = self._filters[track](np.concatenate([probabilities, affect]), time)
        k = len(probabilities)
        probabilities = np.clip(smooth[:k], 0, 1)
        return probabilities / probabilities.sum(), np.clip(smooth[k:], -1, 1)

    def forget_all_but(self, alive: set[int]) -> None:
        """Drop the filters of faces that will not return."""
        self._filters = {n: smooth for n, smooth in self._filters.items() if n in alive}


MAX_BINS: Final = 1500
MAX_TRACKS: Final = 200
_FIRST_WIDTH = 1 / 60


@dataclass(frozen=True, slots=True)
class Course:
    """One person over time.

    Attributes:
        track: number, from 1.
        frames: number of frames in which the person was seen.
        time: (n,) seconds, increasing, the middles of the bins in which the person was seen.
        valence, arousal: (n,) means over each bin, in [-1, 1]; NaN where not predicted.
        expression: (n,) class 0-7 that was most often the most probable in the bin; -1 where the
            model does not predict expressions.
        step: median seconds from one bin to the next; over three: out of sight.
    """

    track: int
    frames: int
    time: NDArray[np.float64]
    valence: NDArray[np.float64]
    arousal: NDArray[np.float64]
    expression: NDArray[np.int64]
    step: float


class OverTime:
    """Sums results frame by frame in bins of time, whose width doubles when there are too many.

    Memory is bounded for a video of any length. Of very many persons, those seen in most frames
    are kept.

    Args:
        relative: sum what is relative to a baseline; persons without one are left out.
    """

    def __init__(self, relative: bool = False) -> None:
        self.relative = relative
        self.width = _FIRST_WIDTH
        self.end = 0.0
        self._tracks: dict[int, dict[int, NDArray[np.float64]]] = defaultdict(dict)

    def add(self, result: PictureResult) -> None:
        """Add the next frame."""
        time = result.time or 0.0
        self.end = max(self.end, time)
        while self.end / self.width > MAX_BINS:
            self._widen()
        place = int(time / self.width)
        for face in result.faces:
            answer = face.relative if self.relative else face
            if face.track is None or answer is None:
                continue
            bins = self._tracks[face.track]
            if place not in bins:
                bins[place] = np.zeros(3 + N_EXPRESSIONS)
            bins[place][:3] += (1.0, answer.valence, answer.arousal)
            if answer.expression is not None:
                bins[place][3 + EXPRESSIONS.index(answer.expression)] += 1
        if len(self._tracks) > 2 * MAX_TRACKS:
            most_seen = sorted(self._tracks, key=self._frames, reverse=True)[:MAX_TRACKS]
            self._tracks = defaultdict(dict, {n: self._tracks[n] for n in most_seen})

    def courses(self) -> list[Course]:
        """Return one course per person, those seen in most frames first."""
        courses = []
        for track in sorted(self._tracks, key=lambda n: (-self._frames(n), n)):
            places = sorted(self._tracks[track])
            sums = np.stack([self._tracks[track][place] for place in places])
            steps = np.diff(places)
            step = self.width * (float(np.median(steps)) if len(steps) else 1.0)
            courses.append(
                Course(
                    track,
                    int(sums[:, 0].sum()),
                    (np.array(places) + 0.5) * self.width,
                    sums[:, 1] / sums[:, 0],
                    sums[:, 2] / sums[:, 0],
                    np.where(sums[:, 3:].any(axis=1), sums[:, 3:].argmax(axis=1), -1),
                    step,
                )
            )
        return courses

    def _frames(self, track: int) -> float:
        return float(sum(values[0] for values in self._tracks[track].values()))

    def _widen(self) -> None:
        self.width *= 2
        for track, bins in self._tracks.items():
            wide: dict[int, NDArray[np.float64]] = {}
            for place, values in bins.items():
                wide[place // 2] = wide.get(place // 2, 0.0) + values
            self._tracks[track] = wide
