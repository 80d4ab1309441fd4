"""Valence and arousal of each person over a video of any length, in bounded memory."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.inference.results import PictureResult
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

MOST_BINS: Final = 1500
MOST_TRACKS: Final = 200
_FIRST_WIDTH = 1 / 60


@dataclass(frozen=True, slots=True)
class Course:
    """One person over time.

    Attributes:
        track: number, from 1.
        frames: in which the person was seen.
        time: (n,) seconds, rising, the middles of the bins in which the person was seen.
        valence, arousal: (n,) means over each bin, in [-1, 1].
        expression: (n,) class 0-7 that was most often the first in the bin.
        step: usual seconds from one moment to the next; over three of them is time out of sight.
    """

    track: int
    frames: int
    time: NDArray[np.float64]
    valence: NDArray[np.float64]
    arousal: NDArray[np.float64]
    expression: NDArray[np.int64]
    step: float


class OverTime:
    """Adds up results frame by frame into bins of time, which double in width when there are many.

    Of very many persons those seen in most frames are kept.
    """

    def __init__(self) -> None:
        self.width = _FIRST_WIDTH
        self.end = 0.0
        self._tracks: dict[int, dict[int, NDArray[np.float64]]] = defaultdict(dict)

    def add(self, result: PictureResult) -> None:
        """Take in the next frame."""
        time = result.time or 0.0
        self.end = max(self.end, time)
        while self.end / self.width > MOST_BINS:
            self._widen()
        place = int(time / self.width)
        for face in result.faces:
            if face.track is None:
                continue
            bins = self._tracks[face.track]
            if place not in bins:
                bins[place] = np.zeros(3 + N_EXPRESSIONS)
            bins[place][:3] += (1.0, face.valence, face.arousal)
            bins[place][3 + EXPRESSIONS.index(face.expression)] += 1
        if len(self._tracks) > 2 * MOST_TRACKS:
            kept = sorted(self._tracks, key=self._frames, reverse=True)[:MOST_TRACKS]
            self._tracks = defaultdict(dict, {n: self._tracks[n] for n in kept})

    def courses(self) -> list[Course]:
        """Return the persons, those in most frames first."""
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
                    sums[:, 3:].argmax(axis=1),
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
