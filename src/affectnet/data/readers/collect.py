"""Faces one after another, their images looked at by threads, into one part of a release."""

import hashlib
import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affectnet.data.images import count_pixels, decode_image, looks_whole
from affectnet.data.readers.annotations import Bad, Fault, as_unicode, whole_text
from affectnet.data.readers.checker import ends_early
from affectnet.data.readers.kept import PathImages, Scratch, SpoolImages, encode_face, read_image
from affectnet.data.readers.part import (
    DUPLICATE,
    TRUNCATED,
    UNDECODABLE,
    UNREADABLE_ID,
    Dropped,
    Part,
)
from affectnet.data.readers.tarscan import MAX_MEMBER
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS
from affectnet.threads import cores

_LARGE = 4_000_000
_MOST_THREADS = 16
_HELD_BYTES = 64 << 20
_HELD = 256

Points = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(slots=True)
class Record:
    """One face of an annotation file; None where it says nothing.

    `image` is a file, or the encoded bytes; `landmarks` (68, 2) and `box` (x, y, width, height)
    are in pixels of that image; `extra` has a value for each of the part's extra columns.
    """

    id: str
    image: Path | bytes
    expression: int | None = None
    valence: float | None = None
    arousal: float | None = None
    landmarks: Points | None = None
    soft: NDArray[np.float32] | None = None
    box: tuple[float, float, float, float] | None = None
    extra: tuple[Any, ...] = ()


Edit = Callable[[Picture, Record], tuple[Picture, Points | None]]
"""Makes of a picture the face to keep, and moves the landmarks; raises `Bad`."""


@dataclass(slots=True)
class _Look:
    """What a thread found out about an image."""

    record: Record
    fault: Fault | None = None
    data: bytes | None = None  # to be spooled; None where the file serves
    size: int = 0
    digest: bytes = b""
    landmarks: Points | None = None


@dataclass
class _Columns:
    """The good faces so far."""

    ids: list[str] = field(default_factory=list)
    expression: "array[int]" = field(default_factory=lambda: array("b"))
    affect: "array[float]" = field(default_factory=lambda: array("f"))
    soft: "array[float]" = field(default_factory=lambda: array("f"))
    source: "array[int]" = field(default_factory=lambda: array("h"))
    place: "array[int]" = field(default_factory=lambda: array("q"))
    size: "array[int]" = field(default_factory=lambda: array("q"))
    landmarks: "array[int]" = field(default_factory=lambda: array("q"))


