"""Groups of exact and near duplicates among faces, found by a perceptual hash of 64 bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from affectnet.data.audit.scan import DatasetRows, Scan

Kind = Literal["same file", "same pixels", "near"]

LIKENESS: Final = 0.75
"""Least correlation of the fine structures of two near duplicates."""

_WINDOW = 9

RADIUS = 7
"""Bits in which two near hashes may differ; the search finds all pairs up to this radius."""

MEDIAN_FROM = 1000
"""Least number of faces to use the medians of a dataset; fewer would depend on single faces."""

_BLOCKS = 4
_PAIRS_AT_ONCE = 1 << 21


def _low_frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies without the mean, in JPEG's order."""
    places = [(r, c) for r in range(16) for c in range(16) if r + c > 0]
    places.sort(key=lambda place: (sum(place), place[0]))
    rows, columns = np.array(places[:64]).T
    return rows, columns


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a perceptual hash of each thumbnail.

    A bit is set if one of the 64 lowest DCT coefficients (without the mean, to ignore brightness)
    exceeds its median over the dataset, or zero with fewer than 1,000 thumbnails. Aligned faces
    resemble one another: with zero, a third of the bits would be nearly constant; with the
    median each bit halves the dataset, which separates distinct faces and keeps the search's
    buckets small. After Zauner 2010, "Implementation and benchmarking of perceptual image
    hash functions", whose median is over the coefficients of one image instead.

    Args:
        thumbnails: uint8 (n, 32, 32).

    Returns:
        uint64 (n,). Hashes of different datasets are not comparable.
    """
    rows, columns = _low_frequencies()
    coefficients = np.empty((len(thumbnails), 64), np.float32)
    for start in range(0, len(thumbnails), 4096):
        chunk = thumbnails[start : start + 4096].astype(np.float32)
        coefficients[start : start + 4096] = dctn(chunk, axes=(1, 2), norm="ortho")[
            :, rows, columns
        ]
    edge = np.median(coefficients, axis=0) if len(thumbnails) >= MEDIAN_FROM else np.float32(0)
    # A coefficient of a plain image is zero up to rounding, which must not decide the bit.
    bits = coefficients > edge + 1e-3
    # Spread the frequencies over the blocks: the lowest, which vary together, do not share one.
    order = np.argsort(np.arange(64) % _BLOCKS, kind="stable")
    packed = np.ascontiguousarray(np.packbits(bits[:, order], axis=1))
    result: NDArray[np.uint64] = packed.view(np.uint64)[:, 0]
    return result


def distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bits in which hashes differ."""
    bits: NDArray[np.int64] = np.bitwise_count(left ^ right).astype(np.int64)
    return bits


def near_pairs(
    values: NDArray[np.uint64], radius: int = RADIUS
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, in chunks, the positions (i, j) of all pairs of hashes at most `radius` bits apart.

    Multi-index hashing (Norouzi et al. 2012): the hash is cut into four blocks of 16 bits. With up
    to 7 differing bits some block has at most one of them, so only pairs that agree in a block up
    to one bit are compared. A pair may occur up to four times; i and j differ, in either order.

    Raises:
        ValueError: `radius` is over 7.
    """
    if radius > RADIUS:
        raise ValueError(f"radius {radius} is given; the search is complete up to {RADIUS}")
    blocks = values.view(np.uint16).reshape(-1, _BLOCKS)
    for block in range(_BLOCKS):
        for left, right in _agreeing(np.ascontiguousarray(blocks[:, block])):
            near = distance(values[left], values[right]) <= radius
            if near.any():
                yield left[near], right[near]


def _agreeing(
    keys: NDArray[np.uint16],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield chunks of all pairs whose keys differ in at most one bit."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order].astype(np.int64)
    edges = np.searchsorted(ordered, np.arange((1 << 16) + 1))
    places = np.arange(len(keys))
    yield from _pairs(order, places, places + 1, edges[ordered + 1])
    for bit in range(16):
        unset = places[(ordered >> bit) & 1 == 0]
        other = ordered[unset] | (1 << bit)
        yield from _pairs(order, unset, edges[other], edges[other + 1])


def _pairs(
    order: NDArray[np.int64],
    places: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each place with every place from its start to its end, about two million at a time."""
    counts = ends - starts
    running = np.cumsum(counts)
    at = 0
    while at < len(places):
        done = running[at - 1] if at else 0
        upto = max(at + 1, int(np.searchsorted(running, done + _PAIRS_AT_ONCE)))
        piece = counts[at:upto]
        within = np.arange(piece.sum()) - np.repeat(running[at:upto] - done - piece, piece)
        left = np.repeat(places[at:upto], piece)
        yield order[left], order[np.repeat(starts[at:upto], piece) + within]
        at = upto


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Rows that show the same image, in order; `kind` is the weakest relation among them."""

    rows: tuple[int, ...]
    kind: Kind
    splits: tuple[str, ...]
    expressions: tuple[int, ...]

    @property
    def leak(self) -> bool:
        """Whether the image is in more than one split."""
        return len(self.splits) > 1

    @property
    def disputed(self) -> bool:
        """Whether the image has different expressions."""
        return len(self.expressions) > 1


def find_duplicates(scan: Scan, rows: DatasetRows) -> list[DuplicateGroup]:
    """Group the rows that show the same image.

    Same file: equal bytes. Same pixels: equal after decoding. Near: perceptual hashes that differ
    in at most 7 of 64 bits and thumbnails whose fine structure (less the mean of each 9x9
    neighbourhood of 32x32, to ignore pose and light) correlates at 0.75 or more. The
    relation is transitive: of three crops of one photo, two need not be near each other. Plain
    images, and images that cannot be decoded, are left out.

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


def _group(members: NDArray[np.int64], scan: Scan, rows: DatasetRows) -> DuplicateGroup:
    kind: Kind = "near"
    if len(set(scan.file_hash[members].tolist())) == 1:
        kind = "same file"
    elif len(set(scan.pixel_hash[members].tolist())) == 1:
        kind = "same pixels"
    known = rows.expression[members]
    return DuplicateGroup(
        tuple(members.tolist()),
        kind,
        tuple(rows.splits[i] for i in np.unique(rows.split[members])),
        tuple(np.unique(known[known >= 0]).tolist()),
    )


def _near(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of near thumbnails, pair by pair."""
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
