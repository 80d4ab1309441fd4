"""What every reader hands over: the faces of one part of a release, images still in the source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affectnet.data.readers.archive import Images, Spool
from affectnet.data.store import N_LANDMARKS
from affectnet.labels import N_EXPRESSIONS
from affectnet.seven import CONTEMPT, seven_votes

LANDMARK_BYTES: Final = 4 * 2 * N_LANDMARKS
"""What the landmarks of a face take in the temporary file: float32, one face after the other."""

_DENSE = 16

ORPHAN_ANNOTATION: Final = "annotation without image"
ORPHAN_IMAGE: Final = "image without annotation"
UNREADABLE_ID: Final = "unreadable id"
DUPLICATE: Final = "duplicate id"
TRUNCATED: Final = "truncated image"
UNDECODABLE: Final = "undecodable image"
MISSING: Final = "missing annotation"
UNREADABLE: Final = "unreadable annotation"
NO_EXPRESSION: Final = "none, uncertain, unknown or no face"
NO_MAJORITY: Final = "no majority among the votes"
BAD_LABEL: Final = "label outside 0-7"
MINUS_TWO: Final = "valence or arousal is -2"
OUTSIDE: Final = "valence or arousal outside [-1, 1]"
BAD_BOX: Final = "unusable face box"
NO_EYES: Final = "cannot be aligned"
CONTEMPT_LEFT_OUT: Final = "contempt, left out as asked"

REASONS: Final = (
    ORPHAN_ANNOTATION,
    ORPHAN_IMAGE,
    UNREADABLE_ID,
    DUPLICATE,
    TRUNCATED,
    UNDECODABLE,
    MISSING,
    UNREADABLE,
    NO_EXPRESSION,
    NO_MAJORITY,
    BAD_LABEL,
    MINUS_TWO,
    OUTSIDE,
    BAD_BOX,
    NO_EYES,
    CONTEMPT_LEFT_OUT,
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
    `landmark_file`, -1 where there are none. `extra` holds further columns, a value a face.
    """

    name: str
    ids: list[str]
    expression: NDArray[np.int8]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    sources: Sequence[Images]
    source: NDArray[np.int16]
    place: NDArray[np.int64]
    size: NDArray[np.int64]
    landmark_file: Spool
    landmark_place: NDArray[np.int64]
    dropped: list[Dropped]
    soft: NDArray[np.float32] | None = None
    extra: Mapping[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def leave_out_contempt(self) -> NDArray[np.bool_]:
        """Note the faces of contempt as dropped, scale soft labels to the other seven expressions.

        Soft labels that are of contempt alone go. Returns which faces are left, bool (n,).
        """
        left: NDArray[np.bool_] = self.expression != CONTEMPT
        for row in np.flatnonzero(~left).tolist():
            self.dropped.append(Dropped(self.name, self.ids[row], CONTEMPT_LEFT_OUT, ""))
        if self.soft is not None:
            self.soft = seven_votes(self.soft)
        return left

    def read_images(self, rows: NDArray[np.int64], target: memoryview) -> None:
        """Read the encoded images of some rows again, one behind the other, into memory."""
        sizes = self.size[rows]
        ends = np.cumsum(sizes)
        begins = ends - sizes
        for number, source in enumerate(self.sources):
            here = self.source[rows] == number
            if here.any():
                places = self.place[rows[here]].tolist()
                source.read_into(places, sizes[here].tolist(), target, begins[here].tolist())

    def images(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the encoded images of some rows."""
        sizes = self.size[rows]
        target = bytearray(int(sizes.sum()))
        self.read_images(rows, memoryview(target))
        ends = np.cumsum(sizes).tolist()
        return [bytes(target[e - s : e]) for s, e in zip(sizes.tolist(), ends, strict=True)]

    def landmarks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the landmarks of some rows, float32 (n, 136), and where there are none."""
        values = np.zeros((len(rows), 2 * N_LANDMARKS), np.float32)
        places = self.landmark_place[rows]
        known = places >= 0
        if known.any():
            wanted = places[known]
            first, behind = int(wanted.min()), int(wanted.max()) + LANDMARK_BYTES
            if behind - first <= _DENSE * LANDMARK_BYTES * len(wanted):
                # Mostly what is wanted, so one reading is the fastest.
                data = self.landmark_file.read(first, behind - first)
                wanted = (wanted - first) // LANDMARK_BYTES
            else:
                data = b"".join(self.landmark_file.read(at, LANDMARK_BYTES) for at in wanted)
                wanted = np.arange(len(wanted))
            values[known] = np.frombuffer(data, "<f4").reshape(-1, 2 * N_LANDMARKS)[wanted]
        return values, ~known

    def soft_labels(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the soft labels of some rows, float32 (n, 8), and where there are none."""
        if self.soft is None:
            return np.zeros((len(rows), N_EXPRESSIONS), np.float32), np.ones(len(rows), bool)
        values = self.soft[rows]
        absent = np.isnan(values[:, 0])
        return np.nan_to_num(values), absent
