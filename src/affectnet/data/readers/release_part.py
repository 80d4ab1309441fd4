"""The faces of one part of a release: how they are collected, judged, and passed on."""

import io
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affectnet.data.orientation import upright_annotations
from affectnet.data.readers.archive import ImageStore, Spool
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS
from affectnet.seven import CONTEMPT, seven_votes

LANDMARK_BYTES: Final = 4 * 2 * N_LANDMARKS
"""Size of the landmarks of a face in the temporary file: float32, one face after the other."""


class Reason(StrEnum):
    """Why rows are dropped; keys of `dataset.json`.

    A face with several faults counts under the first in this order.
    """

    ORPHAN_ANNOTATION = "annotation without image"
    ORPHAN_IMAGE = "image without annotation"
    UNREADABLE_ID = "unreadable id"
    DUPLICATE = "duplicate id"
    TRUNCATED = "truncated image"
    UNDECODABLE = "undecodable image"
    MISSING = "missing annotation"
    UNREADABLE = "unreadable annotation"
    NO_EXPRESSION = "none, uncertain, unknown or no face"
    NO_MAJORITY = "no majority among the votes"
    BAD_LABEL = "label outside 0-7"
    MINUS_TWO = "valence or arousal is -2"
    OUTSIDE = "valence or arousal outside [-1, 1]"
    BAD_BOX = "unusable face box"
    NO_EYES = "cannot be aligned"
    NOT_AN_IMAGE = "file that is not an image"
    CONTEMPT_LEFT_OUT = "contempt, left out as asked"


# What is known of a face, as bits. Plain integers: an IntFlag would take longer than the reading.
EXP, VAL, ARO, LND, IMAGE, WHOLE = 1, 2, 4, 8, 16, 32
PIECES: Final = {EXP: "exp", VAL: "val", ARO: "aro", LND: "lnd", IMAGE: "image"}
NEEDED: Final = EXP | VAL | ARO | IMAGE

_DENSE = 16
_SAME_AGAIN = "occurs again with the same content; one of them is used"
_TWO_CONTENTS = "occurs twice with different contents"
_NO_SOFT = [np.nan] * N_EXPRESSIONS
_ROW = np.dtype(
    [("seen", "u1"), ("source", "i2")]
    + [(name, "f8") for name in ("exp", "val", "aro")]
    + [(name, "i8") for name in ("landmarks", "place", "size")],
    align=True,
)
_EMPTY_ROW = np.array((0, -1, np.nan, np.nan, np.nan, -1, -1, -1), _ROW)

Fault = tuple[Reason, str]
"""Reason and detail of a drop."""


class Dropped(NamedTuple):
    """One line of `dropped.csv`."""

    part: str
    id: str
    reason: Reason
    detail: str


