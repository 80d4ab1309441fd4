"""Which numbers of faces in a film are the same person, where the number of persons is known.

A face gets a new number after a cut, or when it was out of sight. The numbers are joined by the
colours of head and clothes and by the place in the image; faces are not recognised.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box
from affectnet.data.images import Pixels
from affectnet.errors import ConfigError
from affectnet.inference.baseline import at_the_end
from affectnet.inference.results import PictureResult

Pictures = Mapping[int, str]

MAX_PEOPLE: Final = 50
PLACE_WEIGHT: Final = 0.2
"""What half of the image's width between two places adds to the distance; colours add up to 1."""
_SECONDS: Final = 0.25
_LONG: Final = 1.0
_MOST: Final = 1000
_APART: Final = 100.0
_BINS: Final = (4, 8, 8)  # of lightness, green to red, and blue to yellow
_CLOTHES: Final = Box(-0.3, 1.2, 1.6, 0.8)
"""Where clothes are, in widths and heights of the face's box, from its corner."""


@dataclass(slots=True)
class _Looks:
    """What one number looks like: sums over the frames that were looked at."""

    last: float
    colours: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, np.prod(_BINS))))
    frames: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    place: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def mean(self) -> NDArray[np.float64]:
        """Return the histograms (2, bins) of face and clothes; NaN where they were not seen."""
        with np.errstate(invalid="ignore"):
            return self.colours / self.frames[:, None]


class People:
    """Joins the numbers of a film to those of at most `count` persons.

    Numbers that are in sight together are different persons. Of the others, those that look most
    alike are joined first (complete linkage), until `count` are left. Numbers in sight for under a
    second join the person whom they resemble most.

    Raises `ConfigError` for a count out of range.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_PEOPLE:
            raise ConfigError(f"people is {count}; it may be 1 to {MAX_PEOPLE}")
        self.count = count
        self._looks: dict[int, _Looks] = {}
        self._together: set[tuple[int, int]] = set()

    def add(self, result: PictureResult, pixels: Pixels) -> None:
        """Look at the next frame, with its pixels."""
        time = result.time or 0.0
        numbers = sorted(face.track for face in result.faces if face.track is not None)
        self._together.update(combinations(numbers, 2))
        for face in result.faces:
            if face.track is None:
                continue
            looks = self._looks.get(face.track)
            if looks is None:
                looks = self._looks[face.track] = _Looks(-np.inf)
            if time - looks.last < _SECONDS:
                continue
            looks.last = time
            x, y, width, height = face.box
            clothes = Box(
                x + _CLOTHES.x * width,
                y + _CLOTHES.y * height,
                _CLOTHES.width * width,
                _CLOTHES.height * height,
            )
            for part, box in enumerate((face.box, clothes)):
                colours = _colours(pixels, box)
                if colours is not None:
                    looks.colours[part] += colours
                    looks.frames[part] += 1
            looks.place += np.array([x + width / 2, y + height / 2]) / pixels.shape[1]

    def persons(self) -> dict[int, int]:
        """Return the person, from 1, of each number; persons are in the order of appearance.

        There are more than `count` only where more were in sight together.
        """
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        numbers = list(self._looks)
        if len(numbers) < 2:
            return dict.fromkeys(numbers, 1)
        seen = np.array([self._looks[n].frames[0] * _SECONDS for n in numbers])
        apart = self._distances(numbers)
        order = np.argsort(-seen, kind="stable")
        long = order[(seen[order] >= _LONG) | (np.arange(len(order)) < self.count)][:_MOST]
        group = np.full(len(numbers), -1)
        group[long] = 0
        if len(long) > 1:
            tree = linkage(squareform(apart[np.ix_(long, long)], checks=False), "complete")
            # Two that were in sight together stay apart, even if more than `count` remain.
            possible = int(fcluster(tree, _APART / 2, "distance").max())
            group[long] = fcluster(tree, max(self.count, possible), "maxclust") - 1
        for i in order[group[order] < 0]:
            furthest = [apart[i, group == g].max() for g in range(group.max() + 1)]
            nearest = int(np.argmin(furthest))
            group[i] = nearest if furthest[nearest] < _APART else group.max() + 1
        persons: dict[int, int] = {}
        for g in group.tolist():
            persons.setdefault(g, len(persons) + 1)
        return {number: persons[g] for number, g in zip(numbers, group.tolist(), strict=True)}

    def _distances(self, numbers: list[int]) -> NDArray[np.float64]:
        """Return distances of all pairs of numbers: Hellinger's of the colours, and of places."""
        looks = [self._looks[number] for number in numbers]
        roots = np.sqrt([one.mean() for one in looks])
        places = np.array([one.place / max(1, one.frames[0]) for one in looks])
        n = len(numbers)
        apart = np.zeros((n, n))
        for i in range(n):
            both = np.sqrt(np.maximum(0, 1 - (roots[i] * roots).sum(axis=2)))  # (n, 2)
            away = np.hypot(*(places - places[i]).T) / 0.5
            apart[i] = np.nanmean(both, axis=1) + PLACE_WEIGHT * np.minimum(1, away)
        index = {number: i for i, number in enumerate(numbers)}
        for a, b in self._together:
            apart[index[a], index[b]] = apart[index[b], index[a]] = _APART
        np.fill_diagonal(apart, 0)
        return apart


def joined(
    results: Iterable[tuple[PictureResult, Pictures]], people: People
) -> Generator[tuple[PictureResult, Pictures], None, None]:
    """Yield the results of a film with the numbers of persons, once `people` has seen all of it."""
    persons: dict[int, int] = {}
    for result, pictures in at_the_end(results, lambda _: None):
        persons = persons or people.persons()
        faces = tuple(
            face if face.track is None else replace(face, track=persons[face.track])
            for face in result.faces
        )
        yield (
            replace(result, faces=faces),
            {persons[number]: picture for number, picture in pictures.items()},
        )


def _colours(pixels: Pixels, box: Box) -> NDArray[np.float64] | None:
    """Return the fractions of the colours in a box; None where under half of it is in the image."""
    height, width = pixels.shape[:2]
    left, right = (round(min(max(x, 0), width)) for x in (box.x, box.x + box.width))
    top, bottom = (round(min(max(y, 0), height)) for y in (box.y, box.y + box.height))
    if (right - left) * (bottom - top) < max(4.0, 0.5 * box.width * box.height):
        return None
    small = cv2.resize(pixels[top:bottom, left:right], (32, 32), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
    edges = [(0, 256), (88, 168), (88, 168)]  # green to red and blue to yellow hardly leave these
    lab = np.clip(lab, [low for low, _ in edges], [high - 1e-6 for _, high in edges])
    counts, _ = np.histogramdd(lab, _BINS, edges)
    return np.asarray(counts.ravel() / counts.sum())
