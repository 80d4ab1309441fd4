"""AffectNet's eight-class release: `PART/images/ID.jpg` and `PART/annotations/ID_{exp,...}.npy`.

The parts are `train_set` and `val_set`, told apart by these names inside the archive or folder.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, repeat
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.archive import Images, Progress, Source, Spool, open_source
from affectnet.data.readers.checker import ImageChecker
from affectnet.data.readers.jpegcheck import look_whole
from affectnet.data.readers.npy import (
    NpyScalars,
    group_names,
    plain_numbers,
    plain_points,
    read_points,
)
from affectnet.data.readers.part import LANDMARK_BYTES, UNDECODABLE, UNREADABLE, Part
from affectnet.data.readers.rows import ARO, EXP, IMAGE, LND, NAMES, VAL, Rows
from affectnet.data.readers.tarscan import MAX_MEMBER, Block
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError

Check = Literal["decode", "header"]

PARTS: Final = ("train_set", "val_set")
SPLIT_PARTS: Final = {"train": "train_set", "test": "val_set"}
"""What the parts are for: AffectNet's own validation part is the test split."""
FOLDERS: Final = tuple(f"{part}/{kind}" for part in PARTS for kind in ("images", "annotations"))

_PIECES = {b"_exp.npy": EXP, b"_val.npy": VAL, b"_aro.npy": ARO, b"_lnd.npy": LND, b".jpg": IMAGE}
_ENDINGS = tuple(_PIECES)
_IMAGES, _ANNOTATIONS = 1, 2
_KINDS = {b"images": _IMAGES, b"annotations": _ANNOTATIONS}
_NO_ROWS = Rows("")
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
        images: list[tuple[int, Rows, int]] = []
        groups, alone = group_names(block.names, _ENDINGS)
        starts, sizes = np.array(block.starts, np.int64), np.array(block.sizes, np.int64)
        found = 0
        for group in groups:
            rows, kind = self._folders.get(group.folder) or self._folder(group.folder)
            piece = _PIECES[group.ending]
            if kind != (_IMAGES if piece == IMAGE else _ANNOTATIONS):
                alone = np.append(alone, group.members)
                continue
            members, at = group.members, rows.find(group.stems)
            left = self._take_group(rows, at, piece, block, starts[members], sizes[members])
            if piece == IMAGE and not left.any():
                rows.place[at] = [source.keep(block, i) for i in members.tolist()]
                rows.source[at] = number
                images += zip(members.tolist(), repeat(rows), at.tolist(), strict=False)
            alone = np.append(alone, members[left])
            found += len(members) - int(left.sum())
        for i in alone.tolist():
            found += self._take(source, number, block, i, images, others)
        if self._only_header:
            at = np.array([i for i, _, _ in images], np.int64)
            images = list(compress(images, ~look_whole(block.data, starts[at], sizes[at])))
        self._checker.check(block, [(i, partial(rows.fault, row)) for i, rows, row in images])
        return found

    def _take_group(
        self,
        rows: Rows,
        at: NDArray[np.int64],
        piece: int,
        block: Block,
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Note one piece of many rows at once; return which files need a look of their own."""
        if (starts < 0).any() or not rows.are_new(at, piece):
            return np.ones(len(at), bool)
        if piece == IMAGE:
            rows.size[at] = sizes
            read = np.ones(len(at), bool)
        elif piece == LND:
            points, read = plain_points(block.data, starts, sizes, N_LANDMARKS)
            places = self._landmark_file.append(points.tobytes())
            rows.landmarks[at[read]] = places + LANDMARK_BYTES * np.arange(len(points))
        else:
            numbers, read = plain_numbers(block.data, starts, sizes)
            rows.numbers[piece][at[read]] = numbers[read]
        rows.seen[at[read]] |= piece
        return ~read

    def _take(
        self,
        source: Source,
        number: int,
        block: Block,
        i: int,
        images: list[tuple[int, Rows, int]],
        others: Counter[bytes],
    ) -> bool:
        """Note one file, whatever it is; return whether it belongs to the release."""
        name = block.names[i]
        path, _, file = name.rpartition(b"/")
        rows, kind = self._folders.get(path) or self._folder(path)
        hidden = file[:1] == b"."  # what macOS and editors leave: ._1.jpg, .DS_Store
        if kind == _ANNOTATIONS and file[-8:] in _PIECES and not hidden:
            row = int(rows.find([file[:-8]])[0])
            if _PIECES[file[-8:]] == LND:
                self._landmarks(rows, row, block, i)
            else:
                self._label(rows, row, _PIECES[file[-8:]], block, i)
            return True
        stem, _, suffix = file.rpartition(b".")
        if kind == _IMAGES and suffix.lower() in _IMAGE_SUFFIXES and not hidden:
            row = int(rows.find([stem])[0])
            if self._image(rows, row, source, number, block, i):
                images.append((i, rows, row))
            return True
        if not hidden:
            others[name.removeprefix(b"./").partition(b"/")[0]] += 1
        return False

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
        """Note the landmarks of a row."""
        start, size = block.starts[i], block.sizes[i]
        again = rows.seen[row] & LND
        rows.seen[row] |= LND
        data = bytes(block.data[start : start + size]) if start >= 0 and size < 1 << 16 else b""
        points = read_points(data, N_LANDMARKS)
        if isinstance(points, str):
            rows.fault(row, UNREADABLE, f"{NAMES[LND]}: {points if data else f'{size:,} bytes'}")
        elif again:
            place = int(rows.landmarks[row])
            before = self._landmark_file.read(place, len(points)) if place >= 0 else b""
            rows.repeat(row, LND, before == points)
        else:
            rows.landmarks[row] = self._landmark_file.append(points)

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
