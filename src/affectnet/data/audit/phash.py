"""A perceptual hash of 64 bits for faces, and the search for all pairs of near hashes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

THUMBNAIL = 32
"""Side of the grey thumbnail that the hash is computed from."""

RADIUS = 7
"""Bits in which two near hashes may differ; the search is complete up to here."""

MEDIAN_FROM = 1000
"""Faces from which the medians of a dataset are used; fewer would put single faces on the edge."""

_BLOCKS = 4
_CHUNK = 1 << 21


def _low_frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies but the mean, as JPEG orders them."""
    places = [(r, c) for r in range(16) for c in range(16) if r + c > 0]
    places.sort(key=lambda place: (sum(place), place[0]))
    rows, columns = np.array(places[:64]).T
    return rows, columns


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a perceptual hash of each thumbnail.

    A bit says whether one of the 64 lowest DCT coefficients (without the mean, so brightness does
    not count) exceeds its median over the dataset, or zero where there are under 1,000 thumbnails.
    Faces in the same frame resemble one another: against zero a third of the bits would be nearly
    constant, against the median each halves the dataset, which keeps distinct faces apart and the
    search's buckets small. After Zauner 2010, "Implementation and benchmarking of perceptual image
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
    # A coefficient of a plain image is zero but for rounding; it must not toss a coin.
    bits = coefficients > edge + 1e-3
    # Spread the frequencies over the blocks: the lowest, which vary together, do not share one.
    order = np.argsort(np.arange(64) % _BLOCKS, kind="stable")
    packed = np.ascontiguousarray(np.packbits(bits[:, order], axis=1))
    result: NDArray[np.uint64] = packed.view(np.uint64)[:, 0]
    return result


def distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bits in which hashes differ."""
    x = left ^ right
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    x = x - ((x >> one) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> two) & np.uint64(0x3333333333333333))
    x = (x + (x >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):
        x = (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return x.astype(np.int64)


def near_pairs(
    values: NDArray[np.uint64], radius: int = RADIUS
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, in pieces, the positions (i, j) of all pairs whose hashes differ in at most `radius`.

    Multi-index hashing (Norouzi et al. 2012): the hash is cut into four blocks of 16 bits. Of up to
    7 differing bits at most one falls into the poorest block, so a pair is met where a block agrees
    but for one bit, and only such pairs are compared. A pair may come up to four times; i and j
    differ, in either order.

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
    """Yield pieces of all pairs whose keys agree but for one bit at most."""
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
    """Yield each place with every place from its start to its end, some two million at a time."""
    counts = ends - starts
    running = np.cumsum(counts)
    at = 0
    while at < len(places):
        done = running[at - 1] if at else 0
        upto = max(at + 1, int(np.searchsorted(running, done + _CHUNK)))
        piece = counts[at:upto]
        within = np.arange(piece.sum()) - np.repeat(running[at:upto] - done - piece, piece)
        left = np.repeat(places[at:upto], piece)
        yield order[left], order[np.repeat(starts[at:upto], piece) + within]
        at = upto
