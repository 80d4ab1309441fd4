"""AffectNet's eight-class release: `PART/images/ID.jpg` and `PART/annotations/ID_{exp,...}.npy`.

The parts are `train_set` and `val_set`, told apart by these names inside the archive or folder.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from affectnet.data.readers.checker import ImageChecker
from affectnet.data.readers.jpegcheck import look_whole
from affectnet.data.readers.npy import (
    NOT_FINITE,
    NpyScalars,
    plain_points_header,
    read_points,
    to_single,
)
from affectnet.data.readers.part import LANDMARK_BYTES, UNDECODABLE, UNREADABLE, Part
from affectnet.data.readers.rows import ARO, EXP, IMAGE, LND, NAMES, VAL, Rows
from affectnet.data.readers.sources import Images, Progress, Source, Spool, open_source
from affectnet.data.readers.tarscan import MAX_MEMBER, Block
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError

Check = Literal["decode", "header"]

PARTS: Final = ("train_set", "val_set")
SPLIT_PARTS: Final = {"train": "train_set", "test": "val_set"}
"""What the parts are for: AffectNet's own validation part is the test split."""
FOLDERS: Final = tuple(f"{part}/{kind}" for part in PARTS for kind in ("images", "annotations"))

_SUFFIXES = {
    b"_exp.npy": EXP,
    b"_val.npy": VAL,
    b"_aro.npy": ARO,
    b"_lnd.npy": LND,
}
_SUFFIX = 8  # so long is each of them
_IMAGES, _ANNOTATIONS = 1, 2
_KINDS = {b"images": _IMAGES, b"annotations": _ANNOTATIONS}
_NO_ROWS = Rows("")
_POINTS_HEADER = plain_points_header(N_LANDMARKS)
_POINTS_SIZE = len(_POINTS_HEADER) + 16 * N_LANDMARKS
_IMAGE_SUFFIXES = frozenset(b"jpg jpeg png bmp webp gif tif tiff ppm".split())


@dataclass
class Release:
    """What reading a release gave; a context to be left once the images have been copied.

    `parts` has an entry for each part that was there; `other_files` counts files that belong to
    none. `splits` tells which part each split is made of, `settings` the choices to be recorded.
    """

    parts: dict[str, Part]
    other_files: int
    sources: Sequence[Images]
    landmark_file: Spool
    name: str = "affectnet"
    splits: Mapping[str, str] = field(default_factory=lambda: dict(SPLIT_PARTS))
    settings: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> "Release":
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources:
            source.close()
        self.landmark_file.close()


def read_affectnet(
    paths: Sequence[Path],
    scratch: Path,
    check: Check,
    progress: Callable[[str], Progress],
) -> Release:
    """Read one or both parts of AffectNet's eight-class release, in one pass over each source.

    Labels are strings, floats or integers of shape () or (1,). A face needs an image and its
    expression, valence and arousal; landmarks may be missing. Everything else is dropped, with
    the reason, in `Part.dropped`. Of an id that comes twice with the same content one is kept; with
    another content none is, as nobody can tell which is right.

    Args:
        paths: tar archives and folders, in any order; a part may be spread over several.
        scratch: folder for temporary files: the landmarks, and the images of compressed archives.
        check: 'decode' decodes every image; 'header' looks at the header and the end marker of
            JPEGs, and decodes only those that fail this and other formats.
        progress: called with a source's name, gives what is called with (done, whole).

    Raises:
        DataError: a source is missing, damaged, unsafe, or no part of the release; or a part has
            not one usable face.
    """
    sources: list[Source] = []
    landmark_file = Spool(scratch)
    release = Release({}, 0, sources, landmark_file)
    try:
        rows = {part.encode(): Rows(part) for part in PARTS}
        with ImageChecker() as checker:
            reading = _Reading(rows, landmark_file, checker, check)
            for number, path in enumerate(paths):
                sources.append(open_source(path, scratch, FOLDERS))
                reading.read(sources[number], number, progress(sources[number].name))
        for part in rows.values():
            part.compare_images(sources)
            if part.index:
                release.parts[part.part] = part.verdict(sources, landmark_file)
        release.other_files = reading.other_files
    except BaseException:
        release.__exit__()
        raise
    return release