@dataclass
class ReleasePart:
    """The usable faces of one part of a release, in the order of (length of id, id).

    So the order of the rows does not depend on how the source was packed, and numbers count up.

    `expression` is int8 (n,), -1 where missing; `valence` and `arousal` float32 (n,), NaN where
    missing; `soft` float32 (n, 8), NaN where missing, or None. Image i is in `sources[source[i]]`
    at `place[i]` and has `size[i]` bytes. `landmark_place` points into `landmark_file`, -1 where
    there are none. `extra` holds further columns, one value per face. `turned` counts the images
    that were turned upright.
    """

    name: str
    ids: list[str]
    expression: NDArray[np.int8]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    sources: Sequence[ImageStore]
    source: NDArray[np.int16]
    place: NDArray[np.int64]
    size: NDArray[np.int64]
    landmark_file: Spool
    landmark_place: NDArray[np.int64]
    dropped: list[Dropped]
    soft: NDArray[np.float32] | None = None
    extra: Mapping[str, pa.Array] = field(default_factory=dict)
    turned: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def leave_out_contempt(self) -> NDArray[np.bool_]:
        """List the faces of contempt as dropped and rescale soft labels to the other seven classes.

        Soft labels of contempt alone are removed. Returns which faces are left, bool (n,).
        """
        left: NDArray[np.bool_] = self.expression != CONTEMPT
        for row in np.flatnonzero(~left).tolist():
            self.dropped.append(Dropped(self.name, self.ids[row], Reason.CONTEMPT_LEFT_OUT, ""))
        if self.soft is not None:
            self.soft = seven_votes(self.soft)
        return left

    def read_images(self, rows: NDArray[np.int64], target: memoryview) -> None:
        """Read the encoded images of some rows into memory, one after the other."""
        ends = np.cumsum(self.size[rows])
        begins = ends - self.size[rows]
        for number, source in enumerate(self.sources):
            here = self.source[rows] == number
            if here.any():
                spans = zip(begins[here].tolist(), ends[here].tolist(), strict=True)
                places = self.place[rows[here]].tolist()
                source.read_into(places, [target[begin:end] for begin, end in spans])

    def images(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the encoded images of some rows."""
        target = io.BytesIO(bytes(int(self.size[rows].sum())))
        self.read_images(rows, target.getbuffer())
        return [target.read(size) for size in self.size[rows].tolist()]

    def landmarks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the landmarks of some rows, float32 (n, 136), and which rows have none."""
        values = np.zeros((len(rows), 2 * N_LANDMARKS), np.float32)
        places = self.landmark_place[rows]
        known = places >= 0
        if known.any():
            wanted = places[known]
            first, end = int(wanted.min()), int(wanted.max()) + LANDMARK_BYTES
            if end - first <= _DENSE * LANDMARK_BYTES * len(wanted):
                # Most of it is wanted, so reading all of it at once is the fastest.
                data = self.landmark_file.read(first, end - first)
                wanted = (wanted - first) // LANDMARK_BYTES
            else:
                data = b"".join(self.landmark_file.read(at, LANDMARK_BYTES) for at in wanted)
                wanted = np.arange(len(wanted))
            values[known] = np.frombuffer(data, "<f4").reshape(-1, 2 * N_LANDMARKS)[wanted]
        return values, ~known

    def soft_labels(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the soft labels of some rows, float32 (n, 8), and which rows have none."""
        if self.soft is None:
            return np.zeros((len(rows), N_EXPRESSIONS), np.float32), np.ones(len(rows), bool)
        values = self.soft[rows]
        absent = np.isnan(values[:, 0])
        return np.nan_to_num(values), absent


@dataclass
class RawRelease:
    """A release that has been read; a context manager, left once the images have been copied.

    `splits` states which part each split is made of; `other_files` counts files that belong to no
    part; `settings` are recorded in `dataset.json`.
    """

    name: str
    parts: dict[str, ReleasePart]
    splits: Mapping[str, str]
    sources: Sequence[ImageStore]
    landmark_file: Spool
    other_files: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources:
            source.close()
        self.landmark_file.close()


class FaceTable:
    """The faces of one part while they are read, in any order; `build` judges them at the end.

    A face comes whole (`admit` or `drop`), or in pieces, many faces at once: `find` the rows and
    set their columns in `rows`. Plain arrays instead of objects, so a million faces take about
    250 MB; `rows` is longer than the number of faces, `len(index)`.

    Of an id that occurs twice with the same content one face is used, with different contents none.
    """

    def __init__(self, part: str, columns: pa.Schema | None = None) -> None:
        self.part = part
        self.index: dict[bytes, int] = {}
        self.rows = np.full(1024, _EMPTY_ROW)
        self.dropped: list[Dropped] = []
        self.images_again: list[tuple[int, int, int, int]] = []
        """Row, source, place and size of images that came twice, to be compared at the end."""
        self.turned: set[int] = set()
        """Rows whose image was turned upright."""
        self._turns: dict[int, tuple[tuple[int, int, int], int, tuple[int, int]]] = {}
        self._faults: dict[int, list[Fault]] = {}
        self._repeats: dict[int, set[str]] = {}  # differing pieces; "" stands for the same content
        self._unusable: set[int] = set()
        # Of whole faces alone:
        self._digests: list[bytes] = []  # empty for a row that cannot be used
        self._soft = array("f")
        self._columns = pa.schema([]) if columns is None else columns
        self._extra: list[list[Any]] = [[] for _ in self._columns]

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the rows of ids, new rows for new ids."""
        index = self.index
        number = index.setdefault
        found = np.array([number(key, len(index)) for key in keys], np.int64)
        if len(index) > len(self.rows):
            longer = np.full(max(len(index), 2 * len(self.rows)), _EMPTY_ROW)
            longer[: len(self.rows)] = self.rows
            self.rows = longer
        return found

    def are_new(self, rows: NDArray[np.int64], piece: int) -> bool:
        """Whether no row has this piece yet or occurs twice among `rows`."""
        return not (self.rows["seen"][rows] & piece).any() and len(np.unique(rows)) == len(rows)

    def fault(self, row: int, reason: Reason, detail: str) -> None:
        """Note that a face cannot be used."""
        self._faults.setdefault(row, []).append((reason, detail))

    def turn(
        self, row: int, image: tuple[int, int, int], orientation: int, upright: tuple[int, int]
    ) -> None:
        """Note that an image was turned: its new source, place and size, and how.

        The landmarks, which may not be known yet, are turned at the end; see `upright_annotations`.
        """
        self._turns[row] = image, orientation, upright

    def repeat(self, row: int, piece: int, same: bool) -> None:
        """Note that a piece of a face came again."""
        self._repeats.setdefault(row, set()).add("" if same else PIECES[piece])

    def admit(
        self, name: str, digest: bytes, soft: NDArray[np.float32] | None, extra: Sequence[Any]
    ) -> int | None:
        """Return the new row of a whole face; None, with a line in `dropped`, if the id is taken.

        `digest` is a hash of everything known of the face, `extra` its values of the extra columns.
        """
        row = self.index.get(name.encode())
        if row is None:
            return self._new_row(name, digest, soft, extra)
        if self._digests[row] == digest:
            self._note(name, Reason.DUPLICATE, _SAME_AGAIN)
        elif self._digests[row]:
            self._refuse(name, row)
        else:
            self._note(name, Reason.DUPLICATE, "occurs twice, once in a row that cannot be used")
        return None

    def drop(self, name: str, reason: Reason, detail: str) -> None:
        """Note a whole face that cannot be used; its id counts as taken."""
        self._note(name, reason, detail)
        row = self.index.get(name.encode())
        if row is None:
            row = self._new_row(name, b"", None, [None] * len(self._extra))
            self._unusable.add(row)
        elif self._digests[row]:
            self._refuse(name, row)

    def _new_row(
        self, name: str, digest: bytes, soft: NDArray[np.float32] | None, extra: Sequence[Any]
    ) -> int:
        self._digests.append(digest)
        self._soft.extend(_NO_SOFT if soft is None else soft.tolist())
        for column, value in zip(self._extra, extra, strict=True):
            column.append(value)
        row = int(self.find([name.encode()])[0])
        self.rows["seen"][row] = WHOLE
        return row

    def _note(self, name: str, reason: Reason, detail: str) -> None:
        self.dropped.append(Dropped(self.part, name, reason, detail))

    def _refuse(self, name: str, row: int) -> None:
        if row not in self._unusable:
            self._unusable.add(row)
            self._note(name, Reason.DUPLICATE, _TWO_CONTENTS)

    def build(self, sources: Sequence[ImageStore], landmark_file: Spool) -> ReleasePart:
        """Separate the usable faces from the others.

        Raises:
            DataError: no face is usable.
        """
        self._compare_images(sources)
        self._use_turned(landmark_file)
        names = [_readable(key) for key in self.index]
        self._judge_pieces(names)
        good = [
            (len(name), name, row)
            for row, name in enumerate(names)
            if name is not None and row not in self._unusable
        ]
        if not good:
            raise self._nothing_usable()
        good.sort()
        self.dropped.sort(key=lambda line: (len(line.id), line.id))
        order = np.array([row for _, _, row in good], np.int64)
        column = {name: self.rows[name][order] for name in self.rows.dtype.names or ()}
        soft = np.array(self._soft, np.float32).reshape(-1, N_EXPRESSIONS)
        return ReleasePart(
            name=self.part,
            ids=[name for _, name, _ in good],
            expression=column["exp"].astype(np.int8),
            valence=column["val"].astype(np.float32),
            arousal=column["aro"].astype(np.float32),
            sources=sources,
            source=column["source"],
            place=column["place"],
            size=column["size"],
            landmark_file=landmark_file,
            landmark_place=column["landmarks"],
            dropped=self.dropped,
            soft=None if not len(soft) or np.isnan(soft[order]).all() else soft[order],
            extra={
                kind.name: pa.array(values, kind.type).take(pa.array(order))
                for kind, values in zip(self._columns, self._extra, strict=True)
            },
            turned=sum(row in self.turned for _, _, row in good),
        )

    def _use_turned(self, landmark_file: Spool) -> None:
        """Replace turned images and their landmarks."""
        for row, (image, orientation, upright) in self._turns.items():
            self.turned.add(row)
            for column, value in zip(("source", "place", "size"), image, strict=True):
                self.rows[column][row] = value
            place = int(self.rows["landmarks"][row])
            if place >= 0:
                read = np.frombuffer(landmark_file.read(place, LANDMARK_BYTES), "<f4")
                points, _ = upright_annotations(read.reshape(-1, 2), None, orientation, upright)
                new = np.asarray(points, "<f4").tobytes()
                self.rows["landmarks"][row] = landmark_file.append(new)

    def _compare_images(self, sources: Sequence[ImageStore]) -> None:
        """Find out whether the images that came twice are the same."""
        for row, number, place, size in self.images_again:
            before = self.rows[row]
            same = bool(before["size"] == size and before["source"] >= 0)
            if same:
                first, again = bytearray(size), bytearray(size)
                store = sources[before["source"]]
                store.read_into([int(before["place"])], [memoryview(first)])
                sources[number].read_into([place], [memoryview(again)])
                same = first == again
            self.repeat(row, IMAGE, same)

    def _judge_pieces(self, names: Sequence[str | None]) -> None:
        """Give each face that came in pieces at most one line in `dropped`."""
        self._check_numbers()
        order = {reason: i for i, reason in enumerate(Reason)}
        seen = self.rows["seen"][: len(names)]
        incomplete = np.flatnonzero((seen & NEEDED != NEEDED) & (seen & WHOLE == 0)).tolist()
        unreadable = [row for row, name in enumerate(names) if name is None]
        keys = list(self.index)
        for row in sorted({*self._faults, *self._repeats, *incomplete, *unreadable}):
            found = list(self._faults.get(row, []))
            if seen[row] & NEEDED != NEEDED:
                found.append(_incomplete(int(seen[row])))
            pieces = ", ".join(sorted(self._repeats.get(row, set()) - {""}))
            if pieces:
                found.append((Reason.DUPLICATE, f"{_TWO_CONTENTS}: {pieces}"))
            name = names[row]
            if name is None:
                name = keys[row].decode("utf-8", "backslashreplace")
                found.append((Reason.UNREADABLE_ID, "a file name that is not UTF-8"))
            if found:
                self._unusable.add(row)
                self._note(name, *min(found, key=lambda fault: (order[fault[0]], fault[1])))
            else:
                self._note(name, Reason.DUPLICATE, _SAME_AGAIN)

    def _check_numbers(self) -> None:
        """Note labels that are out of their range."""
        seen = self.rows["seen"]
        label = self.rows["exp"]
        bad = ~((label >= 0) & (label < N_EXPRESSIONS) & (label == np.floor(label)))
        for row in np.flatnonzero(bad & (seen & EXP > 0)).tolist():
            self.fault(row, Reason.BAD_LABEL, f"exp is {plain_number(label[row])}")
        for piece in (VAL, ARO):
            value = self.rows[PIECES[piece]]
            bad = ~((value >= -1) & (value <= 1))
            for row in np.flatnonzero(bad & (seen & piece > 0)).tolist():
                self.fault(row, *affect_fault(value[row], PIECES[piece]))

    def _nothing_usable(self) -> DataError:
        counts = Counter(line.reason for line in self.dropped).most_common()
        listed = ", ".join(f"{n} x {reason}" for reason, n in counts)
        example = next(line for line in self.dropped if line.reason == counts[0][0])
        return DataError(
            f"none of the {len(self.dropped)} faces of {self.part} is usable: {listed}; for "
            f"example '{example.id}': {example.detail}; give the whole release, images and labels"
        )


def affect_fault(value: float, name: str) -> Fault:
    """Return why a valence or arousal that is not in [-1, 1] cannot be used."""
    reason = Reason.MINUS_TWO if value == -2 else Reason.OUTSIDE
    return reason, f"{name} is {plain_number(value)}"


def plain_number(value: float) -> str:
    """Write a number with all its digits; whole numbers without a point."""
    return str(float(value)).removesuffix(".0")


def _incomplete(seen: int) -> Fault:
    if not seen & IMAGE:
        there = ", ".join(name for bit, name in PIECES.items() if bit & seen)
        return Reason.ORPHAN_ANNOTATION, f"only {there}"
    missing = ", ".join(name for bit, name in PIECES.items() if bit & NEEDED & ~seen)
    return Reason.ORPHAN_IMAGE if seen == IMAGE else Reason.MISSING, f"no {missing}"


def _readable(key: bytes) -> str | None:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return None
