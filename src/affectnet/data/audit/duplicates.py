"""Exact and near duplicates among faces, grouped."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from affectnet.data.audit.scan import Rows, Scan, hashes, near_pairs

Kind = Literal["same file", "same pixels", "near"]

LIKENESS: Final = 0.75
"""Least correlation of the fine structure of two near duplicates."""

_WINDOW = 9


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that show the same picture, rising; `kind` is the weakest bond among them."""

    rows: tuple[int, ...]
    kind: Kind
    splits: tuple[str, ...]
    expressions: tuple[int, ...]

    @property
    def leak(self) -> bool:
        """Whether the picture is in more than one split."""
        return len(self.splits) > 1

    @property
    def disputed(self) -> bool:
        """Whether the same picture has different expressions."""
        return len(self.expressions) > 1


def find_duplicates(scan: Scan, rows: Rows) -> list[Group]:
    """Group the rows that show the same picture.

    Same file: equal bytes. Same pixels: equal after decoding. Near: perceptual hashes that differ
    in at most 7 of 64 bits and thumbnails whose fine structure (less the mean of each 9x9
    neighbourhood of 32x32, so that pose and light do not count) correlates at 0.75 or more. The
    bond is transitive: of three crops of one photo, the outer two need not be near each other.
    Plain images, which show nothing, and images that cannot be decoded are left out.

    Returns:
        Groups of two rows or more: leaks first, then by size.
    """
    shown = np.flatnonzero(scan.readable & ~scan.plain)
    _, first, same = np.unique(scan.pixel_hash[shown], return_index=True, return_inverse=True)
    pixels = shown[first]
    left, right = _near(scan.thumbnail[pixels])
    n = len(pixels)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    label = component[same]
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    groups = [
        _group(np.sort(shown[members]), scan, rows)
        for members in np.split(order, starts[1:])
        if len(members) > 1
    ]
    return sorted(groups, key=lambda group: (not group.leak, -len(group.rows), group.rows))


def _group(members: NDArray[np.int64], scan: Scan, rows: Rows) -> Group:
    kind: Kind = "near"
    if len(set(scan.file_hash[members].tolist())) == 1:
        kind = "same file"
    elif len(set(scan.pixel_hash[members].tolist())) == 1:
        kind = "same pixels"
    known = rows.expression[members]
    return Group(
        tuple(members.tolist()),
        kind,
        tuple(rows.splits[i] for i in np.unique(rows.split[members])),
        tuple(np.unique(known[known >= 0]).tolist()),
    )


def _near(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of near thumbnails, pair by pair."""
    left: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    right: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for i, j in near_pairs(hashes(thumbnails)):
        for start in range(0, len(i), 8192):
            some = slice(start, start + 8192)
            alike = likeness(thumbnails[i[some]], thumbnails[j[some]]) >= LIKENESS
            left.append(i[some][alike])
            right.append(j[some][alike])
    return np.concatenate(left), np.concatenate(right)


def likeness(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the correlation of the fine structure of thumbnails, pair by pair.

    Args:
        left: uint8 (n, 32, 32).
        right: likewise.

    Returns:
        float32 (n,) in [-1, 1].
    """
    product: NDArray[np.float32] = np.einsum("nd,nd->n", _structure(left), _structure(right))
    return product


def _structure(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = thumbnails.astype(np.float32)
    fine = (grey - uniform_filter(grey, (0, _WINDOW, _WINDOW))).reshape(len(grey), -1)
    fine -= fine.mean(axis=1, keepdims=True)
    length = np.linalg.norm(fine, axis=1, keepdims=True)
    result: NDArray[np.float32] = fine / np.maximum(length, 1e-6)
    return result
