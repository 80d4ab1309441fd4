"""AffectNet's eight-class release: `PART/images/ID.jpg` and `PART/annotations/ID_{exp,...}.npy`.

The parts are `train_set` and `val_set`, recognised by these names inside the archive or folder.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import compress, repeat
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.file_kinds import IMAGE_SUFFIXES
from affectnet.data.readers.annotations import read_npy_number, read_npy_points
from affectnet.data.readers.archive import Archive, Progress, open_source
from affectnet.data.readers.bulk import group_names, have_sound_headers, plain_numbers, plain_points
from affectnet.data.readers.engine import (
    BlockImages,
    Engine,
    ImageRow,
    ReadOptions,
    align_release,
    split_block,
    too_large,
)
from affectnet.data.readers.release_part import (
    ARO,
    EXP,
    IMAGE,
    LANDMARK_BYTES,
    LND,
    PIECES,
    VAL,
    FaceTable,
    RawRelease,
    Reason,
)
from affectnet.data.readers.tarscan import FileBlock
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError

PARTS: Final = ("train_set", "val_set")
SPLIT_PARTS: Final = {"train": "train_set", "test": "val_set"}
"""Split -> part: AffectNet's own validation part is the test split."""

_ENDINGS = {b"_exp.npy": EXP, b"_val.npy": VAL, b"_aro.npy": ARO, b"_lnd.npy": LND, b".jpg": IMAGE}
_IMAGES, _ANNOTATIONS = 1, 2
_KINDS = {"images": _IMAGES, "annotations": _ANNOTATIONS}
_NO_TABLE = FaceTable("")
_SUFFIXES = frozenset(suffix.encode() for suffix in IMAGE_SUFFIXES)


