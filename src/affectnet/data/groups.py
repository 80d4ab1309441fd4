"""Faces of a release that stay together in a split, and faces with duplicates in other splits."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from affectnet.data.duplicate_search import THUMBNAIL, duplicate_sets, elsewhere, thumbnail
from affectnet.data.readers.release_part import ReleasePart
from affectnet.data.store import COPIES, SPLITS
from affectnet.errors import DataError
from affectnet.threads import ordered_map

_ROWS_AT_ONCE = 128

Selection = dict[str, tuple[ReleasePart, NDArray[np.int64]]]
"""Split -> the part and its rows, ascending."""


def find_duplicates(selection: Selection, scratch: Path) -> NDArray[np.int64]:
    """Return the set of duplicates of each row, of all splits one after another, int64 (n,).

    Takes about 0.4 kB of memory per face; the thumbnails are kept in a file without a name.

    Args:
        selection: the rows of each split.
        scratch: folder for the file.
    """
    images = (  # read by one thread: the sources are not made for several
        part.images(rows[start : start + _ROWS_AT_ONCE])
        for part, rows in selection.values()
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    )
    total = sum(len(rows) for _, rows in selection.values())
    with (
        tempfile.TemporaryFile(dir=scratch) as file,
        tqdm(total=total, unit="face", desc="searching for duplicates", disable=None) as bar,
    ):
        shape = (max(total, 1), THUMBNAIL, THUMBNAIL)  # an empty file cannot be mapped
        small = np.memmap(file, np.uint8, "w+", shape=shape)[:total]
        done = 0
        for some in ordered_map(_thumbnails, images):
            small[done : done + len(some)] = some
            done += len(some)
            bar.update(len(some))
        return duplicate_sets(small)


def _thumbnails(images: Sequence[bytes]) -> NDArray[np.uint8]:
    small = np.zeros((len(images), THUMBNAIL, THUMBNAIL), np.uint8)
    for i, data in enumerate(images):
        with suppress(DataError):  # --check header keeps images that are damaged further on
            small[i] = thumbnail(data)
    return small


def join_values(sets: NDArray[np.int64], values: Sequence[object]) -> NDArray[np.int64]:
    """Join the sets of rows that have the same value; None is not a value."""
    first: dict[object, int] = {}
    ends = [
        (row, first.setdefault(value, row))
        for row, value in zip(sets.tolist(), values, strict=True)
        if value is not None
    ]
    left, right = np.array(ends, np.int64).reshape(-1, 2).T
    n = int(sets.max(initial=0)) + 1
    graph = coo_array((np.ones(len(ends), bool), (left, right)), shape=(n, n))
    joined: NDArray[np.int64] = connected_components(graph, directed=False)[1][sets]
    return joined


def note_copies(splits: Selection, before: Selection, sets: NDArray[np.int64]) -> dict[str, int]:
    """Add the column `COPIES` to the parts; return split -> faces also in an earlier split.

    Args:
        splits: the rows of the final splits.
        before: the rows of `sets`, of which the splits are made.
        sets: of `find_duplicates`.
    """
    starts = np.cumsum([0, *(len(rows) for _, rows in before.values())]).tolist()
    known = {
        id(part): (start, rows)
        for start, (part, rows) in zip(starts, before.values(), strict=False)
    }
    places = {}
    split = np.zeros(len(sets), np.int64)
    for name, (part, rows) in splits.items():
        start, all_rows = known[id(part)]
        places[name] = start + np.searchsorted(all_rows, rows)
        split[places[name]] = SPLITS.index(name)
    others = elsewhere(sets, split)
    words = np.array(
        [
            " ".join(name for i, name in enumerate(SPLITS) if bits >> i & 1) or "none"
            for bits in range(1 << len(SPLITS))
        ],
        object,
    )
    columns = {id(part): np.full(len(part), "none", object) for part, _ in splits.values()}
    for name, (part, rows) in splits.items():
        columns[id(part)][rows] = words[others[places[name]]]
        column = pa.array(columns[id(part)].tolist(), pa.string())
        part.extra = {**part.extra, COPIES: column}
    return {
        name: int(np.count_nonzero(others[rows] & ((1 << SPLITS.index(name)) - 1)))
        for name, rows in places.items()
        if name != "train"
    }