class _Reading:
    """Sorts the files of all sources into rows."""

    def __init__(
        self, rows: dict[bytes, Rows], landmark_file: Spool, checker: ImageChecker, check: Check
    ) -> None:
        self.other_files = 0
        self._rows = rows
        self._landmark_file = landmark_file
        self._checker = checker
        self._only_header = check == "header"
        self._scalars = NpyScalars()
        self._folders: dict[bytes, tuple[Rows, int]] = {}
        self._points: list[tuple[Rows, int, bytes]] = []

    def read(self, source: Source, number: int, progress: Progress) -> None:
        """Take in a source; `number` is its place among the sources."""
        found = 0
        others: Counter[bytes] = Counter()
        with closing(source.blocks(progress)) as blocks:
            for block in blocks:
                self._refuse_links(source, block)
                found += self._sort(source, number, block, others)
            self._checker.finish()
        if not found:
            raise _nothing_found(source.name, others)
        self.other_files += others.total()

    def _sort(self, source: Source, number: int, block: Block, others: Counter[bytes]) -> int:
        """Sort the files of a block into rows; return how many belong to the release."""
        found = 0
        images: list[tuple[int, Rows, int]] = []
        folders = self._folders
        for i, name in enumerate(block.names):
            path, _, file = name.rpartition(b"/")
            rows, kind = folders.get(path) or self._folder(path)
            if kind == _ANNOTATIONS:
                piece = _SUFFIXES.get(file[-_SUFFIX:])
                if piece is not None and file[:1] != b".":
                    row = rows.index.get(file[:-_SUFFIX])
                    if row is None:
                        row = rows.new(file[:-_SUFFIX])
                    if piece != LND:
                        self._label(rows, row, piece, block, i)
                    else:
                        self._landmarks(rows, row, block, i)
                    found += 1
                    continue
            elif kind == _IMAGES:
                stem, _, suffix = file.rpartition(b".")
                if suffix.lower() in _IMAGE_SUFFIXES and file[:1] != b".":
                    row = rows.index.get(stem)
                    if row is None:
                        row = rows.new(stem)
                    if self._image(rows, row, source, number, block, i):
                        images.append((i, rows, row))
                    found += 1
                    continue
            if file[:1] != b".":  # what macOS and editors leave (._1.jpg, .DS_Store) is not told
                others[name.removeprefix(b"./").partition(b"/")[0]] += 1
        self._convert_points()
        if self._only_header:
            at = [i for i, _, _ in images]
            starts, sizes = (
                np.array(block.starts, np.int64)[at],
                np.array(block.sizes, np.int64)[at],
            )
            images = list(compress(images, ~look_whole(block.data, starts, sizes)))
        self._checker.check(block, [(i, partial(rows.fault, row)) for i, rows, row in images])
        return found

    def _folder(self, path: bytes) -> tuple[Rows, int]:
        """Tell the part and the kind of files of a folder; remembered, as there are only a few."""
        names = path.split(b"/")
        rows = self._rows.get(names[-2]) if len(names) > 1 else None
        found = (rows, _KINDS.get(names[-1], 0)) if rows is not None else (_NO_ROWS, 0)
        if len(self._folders) < 1000:  # an odd archive may have a folder a file
            self._folders[path] = found
        return found

    def _image(
        self, rows: Rows, row: int, source: Source, number: int, block: Block, i: int
    ) -> bool:
        """Note where the image of a row is; return whether it has to be looked at."""
        start, size = block.starts[i], block.sizes[i]
        first = not rows.seen[row] & IMAGE
        rows.seen[row] |= IMAGE
        if start < 0:
            rows.fault(row, UNDECODABLE, f"{size:,} bytes; at most {MAX_MEMBER:,} are read")
            return False
        place = source.keep(block, i)
        if not first:
            rows.images_again.append((row, number, place, size))
            return False
        rows.source[row] = number
        rows.place[row] = place
        rows.size[row] = size
        return True

    def _label(self, rows: Rows, row: int, piece: int, block: Block, i: int) -> None:
        """Note the expression, valence or arousal of a row."""
        start = block.starts[i]
        if start >= 0:
            value = self._scalars.read(block.data[start : start + block.sizes[i]].tobytes())
        else:
            value = f"{block.sizes[i]:,} bytes where a few were due"
        if isinstance(value, str):
            rows.fault(row, UNREADABLE, f"{NAMES[piece]}: {value}")
            value = math.nan
        if rows.seen[row] & piece:
            rows.repeat(row, piece, rows.numbers[piece][row] == value)
        else:
            rows.seen[row] |= piece
            rows.numbers[piece][row] = value

    def _landmarks(self, rows: Rows, row: int, block: Block, i: int) -> None:
        """Note the landmarks of a row; those of the usual form are converted many at once."""
        start, size = block.starts[i], block.sizes[i]
        again = rows.seen[row] & LND
        rows.seen[row] |= LND
        data = bytes(block.data[start : start + size]) if start >= 0 and size < 1 << 16 else b""
        if not again and size == _POINTS_SIZE and data.startswith(_POINTS_HEADER):
            self._points.append((rows, row, data[len(_POINTS_HEADER) :]))
            return
        points = read_points(data, N_LANDMARKS)
        if isinstance(points, str):
            rows.fault(row, UNREADABLE, f"{NAMES[LND]}: {points if data else f'{size:,} bytes'}")
        elif again:
            self._convert_points()  # the first ones may still be waiting
            place = rows.landmarks[row]
            before = self._landmark_file.read(place, len(points)) if place >= 0 else b""
            rows.repeat(row, LND, before == points)
        else:
            rows.landmarks[row] = self._landmark_file.append(points)

    def _convert_points(self) -> None:
        waiting, self._points = self._points, []
        if not waiting:
            return
        numbers = np.frombuffer(b"".join([data for _, _, data in waiting]), "<f8")
        single, finite = to_single(numbers.reshape(len(waiting), -1))
        place = self._landmark_file.append(single.tobytes())
        for (rows, row, _), good in zip(waiting, finite.tolist(), strict=True):
            if good:
                rows.landmarks[row] = place
            else:
                rows.fault(row, UNREADABLE, f"{NAMES[LND]}: {NOT_FINITE}")
            place += LANDMARK_BYTES

    def _refuse_links(self, source: Source, block: Block) -> None:
        for name in block.links:
            if any(folder in self._rows for folder in name.split(b"/")):
                shown = name.decode("utf-8", "backslashreplace")
                raise DataError(
                    f"{source.name} holds the link '{shown}'; links in an archive are not "
                    "followed: pack it again with `tar --dereference --hard-dereference`"
                )


def _nothing_found(source: str, others: Counter[bytes]) -> DataError:
    names = ", ".join(f"'{name.decode('utf-8', 'replace')}'" for name, _ in others.most_common(4))
    return DataError(
        f"{source} holds no part of AffectNet: it needs the folder train_set or val_set with "
        f"images and annotations below, and holds {names or 'no files of theirs'}"
    )
