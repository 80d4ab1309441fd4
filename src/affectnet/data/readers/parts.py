"""The parts of a release while they are read, and what the user chose for the reading."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from affectnet.data.crop import (
    ALIGNMENT,
    alignment,
    crop_transform,
    eye_centres,
    move_points,
    warp,
)
from affectnet.data.readers.affectnet import Check, Release
from affectnet.data.readers.annotations import Bad
from affectnet.data.readers.archive import Progress
from affectnet.data.readers.collect import Collector, Edit, Picture, Points, Record
from affectnet.data.readers.kept import Scratch, SpoolImages
from affectnet.data.readers.part import BAD_BOX, NO_EYES, Part
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError

_AT_ONCE = 16

Labels = Literal["majority", "shares"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a release is to be read.

    `scratch` is a folder for temporary files; `check` as for `read_affectnet`; `progress` gives a
    bar for a name; `margin` is the share of the face box added on each side where faces are
    cropped; `face_size` the side in pixels of faces that are cropped or aligned; `align` asks for
    eyes in fixed places; `class_order` says what labels mean (see `Classes`); `labels` what becomes
    of votes.
    """

    scratch: Path
    check: Check
    progress: Callable[[str], Progress]
    margin: float = 0.1
    face_size: int = 224
    align: bool = False
    class_order: tuple[str, ...] = ()
    labels: Labels = "majority"

    def edit(self, cropped: bool) -> Edit | None:
        """Return what is to be made of each picture; `cropped` tells that it is a face already."""
        if self.align:
            return self._align
        return None if cropped else self._crop

    def settings(self, cropped: bool) -> dict[str, Any]:
        """Return what `dataset.json` records of the pictures.

        `alignment` and `margin` belong into a model's `config.json` too: prediction repeats them.
        """
        edited = self.align or not cropped
        return {
            "alignment": ALIGNMENT if self.align else None,
            "margin": None if self.align or cropped else self.margin,
            "face_size": self.face_size if edited else None,
        }

    def _align(self, picture: Picture, record: Record) -> tuple[Picture, Points | None]:
        if record.landmarks is None:
            raise Bad(NO_EYES, "no landmarks")
        try:
            transform = alignment(picture, *eye_centres(record.landmarks), self.face_size)
        except DataError as error:
            raise Bad(NO_EYES, str(error)) from error
        return warp(picture, transform, self.face_size), move_points(record.landmarks, transform)

    def _crop(self, picture: Picture, record: Record) -> tuple[Picture, Points | None]:
        if record.box is None:
            raise Bad(BAD_BOX, "no box")
        try:
            transform = crop_transform(picture, record.box, self.margin, self.face_size)
        except DataError as error:
            raise Bad(BAD_BOX, str(error)) from error
        points = record.landmarks
        if points is not None:
            points = move_points(points, transform)
        return warp(picture, transform, self.face_size), points


class Parts:
    """Collectors for the parts of a release, made on first use; a context manager.

    Args:
        options: how to read.
        cropped: whether the pictures are faces already.
        columns: extra columns.
    """

    def __init__(
        self, options: Options, *, cropped: bool = True, columns: pa.Schema | None = None
    ) -> None:
        self._options = options
        self._cropped = cropped
        self._columns = columns
        self._collectors: dict[str, Collector] = {}
        self._scratch = Scratch(options.scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for collector in self._collectors.values():
            collector.close()
        if kind is not None:
            self._scratch.close()

    def __getitem__(self, name: str) -> Collector:
        """Return the collector of a part."""
        if name not in self._collectors:
            edit = self._options.edit(self._cropped)
            self._collectors[name] = Collector(
                name, self._scratch, self._options.check, edit, self._columns
            )
        return self._collectors[name]

    def release(
        self, name: str, splits: Mapping[str, str], other_files: int = 0, **settings: Any
    ) -> Release:
        """Finish all parts.

        Args:
            name: the release's.
            splits: split -> part.
            other_files: how many files belong to no part.
            settings: choices of this release to be recorded.

        Raises:
            DataError: a part has not one usable face.
        """
        if not self._collectors:
            raise DataError(f"the sources hold not one face of {name}; give the whole release")
        parts = {part: collector.finish() for part, collector in self._collectors.items()}
        return Release(
            parts,
            other_files,
            [SpoolImages(self._scratch.images)],
            self._scratch.landmarks,
            name,
            {split: part for split, part in splits.items() if part in parts},
            self._options.settings(self._cropped) | settings,
        )


def align_release(release: Release, options: Options) -> Release:
    """Align the faces of a release that has been read without.

    Faces without landmarks are dropped; the old release is closed.

    Raises:
        DataError: not one face of a part can be aligned.
    """
    with release, Parts(options) as parts:
        for name, part in release.parts.items():
            collector = parts[name]
            bar = options.progress(f"aligning {name}")
            for done, record in enumerate(_records(part)):
                collector.add(record)
                bar(done, len(part))
            collector.dropped += part.dropped
        return parts.release(release.name, release.splits, release.other_files, **release.settings)


def _records(part: Part) -> Iterator[Record]:
    """Go through the faces of a part that has been read."""
    for first in range(0, len(part), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(part)))
        landmarks, absent = part.landmarks(rows)
        images = part.images(rows)
        for i, row in enumerate(rows.tolist()):
            yield Record(
                part.ids[row],
                images[i],
                int(part.expression[row]),
                float(part.valence[row]),
                float(part.arousal[row]),
                None if absent[i] else landmarks[i].reshape(N_LANDMARKS, 2),
            )
