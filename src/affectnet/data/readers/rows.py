"""Faces as they are met in a release, a piece at a time, and the verdict on each at the end."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.archive import Source, Spool
from affectnet.data.readers.part import (
    BAD_LABEL,
    DUPLICATE,
    MINUS_TWO,
    MISSING,
    ORPHAN_ANNOTATION,
    ORPHAN_IMAGE,
    OUTSIDE,
    REASONS,
    UNREADABLE_ID,
    Dropped,
    Part,
)
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS

# What may be known of a face, as bits. Plain integers: an IntFlag would cost more than the reading.
EXP, VAL, ARO, LND, IMAGE = 1, 2, 4, 8, 16
NAMES: Final = {EXP: "exp", VAL: "val", ARO: "aro", LND: "lnd", IMAGE: "image"}
NEEDED: Final = EXP | VAL | ARO | IMAGE


class Rows:
    """The faces of one part so far: one entry a face in every column.

    Plain arrays, not objects, so a million faces take some 250 MB; they are longer than the number
    of faces, `len(index)`. `seen` holds the bits above; `faults` what is wrong with a row;
    `repeats` which pieces came twice, with another content (the piece's name) or the same (an
    empty string); `images_again` row, source, place and size of images that came twice, to be
    compared at the end.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.index: dict[bytes, int] = {}
        self.faults: dict[int, list[tuple[str, str]]] = {}
        self.repeats: dict[int, set[str]] = {}
        self.images_again: list[tuple[int, int, int, int]] = []
        self.seen = np.zeros(0, np.uint8)
        self.numbers = {kind: np.zeros(0) for kind in (EXP, VAL, ARO)}
        self.landmarks = np.zeros(0, np.int64)
        self.source = np.zeros(0, np.int16)
        self.place = np.zeros(0, np.int64)
        self.size = np.zeros(0, np.int64)
        self._grow(1024)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the rows of ids, new ones for those not met before."""
        index = self.index
        number = index.setdefault
        rows = np.array([number(key, len(index)) for key in keys], np.int64)
        if len(index) > len(self.seen):
            self._grow(max(len(index), 2 * len(self.seen)))
        return rows

    def _grow(self, length: int) -> None:
        def longer(column: NDArray[Any], fill: int) -> NDArray[Any]:
            return np.append(column, np.full(length - len(column), fill, column.dtype))

        self.seen = longer(self.seen, 0)
        self.numbers = {kind: longer(column, 0) for kind, column in self.numbers.items()}
        self.landmarks = longer(self.landmarks, -1)
        self.source = longer(self.source, -1)
        self.place = longer(self.place, -1)
        self.size = longer(self.size, -1)

    def are_new(self, rows: NDArray[np.int64], kind: int) -> bool:
        """Whether no row has this piece yet, nor comes twice among `rows`."""
        return not (self.seen[rows] & kind).any() and len(np.unique(rows)) == len(rows)

    def fault(self, row: int, reason: str, detail: str) -> None:
        """Note that a row cannot be used."""
        self.faults.setdefault(row, []).append((reason, detail))

    def repeat(self, row: int, kind: int, same: bool) -> None:
        """Note that a piece of a row came once more."""
        self.repeats.setdefault(row, set()).add("" if same else NAMES[kind])

    def compare_images(self, sources: Sequence[Source]) -> None:
        """Find out whether the images that came twice are the same."""
        for row, number, place, size in self.images_again:
            same = self.size[row] == size and self.source[row] >= 0
            if same:
                first, again = bytearray(size), bytearray(size)
                at = int(self.place[row])
                sources[self.source[row]].read_into([at], [size], memoryview(first), [0])
                sources[number].read_into([place], [size], memoryview(again), [0])
                same = first == again
            self.repeat(row, IMAGE, same)

    def verdict(self, sources: Sequence[Source], landmark_file: Spool) -> Part:
        """Part the usable faces from the others.

        Raises:
            DataError: not one is usable.
        """
        self._check_numbers()
        dropped: list[Dropped] = []
        good: list[tuple[str, int]] = []
        order = {reason: i for i, reason in enumerate(REASONS)}
        seen = self.seen[: len(self.index)].tolist()
        for key, row in self.index.items():
            name = _readable(key)
            found = self.faults.get(row, [])
            if seen[row] & NEEDED != NEEDED:
                found = [*found, _incomplete(seen[row])]
            again = self.repeats.get(row)
            if again is not None:
                found = [*found, *_different(again)]
            if name is None:
                name = key.decode("utf-8", "backslashreplace")
                found = [*found, (UNREADABLE_ID, "a file name that is not UTF-8")]
            if found:
                reason, detail = min(found, key=lambda fault: (order[fault[0]], fault[1]))
                dropped.append(Dropped(self.part, name, reason, detail))
            else:
                good.append((name, row))
                if again is not None:
                    detail = "the same again; one of them is kept"
                    dropped.append(Dropped(self.part, name, DUPLICATE, detail))
        if not good:
            raise _nothing_usable(self.part, dropped)
        good.sort(key=lambda face: (len(face[0]), face[0]))
        dropped.sort(key=lambda line: (len(line.id), line.id))
        rows = np.array([row for _, row in good], np.int64)
        return Part(
            name=self.part,
            ids=[name for name, _ in good],
            expression=self.numbers[EXP][rows].astype(np.int8),
            valence=self.numbers[VAL][rows].astype(np.float32),
            arousal=self.numbers[ARO][rows].astype(np.float32),
            sources=sources,
            source=self.source[rows],
            place=self.place[rows],
            size=self.size[rows],
            landmark_file=landmark_file,
            landmark_place=self.landmarks[rows],
            dropped=dropped,
        )

    def _check_numbers(self) -> None:
        """Note labels that are out of their range."""
        seen = self.seen
        label = self.numbers[EXP]
        bad = ~((label >= 0) & (label < N_EXPRESSIONS) & (label == np.floor(label)))
        for row in np.flatnonzero(bad & (seen & EXP > 0)).tolist():
            self._fault_of_number(row, BAD_LABEL, EXP)
        for kind in (VAL, ARO):
            value = self.numbers[kind]
            bad = ~((value >= -1) & (value <= 1))
            for row in np.flatnonzero(bad & (seen & kind > 0)).tolist():
                self._fault_of_number(row, MINUS_TWO if value[row] == -2 else OUTSIDE, kind)

    def _fault_of_number(self, row: int, reason: str, kind: int) -> None:
        value = float(self.numbers[kind][row])
        shown = int(value) if math.isfinite(value) and value == int(value) else value
        self.fault(row, reason, f"{NAMES[kind]} is {shown}")


def _incomplete(seen: int) -> tuple[str, str]:
    missing = ", ".join(name for kind, name in NAMES.items() if kind & NEEDED & ~seen)
    if not seen & IMAGE:
        there = ", ".join(name for kind, name in NAMES.items() if kind & seen)
        return ORPHAN_ANNOTATION, f"only {there}"
    if seen == IMAGE:
        return ORPHAN_IMAGE, f"no {missing}"
    return MISSING, f"no {missing}"


def _different(again: set[str]) -> list[tuple[str, str]]:
    pieces = sorted(again - {""})
    if not pieces:
        return []
    return [(DUPLICATE, f"comes twice with different contents: {', '.join(pieces)}")]


def _readable(key: bytes) -> str | None:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _nothing_usable(part: str, dropped: Sequence[Dropped]) -> DataError:
    counts = Counter(line.reason for line in dropped)
    example = dropped[0]
    listed = ", ".join(f"{n} x {reason}" for reason, n in counts.most_common())
    return DataError(
        f"not one of the {len(dropped)} faces of {part} is usable: {listed}; for example "
        f"'{example.id}': {example.detail}; give both the images and the annotations of a part"
    )
