"""Faces as they are met in a release, a piece at a time, and the verdict on each at the end."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from affectnet.data.readers.sources import Source, Spool
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS

# What may be known of a face, as bits. Plain integers: an IntFlag would cost more than the reading.
EXP, VAL, ARO, LND, IMAGE = 1, 2, 4, 8, 16
NAMES: Final = {EXP: "exp", VAL: "val", ARO: "aro", LND: "lnd", IMAGE: "image"}
NEEDED: Final = EXP | VAL | ARO | IMAGE


@dataclass
class Rows:
    """The faces of one part so far: one entry a face in every column.

    Plain arrays, not objects, so a million faces take some 250 MB. `seen` holds the bits above;
    `faults` what is wrong with a row; `repeats` which pieces came twice, with another content
    (the piece's name) or the same (an empty string); `images_again` row, source, place and size of
    images that came twice, to be compared at the end.
    """

    part: str
    index: dict[bytes, int] = field(default_factory=dict)
    seen: bytearray = field(default_factory=bytearray)
    numbers: dict[int, "array[float]"] = field(
        default_factory=lambda: {kind: array("d") for kind in (EXP, VAL, ARO)}
    )
    landmarks: "array[int]" = field(default_factory=lambda: array("q"))
    source: "array[int]" = field(default_factory=lambda: array("h"))
    place: "array[int]" = field(default_factory=lambda: array("q"))
    size: "array[int]" = field(default_factory=lambda: array("q"))
    faults: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    repeats: dict[int, set[str]] = field(default_factory=dict)
    images_again: list[tuple[int, int, int, int]] = field(default_factory=list)

    def new(self, key: bytes) -> int:
        """Add a row for an id that `index` does not have; return its number."""
        row = self.index[key] = len(self.seen)
        self.seen.append(0)
        for column in self.numbers.values():
            column.append(0.0)
        self.landmarks.append(-1)
        self.source.append(-1)
        self.place.append(-1)
        self.size.append(-1)
        return row

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
                sources[self.source[row]].read_into(
                    [self.place[row]], [size], memoryview(first), [0]
                )
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
        for key, row in self.index.items():
            name = _readable(key)
            found = self.faults.get(row, [])
            if self.seen[row] & NEEDED != NEEDED:
                found = [*found, _incomplete(self.seen[row])]
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
            expression=self._numbers(EXP)[rows].astype(np.int8),
            valence=self._numbers(VAL)[rows].astype(np.float32),
            arousal=self._numbers(ARO)[rows].astype(np.float32),
            sources=sources,
            source=np.array(self.source, np.int16)[rows],
            place=np.array(self.place, np.int64)[rows],
            size=np.array(self.size, np.int64)[rows],
            landmark_file=landmark_file,
            landmark_place=np.array(self.landmarks, np.int64)[rows],
            dropped=dropped,
        )

    def _numbers(self, kind: int) -> NDArray[np.float64]:
        return np.frombuffer(self.numbers[kind], np.float64)

    def _check_numbers(self) -> None:
        """Note labels that are out of their range."""
        seen = np.frombuffer(self.seen, np.uint8)
        label = self._numbers(EXP)
        bad = ~((label >= 0) & (label < N_EXPRESSIONS) & (label == np.floor(label)))
        for row in np.flatnonzero(bad & (seen & EXP > 0)).tolist():
            self._fault_of_number(row, BAD_LABEL, EXP)
        for kind in (VAL, ARO):
            value = self._numbers(kind)
            bad = ~((value >= -1) & (value <= 1))
            for row in np.flatnonzero(bad & (seen & kind > 0)).tolist():
                self._fault_of_number(row, MINUS_TWO if value[row] == -2 else OUTSIDE, kind)

    def _fault_of_number(self, row: int, reason: str, kind: int) -> None:
        value = self.numbers[kind][row]
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