class Collector:
    """Takes the faces of one part in any order, and gives the part.

    Images are decoded by threads while the annotations are read on; the result
    does not depend on their number. Of an id that comes twice with the same content one is kept;
    with another content none is.

    Args:
        name: the part's.
        scratch: where images that are no files of their own, and landmarks, are kept.
        check: 'decode' every image, or look at its 'header' where that is enough.
        edit: makes the face to keep of each decoded picture; kept as JPEG of quality 95.
        columns: extra columns.
    """

    def __init__(
        self,
        name: str,
        scratch: Scratch,
        check: str = "decode",
        edit: Edit | None = None,
        columns: pa.Schema | None = None,
    ) -> None:
        self.name = name
        self.dropped: list[Dropped] = []
        self._scratch = scratch
        self._only_header = check == "header"
        self._edit = edit
        self._schema = columns if columns is not None else pa.schema([])
        self._extra: list[list[Any]] = [[] for _ in self._schema]
        self._paths = PathImages()
        self._rows = _Columns()
        self._index: dict[str, int] = {}
        self._digests: list[bytes] = []
        self._bad: set[int] = set()
        self._held: deque[tuple[str, Future[_Look] | Fault, int]] = deque()
        self._held_bytes = 0
        self._one_large = threading.Lock()
        self._pool = ThreadPoolExecutor(min(cores(), _MOST_THREADS), "look-at-image")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def add(self, record: Record) -> None:
        """Take in a face; waits for others when too much is under way."""
        if not record.id or not whole_text(record.id):
            self.drop(
                record.id[:200], UNREADABLE_ID, "an empty id, or one that is no text in UTF-8"
            )
            return
        waiting = len(record.image) if isinstance(record.image, bytes) else 0
        while self._held and (len(self._held) >= _HELD or self._held_bytes + waiting > _HELD_BYTES):
            self._settle()
        self._held.append((record.id, self._pool.submit(self._look, record), waiting))
        self._held_bytes += waiting

    def drop(self, name: str, reason: str, detail: str) -> None:
        """Note a row that cannot be used; its id counts as taken."""
        # In line with the others, else which of two comes first would depend on the threads.
        self._held.append((as_unicode(name), (reason, detail), 0))
        while len(self._held) > _HELD:
            self._settle()

    def _note(self, name: str, reason: str, detail: str) -> None:
        self.dropped.append(Dropped(self.name, name, reason, as_unicode(detail)))

    def _settle(self) -> None:
        name, task, waiting = self._held.popleft()
        self._held_bytes -= waiting
        if isinstance(task, tuple):
            self._fault(name, task)
            return
        look = task.result()
        if look.fault is not None:
            self._fault(name, look.fault)
            return
        record = look.record
        row = self._index.get(name)
        digest = _digest(record, look)
        if row is None:
            self._keep(record, look, digest)
        elif row >= 0 and self._digests[row] == digest:
            self._note(record.id, DUPLICATE, "the same again; one of them is kept")
        elif row >= 0:
            self._refuse(record.id, row)
        else:
            self._note(record.id, DUPLICATE, "comes twice, once in a row that cannot be used")

    def _fault(self, name: str, fault: Fault) -> None:
        self._note(name, *fault)
        row = self._index.setdefault(name, -1)
        if row >= 0:
            self._refuse(name, row)

    def _refuse(self, name: str, row: int) -> None:
        if row not in self._bad:
            self._bad.add(row)
            self._note(name, DUPLICATE, "comes twice with different contents")

    def _keep(self, record: Record, look: _Look, digest: bytes) -> None:
        rows = self._rows
        self._index[record.id] = len(rows.ids)
        self._digests.append(digest)
        rows.ids.append(record.id)
        rows.expression.append(-1 if record.expression is None else record.expression)
        for value in (record.valence, record.arousal):
            rows.affect.append(np.nan if value is None else value)
        rows.soft.extend([np.nan] * N_EXPRESSIONS if record.soft is None else record.soft.tolist())
        if look.data is None:
            rows.source.append(0)
            rows.place.append(len(self._paths.paths))
            self._paths.paths.append(str(record.image))
        else:
            rows.source.append(1)
            rows.place.append(self._scratch.images.append(look.data))
        rows.size.append(look.size)
        points = look.landmarks
        rows.landmarks.append(
            -1 if points is None else self._scratch.landmarks.append(points.astype("<f4").tobytes())
        )
        for column, value in zip(self._extra, record.extra, strict=True):
            column.append(value)

    def finish(self) -> Part:
        """Return the part, its faces in the order of (length of id, id).

        Raises:
            DataError: not one face is usable.
        """
        while self._held:
            self._settle()
        rows = self._rows
        good = [row for row in range(len(rows.ids)) if row not in self._bad]
        if not good:
            raise self._nothing_usable()
        good.sort(key=lambda row: (len(rows.ids[row]), rows.ids[row]))
        order = np.array(good, np.int64)
        soft = np.array(rows.soft, np.float32).reshape(-1, N_EXPRESSIONS)[order]
        affect = np.array(rows.affect, np.float32).reshape(-1, 2)[order]
        self.dropped.sort(key=lambda line: (len(line.id), line.id))
        return Part(
            name=self.name,
            ids=[rows.ids[row] for row in good],
            expression=np.array(rows.expression, np.int8)[order],
            valence=affect[:, 0].copy(),
            arousal=affect[:, 1].copy(),
            sources=[self._paths, SpoolImages(self._scratch.images)],
            source=np.array(rows.source, np.int16)[order],
            place=np.array(rows.place, np.int64)[order],
            size=np.array(rows.size, np.int64)[order],
            landmark_file=self._scratch.landmarks,
            landmark_place=np.array(rows.landmarks, np.int64)[order],
            dropped=self.dropped,
            soft=None if np.isnan(soft).all() else soft,
            extra={
                column.name: pa.array(values, column.type).take(pa.array(order))
                for column, values in zip(self._schema, self._extra, strict=True)
            },
        )

    def _nothing_usable(self) -> DataError:
        if not self.dropped:
            return DataError(f"{self.name} holds not one face; give the whole release")
        counts = Counter(line.reason for line in self.dropped).most_common()
        listed = ", ".join(f"{n} x {reason}" for reason, n in counts)
        example = min(self.dropped, key=lambda line: line.reason != counts[0][0])
        return DataError(
            f"not one of the {len(self.dropped)} faces of {self.name} is usable: {listed}; for "
            f"example '{example.id}': {example.detail}"
        )

    def _look(self, record: Record) -> _Look:
        """Read, check and, where asked for, edit one image; runs in a thread."""
        try:
            given = record.image
            data = read_image(given) if isinstance(given, Path) else given
            if not data:
                raise Bad(UNDECODABLE, "an empty file")
            if len(data) > MAX_MEMBER:
                raise Bad(UNDECODABLE, f"{len(data):,} bytes; at most {MAX_MEMBER:,} are read")
            points = record.landmarks
            kept: bytes | None = None if isinstance(given, Path) else data
            if self._edit is not None or not (self._only_header and looks_whole(memoryview(data))):
                if count_pixels(memoryview(data)) > _LARGE:
                    with self._one_large:  # a few hundred megabytes each: one at a time
                        edited = self._decode(data, record)
                else:
                    edited = self._decode(data, record)
                if edited is not None:
                    kept, points = edited
        except Bad as bad:
            return _Look(record, bad.fault)
        # Whether two are the same is told by what was there, not by what is made of it.
        digest = hashlib.blake2b(data, digest_size=16).digest()
        return _Look(record, None, kept, len(data) if kept is None else len(kept), digest, points)

    def _decode(self, data: bytes, record: Record) -> tuple[bytes, Points | None] | None:
        try:
            picture = decode_image(data)
        except DataError as error:
            detail = str(error).removeprefix("the image cannot be decoded: ")
            reason = TRUNCATED if ends_early(memoryview(data)) else UNDECODABLE
            raise Bad(reason, detail) from error
        if self._edit is None:
            return None
        face, points = self._edit(picture, record)
        return encode_face(face), points


def _digest(record: Record, look: _Look) -> bytes:
    """Hash all that is known of a face."""
    points = None if record.landmarks is None else record.landmarks.tobytes()
    soft = None if record.soft is None else record.soft.tobytes()
    labels = (record.expression, record.valence, record.arousal, record.box, record.extra)
    text = repr((labels, points, soft)).encode()
    return hashlib.blake2b(text + look.digest, digest_size=16).digest()
