"""Exact and near duplicates among faces: the search that ingest and audit share.

All decisions are made by whole numbers, so every machine finds the same duplicates: the sums are
exact in float64, whatever their order.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from affectnet.data.images import decode_image

THUMBNAIL: Final = 32
"""Side of the grey thumbnail from which duplicates are found."""

LIKENESS: Final = 0.75
"""Least correlation of the fine structures of two near duplicates."""

PLAIN: Final = 3
"""Standard deviation of a thumbnail's grey values below which an image is plain."""

RADIUS: Final = 7
"""Bits in which two near hashes may differ; the search finds all pairs up to this radius."""

MEDIAN_FROM: Final = 1000
"""Least number of faces to use the medians of a dataset; fewer would depend on single faces."""

_BLOCKS = 4
_PAIRS_AT_ONCE = 1 << 21
_ROWS_AT_ONCE = 2048
_WINDOW = 9
_PLACES = sorted(
    [(r, c) for r in range(16) for c in range(16) if r + c > 0],
    key=lambda place: (sum(place), place[0]),
)[:64]
"""The 64 lowest frequencies without the mean, in JPEG's order."""
_COSINES = np.round(
    8192 * np.cos(np.pi / 64 * np.outer(np.arange(16), 2 * np.arange(THUMBNAIL) + 1))
)
"""Rows of the discrete cosine transform as whole numbers, (16, 32)."""


def thumbnail(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode an image to its thumbnail, grey, uint8 (32, 32).

    Raises:
        DataError: as `decode_image`.
    """
    return np.asarray(Image.fromarray(decode_image(data, THUMBNAIL)).convert("L"))


def are_plain(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which thumbnails (n, 32, 32) are one even tone, or nearly."""
    found = np.empty(len(thumbnails), bool)
    for rows in _chunks(len(thumbnails)):
        flat = thumbnails[rows].reshape(-1, THUMBNAIL**2).astype(np.int64)
        n, total = flat.shape[1], flat.sum(axis=1)
        found[rows] = n * (flat**2).sum(axis=1) - total**2 < (n * PLAIN) ** 2
    return found


def hashes(
    thumbnails: NDArray[np.uint8], places: NDArray[np.int64] | None = None
) -> NDArray[np.uint64]:
    """Return a perceptual hash of each thumbnail, or of those at some places.

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
    down, across = np.array(_PLACES).T
    places = np.arange(len(thumbnails)) if places is None else places
    coefficients = np.empty((len(places), 64), np.int32)
    for rows in _chunks(len(places)):
        exact = _COSINES @ thumbnails[places[rows]].astype(np.float64) @ _COSINES.T  # below 2^45
        coefficients[rows] = np.floor(exact[:, down, across] / 2**16)
    edge = np.median(coefficients, axis=0) if len(places) >= MEDIAN_FROM else 0
    bits = coefficients > edge
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


def likeness(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the correlation of the fine structure of thumbnails, pair by pair.

    The fine structure is the grey value less the mean of its 9x9 neighbourhood, to ignore pose and
    light.

    Args:
        left: uint8 (n, 32, 32).
        right: likewise.

    Returns:
        float64 (n,) in [-1, 1]; 0 where a thumbnail has no fine structure.
    """
    a, b = _structure(left), _structure(right)
    product, a_length, b_length = (np.einsum("nd,nd->n", x, y) for x, y in ((a, b), (a, a), (b, b)))
    n, a_sum, b_sum = a.shape[1], a.sum(axis=1), b.sum(axis=1)
    scale = np.sqrt((n * a_length - a_sum**2) * (n * b_length - b_sum**2))
    result: NDArray[np.float64] = (n * product - a_sum * b_sum) / np.maximum(scale, 1)
    return result


def _structure(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return 81 times the fine structure, whole numbers, (n, 1024)."""
    grey = thumbnails.astype(np.int64)
    edge = _WINDOW // 2
    sums = np.pad(grey, ((0, 0), (edge, edge), (edge, edge)), mode="symmetric")
    for axis in (1, 2):
        sums = np.cumsum(np.insert(sums, 0, 0, axis=axis), axis=axis)
        ends = np.arange(_WINDOW, sums.shape[axis])
        sums = sums.take(ends, axis) - sums.take(ends - _WINDOW, axis)
    return (_WINDOW**2 * grey - sums).reshape(len(grey), -1).astype(np.float64)


def duplicate_sets(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a number for each thumbnail that it shares with its duplicates, int64 (n,).

    Near duplicates have hashes that differ in at most 7 of 64 bits and a `likeness` of 0.75 or
    more. The relation is transitive: of three crops of one photo, two need not be near each
    other. Plain images have no duplicates.
    """
    plain = are_plain(thumbnails)
    digests = [sha256(one.tobytes()).digest()[:16] for one in thumbnails]
    _, first, same = np.unique(np.array(digests, "V16"), return_index=True, return_inverse=True)
    shown = np.flatnonzero(~plain[first])
    places = first[shown]
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, j in near_pairs(hashes(thumbnails, places)):
        for rows in _chunks(len(i)):
            pair = thumbnails[places[i[rows]]], thumbnails[places[j[rows]]]
            alike = likeness(*pair) >= LIKENESS
            left.append(shown[i[rows][alike]])
            right.append(shown[j[rows][alike]])
    ends = np.concatenate(left), np.concatenate(right)
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(len(first), len(first)))
    sets: NDArray[np.int64] = connected_components(graph, directed=False)[1][same].astype(np.int64)
    sets[plain] = len(first) + np.arange(int(plain.sum()))
    return sets


def elsewhere(sets: NDArray[np.int64], split: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return in which other splits each row has a duplicate: bit s, value 2^s, for split s.

    Args:
        sets: of `duplicate_sets`, (n,).
        split: number of each row's split, (n,).
    """
    own = np.left_shift(1, split.astype(np.int64))
    held = np.zeros(int(sets.max(initial=-1)) + 1, np.int64)
    np.bitwise_or.at(held, sets, own)
    others: NDArray[np.int64] = held[sets] & ~own
    return others


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE))