def read_affectnet(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read one or both parts of AffectNet's eight-class release, in one pass over each source.

    Labels are strings, floats or integers of shape () or (1,). A face needs an image and its
    expression, valence and arousal; landmarks may be missing. Everything else is dropped, with
    the reason, in `ReleasePart.dropped`.

    Args:
        paths: tar archives and folders, in any order; a part may be spread over several.
        options: how to read; with `align` the faces are aligned in a second step.

    Raises:
        DataError: a source is missing, damaged, unsafe, or not a part of the release; or a part has
            no usable face.
    """
    other_files = 0
    with Engine(options) as engine:
        for path in paths:
            source = open_source(path, options.scratch, PARTS, list(_KINDS))
            engine.sources.append(source)
            reader = _SourceReader(engine, source, options.check == "header")
            other_files += reader.read(options.progress(source.name))
        splits = {split: part for split, part in SPLIT_PARTS.items() if engine.table(part).index}
        release = engine.release("affectnet", splits, other_files)
    # The pieces of a face come in any order, so faces are aligned once all of them are known.
    return align_release(release, options) if options.align else release


class _SourceReader:
    """Sorts the files of the last source of an engine into the tables of the parts."""

    def __init__(self, engine: Engine, source: Archive, only_header: bool) -> None:
        self._engine = engine
        self._source, self._number = source, len(engine.sources) - 1
        self._only_header = only_header
        self._tables = {part.encode(): engine.table(part) for part in PARTS}
        self._folders: dict[bytes, tuple[FaceTable, int]] = {}
        self._found = 0
        self._others: Counter[bytes] = Counter()

    def read(self, progress: Progress) -> int:
        """Read the source; return the number of files that belong to no part."""
        self._engine.check_images(self._sort_all(progress))
        if not self._found:
            common = [name.decode("utf-8", "replace") for name, _ in self._others.most_common(4)]
            names = ", ".join(f"'{name}'" for name in common)
            raise DataError(
                f"{self._source.name} contains no part of AffectNet: it needs the folder train_set "
                "or val_set with the folders images and annotations, and contains "
                f"{names or 'no other files'}"
            )
        return self._others.total()

    def _sort_all(self, progress: Progress) -> Iterator[BlockImages]:
        with closing(self._source.blocks(progress)) as blocks:
            for block in blocks:
                self._refuse_links(block)
                yield from split_block(block, self._sort(block))

    def _sort(self, block: FileBlock) -> list[ImageRow]:
        """Sort the files of a block into rows; return the images to be decoded."""
        images: list[ImageRow] = []
        groups, alone = group_names(block.names, list(_ENDINGS))
        starts, sizes = np.array(block.starts, np.int64), np.array(block.sizes, np.int64)
        for group in groups:
            table, kind = self._folders.get(group.folder) or self._folder(group.folder)
            piece = _ENDINGS[group.ending]
            if kind != (_IMAGES if piece == IMAGE else _ANNOTATIONS):
                alone = np.append(alone, group.members)
                continue
            members, rows = group.members, table.find(group.stems)
            left = self._add_group(table, rows, piece, block, starts[members], sizes[members])
            if piece == IMAGE and not left.any():
                places = [self._source.store(block, i) for i in members.tolist()]
                table.rows["place"][rows] = places
                table.rows["source"][rows] = self._number
                images += zip(members.tolist(), repeat(table), rows.tolist(), strict=False)
            alone = np.append(alone, members[left])
            self._found += len(members) - int(left.sum())
        for i in alone.tolist():
            images += self._add_file(block, i)
        if self._only_header:
            at = np.array([i for i, _, _ in images], np.int64)
            sound = have_sound_headers(block.data, starts[at], sizes[at])
            images = list(compress(images, ~sound))
        return images

    def _add_group(
        self,
        table: FaceTable,
        rows: NDArray[np.int64],
        piece: int,
        block: FileBlock,
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Add one piece of many faces at once; return which files have to be read one by one."""
        if (starts < 0).any() or not table.are_new(rows, piece):
            return np.ones(len(rows), bool)
        if piece == IMAGE:
            table.rows["size"][rows] = sizes
            read = np.ones(len(rows), bool)
        elif piece == LND:
            points, read = plain_points(block.data, starts, sizes, N_LANDMARKS)
            place = self._engine.landmarks.append(points.tobytes())
            table.rows["landmarks"][rows[read]] = place + LANDMARK_BYTES * np.arange(len(points))
        else:
            numbers, read = plain_numbers(block.data, starts, sizes)
            table.rows[PIECES[piece]][rows[read]] = numbers[read]
        table.rows["seen"][rows[read]] |= piece
        return ~read

    def _add_file(self, block: FileBlock, i: int) -> list[ImageRow]:
        """Add one file, or count it among the others; return it if it has to be decoded."""
        name = block.names[i]
        path, _, file = name.rpartition(b"/")
        table, kind = self._folders.get(path) or self._folder(path)
        if file[:1] == b".":  # files of macOS and editors: ._1.jpg, .DS_Store
            return []
        if kind == _ANNOTATIONS and file[-8:] in _ENDINGS:
            self._found += 1
            row, piece = int(table.find([file[:-8]])[0]), _ENDINGS[file[-8:]]
            if piece == LND:
                self._add_landmarks(table, row, block, i)
            else:
                self._add_number(table, row, piece, block, i)
            return []
        stem, dot, suffix = file.rpartition(b".")
        if kind == _IMAGES and dot + suffix.lower() in _SUFFIXES:
            self._found += 1
            row = int(table.find([stem])[0])
            return [(i, table, row)] if self._add_image(table, row, block, i) else []
        self._others[name.removeprefix(b"./").partition(b"/")[0]] += 1
        return []

    def _folder(self, path: bytes) -> tuple[FaceTable, int]:
        """Return the part and the kind of files of a folder; remembered, as there are few."""
        names = path.split(b"/")
        table = self._tables.get(names[-2]) if len(names) > 1 else None
        kind = _KINDS.get(names[-1].decode("utf-8", "replace"), 0)
        found = (_NO_TABLE, 0) if table is None else (table, kind)
        if len(self._folders) < 1000:  # an unusual archive may have a folder per file
            self._folders[path] = found
        return found

    def _add_image(self, table: FaceTable, row: int, block: FileBlock, i: int) -> bool:
        """Note where the image of a face is; return whether it has to be checked."""
        start, size = block.starts[i], block.sizes[i]
        first = not table.rows["seen"][row] & IMAGE
        table.rows["seen"][row] |= IMAGE
        if start < 0:
            table.fault(row, *too_large(size).fault)
            return False
        place = self._source.store(block, i)
        if not first:
            table.images_again.append((row, self._number, place, size))
            return False
        for column, value in (("source", self._number), ("place", place), ("size", size)):
            table.rows[column][row] = value
        return True

    def _add_number(self, table: FaceTable, row: int, piece: int, block: FileBlock, i: int) -> None:
        """Note the expression, valence or arousal of a face."""
        start, size = block.starts[i], block.sizes[i]
        value: float | str = f"{size:,} bytes instead of a few"
        if start >= 0:
            value = read_npy_number(block.data[start : start + size].tobytes())
        if isinstance(value, str):
            table.fault(row, Reason.UNREADABLE, f"{PIECES[piece]}: {value}")
            value = math.nan
        column = table.rows[PIECES[piece]]
        if table.rows["seen"][row] & piece:
            table.repeat(row, piece, bool(column[row] == value))
        else:
            table.rows["seen"][row] |= piece
            column[row] = value

    def _add_landmarks(self, table: FaceTable, row: int, block: FileBlock, i: int) -> None:
        """Note the landmarks of a face."""
        start, size = block.starts[i], block.sizes[i]
        again = table.rows["seen"][row] & LND
        table.rows["seen"][row] |= LND
        data = bytes(block.data[start : start + size]) if start >= 0 and size < 1 << 16 else b""
        points = read_npy_points(data, N_LANDMARKS)
        if isinstance(points, str):
            detail = points if data else f"{size:,} bytes"
            table.fault(row, Reason.UNREADABLE, f"lnd: {detail}")
        elif again:
            place = int(table.rows["landmarks"][row])
            before = self._engine.landmarks.read(place, len(points)) if place >= 0 else b""
            table.repeat(row, LND, before == points)
        else:
            table.rows["landmarks"][row] = self._engine.landmarks.append(points)

    def _refuse_links(self, block: FileBlock) -> None:
        for name in block.links:
            if any(folder in self._tables for folder in name.split(b"/")):
                shown = name.decode("utf-8", "backslashreplace")
                raise DataError(
                    f"{self._source.name} contains the link '{shown}'; links in an archive are not "
                    "followed: pack it again with `tar --dereference --hard-dereference`"
                )
