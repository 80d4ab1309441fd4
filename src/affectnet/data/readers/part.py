"""What every reader hands over: the faces of one part of a release, images still in the source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.sources import Source, Spool
from affectnet.data.store import N_LANDMARKS
from affectnet.labels import N_EXPRESSIONS

ORPHAN_ANNOTATION: Final = "annotation without image"
ORPHAN_IMAGE: Final = "image without annotation"
UNREADABLE_ID: Final = "unreadable id"
DUPLICATE: Final = "duplicate id"
TRUNCATED: Final = "truncated image"
UNDECODABLE: Final = "undecodable image"
MISSING: Final = "missing annotation"
UNREADABLE: Final = "unreadable annotation"
BAD_LABEL: Final = "label outside 0-7"
MINUS_TWO: Final = "valence or arousal is -2"
OUTSIDE: Final = "valence or arousal outside [-1, 1]"

REASONS: Final = (
    ORPHAN_ANNOTATION,
    ORPHAN_IMAGE,
    UNREADABLE_ID,
    DUPLICATE,
    TRUNCATED,
    UNDECODABLE,
    MISSING,
    UNREADABLE,
    BAD_LABEL,
    MINUS_TWO,
    OUTSIDE,
)
"""Why rows are dropped. A row with several faults counts under the first of this order."""


class Dropped(NamedTuple):
    """One line of `dropped.csv`."""

    part: str
    id: str
    reason: str
    detail: str


@dataclass
class Part:
    """The usable faces of one part of a release, in the order of (length of id, id).

    So rows come in the same order however the source was packed, and plain numbers in theirs.

    `expression` is int8 (n,), -1 where missing; `valence` and `arousal` float32 (n,), NaN where
    missing; `soft` float32 (n, 8), NaN where missing, or None. Image i is kept by
    `sources[source[i]]` at `place[i]`, `size[i]` bytes long. `landmark_place` points into
    `landmark_file`, -1 where there are none. `left_out` counts usable faces above a class cap.
    """

    name: str
    ids: list[str]
    expression: NDArray[np.int8]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    sources: Sequence[Source]
    source: NDArray[np.int16]
    place: NDArray[np.int64]
    size: NDArray[np.int64]
    landmark_file: Spool
    landmark_place: NDArray[np.int64]
    dropped: list[Dropped]
    soft: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, rows: NDArray[np.int64]) -> list[bytes | memoryview]:
        """Read the encoded images of some rows again."""
        if len(self.sources) == 1:
            return self.sources[0].read(self.place[rows].tolist(), self.size[rows].tolist())
        found: list[bytes | memoryview] = [b""] * len(rows)
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(self.source[rows] == number)
            places, sizes = self.place[rows[here]].tolist(), self.size[rows[here]].tolist()
            for i, data in zip(here.tolist(), source.read(places, sizes), strict=True):
                found[i] = data
        return found

    def landmarks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the landmarks of some rows, float32 (n, 136), and where there are none."""
        values = np.zeros((len(rows), 2 * N_LANDMARKS), np.float32)
        places = self.landmark_place[rows]
        known = np.flatnonzero(places >= 0)
        width = values.itemsize * 2 * N_LANDMARKS
        if len(known):
            found = self.landmark_file.read_all(places[known].tolist(), width)
            values[known] = np.frombuffer(found, "<f4").reshape(-1, 2 * N_LANDMARKS)
        return values, places < 0

    def soft_labels(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the soft labels of some rows, float32 (n, 8), and where there are none."""
        if self.soft is None:
            return np.zeros((len(rows), N_EXPRESSIONS), np.float32), np.ones(len(rows), bool)
        values = self.soft[rows]
        absent = np.isnan(values[:, 0])
        return np.nan_to_num(values), absent
