"""AffectNet's eight-class release: `PART/images/ID.jpg` and `PART/annotations/ID_{exp,...}.npy`.

The parts are `train_set` and `val_set`, told apart by these names inside the archive or folder.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from affectnet.data.images import looks_whole
from affectnet.data.readers.checker import ImageChecker
from affectnet.data.readers.npy import NpyScalars, read_points
from affectnet.data.readers.part import UNDECODABLE, UNREADABLE, Part
from affectnet.data.readers.rows import ARO, EXP, IMAGE, LND, NAMES, VAL, Rows
from affectnet.data.readers.sources import Progress, Source, Spool, open_source
from affectnet.data.readers.tarscan import MAX_MEMBER, Block
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError

Check = Literal["decode", "header"]

PARTS: Final = ("train_set", "val_set")
FOLDERS: Final = tuple(f"{part}/{kind}" for part in PARTS for kind in ("images", "annotations"))

_SUFFIXES = {
    b"_exp.npy": EXP,
    b"_val.npy": VAL,
    b"_aro.npy": ARO,
    b"_lnd.npy": LND,
}
_SUFFIX = 8  # so long is each of them
_IMAGE_SUFFIXES = frozenset(b"jpg jpeg png bmp webp gif tif tiff ppm".split())


@dataclass
class Release:
    """What reading a release gave; a context to be left once the images have been copied.

    `parts` has an entry for each part that was there; `other_files` counts files that belong to
    none.
    """

    parts: dict[str, Part]
    other_files: int
    sources: list[Source]
    landmark_file: Spool

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
        images: list[tuple[int, Callable[[str, str], None]]] = []
        for i, name in enumerate(block.names):
            folders = name.rsplit(b"/", 3)
            file = folders[-1]
            if file[:1] == b".":  # what macOS and editors leave: ._1.jpg, .DS_Store
                continue
            rows = self._rows.get(folders[-3]) if len(folders) > 2 else None
            if rows is not None and folders[-2] == b"annotations":
                kind = _SUFFIXES.get(file[-_SUFFIX:])
                if kind is not None:
                    self._annotate(rows, rows.find(file[:-_SUFFIX]), kind, block, i)
                    found += 1
                    continue
            elif rows is not None and folders[-2] == b"images":
                stem, _, suffix = file.rpartition(b".")
                if suffix.lower() in _IMAGE_SUFFIXES:
                    row = rows.find(stem)
                    if self._needs_decoding(rows, row, source, number, block, i):
                        images.append((i, partial(rows.fault, row)))
                    found += 1
                    continue
            others[name.removeprefix(b"./").partition(b"/")[0]] += 1
        self._checker.check(block, images)
        return found

    def _needs_decoding(
        self, rows: Rows, row: int, source: Source, number: int, block: Block, i: int
    ) -> bool:
        """Note where the image of a row is; return whether it has still to be looked at."""
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
        return not (self._only_header and looks_whole(block.data[start : start + size]))

    def _annotate(self, rows: Rows, row: int, kind: int, block: Block, i: int) -> None:
        """Note the label or the landmarks of a row."""
        again = rows.seen[row] & kind
        rows.seen[row] |= kind
        start = block.starts[i]
        if start < 0:
            rows.fault(row, UNREADABLE, f"{NAMES[kind]}: {block.sizes[i]:,} bytes")
            return
        data = bytes(block.data[start : start + block.sizes[i]])
        if kind == LND:
            points = read_points(data, N_LANDMARKS)
            if isinstance(points, str):
                rows.fault(row, UNREADABLE, f"{NAMES[kind]}: {points}")
            elif not again:
                rows.landmarks[row] = self._landmark_file.append(points)
            elif rows.landmarks[row] >= 0:
                before = self._landmark_file.read(rows.landmarks[row], len(points))
                rows.repeat(row, kind, before == points)
            return
        value = self._scalars.read(data)
        if isinstance(value, str):
            rows.fault(row, UNREADABLE, f"{NAMES[kind]}: {value}")
            value = math.nan
        if again:
            rows.repeat(row, kind, rows.numbers[kind][row] == value)
        else:
            rows.numbers[kind][row] = value

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
