"""The bootstrap over faces as matrix products, its intervals, and the jackknife behind BCa.

A resample of n faces is the vector of how often each face was drawn. All figures are functions of
weighted sums, so a block of resamples is one matrix (n, B) and a figure of all of them a few
products, with values equal to those of a loop over resampled arrays.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from affectnet.evaluation.metrics import Floats, Ints
from affectnet.threads import cores

IntervalKind: TypeAlias = Literal["percentile", "bca"]
INTERVAL_KINDS: Final[tuple[str, ...]] = get_args(IntervalKind)
LEVEL: Final = 0.95
MAX_UNDEFINED: Final = 1 - LEVEL
"""An interval is given only where a figure is undefined in at most this share of resamples."""

_BLOCK_BYTES: Final = 2**20
_LEAST_BLOCK: Final = 12
# A block of 4,000 faces then fits a core's own cache; with more faces, shorter rows cost more.
_JACKKNIFE_GROUPS: Final = 1000
_LARGE: Final = 20_000

Evaluate: TypeAlias = Callable[[Floats], Floats]


def draw_counts(
    n: int, resamples: int, seed: int, strata: Ints | None = None, block: int | None = None
) -> Iterator[Floats]:
    """Yield blocks (n, B) of how often each face is drawn; column r is the r-th resample.

    The same seed gives the same columns whatever the block size.

    Args:
        n: faces.
        resamples: columns in all.
        seed: of NumPy's PCG64.
        strata: (n,) group of each face; the size of each group is then kept in every resample.
        block: columns a block; by default what fits 1 MiB, and at least 12.
    """
    rng = np.random.default_rng(seed)
    block = block or max(_LEAST_BLOCK, _BLOCK_BYTES // (8 * max(n, 1)))
    groups = _members(n, strata)
    for start in range(0, resamples, block):
        # Built a row a resample and turned over: counting is fast along a row.
        counts = np.zeros((min(block, resamples - start), n))
        for row in counts:
            for members in groups:
                drawn = rng.integers(0, len(members), len(members))
                times = np.bincount(drawn, minlength=len(members))
                if len(groups) == 1:
                    row[:] = times
                else:
                    row[members] = times
        yield np.ascontiguousarray(counts.T)


def _members(n: int, strata: Ints | None) -> list[Ints]:
    if strata is None:
        return [np.arange(n)]
    return [np.flatnonzero(strata == value) for value in np.unique(strata)]


def point(figures: Evaluate, n: int) -> Floats:
    """The figures (F,) of the faces as they are."""
    return figures(np.ones((n, 1)))[:, 0]


def bootstrap(
    figures: Evaluate,
    n: int,
    resamples: int,
    seed: int,
    strata: Ints | None = None,
    block: int | None = None,
) -> Floats:
    """The figures of every resample, (F, resamples); NaN where one is undefined."""
    return _over_blocks(figures, draw_counts(n, resamples, seed, strata, block), n, resamples)


def _over_blocks(figures: Evaluate, blocks: Iterator[Floats], n: int, columns: int) -> Floats:
    """The figures of all blocks in their order; many faces are shared out over the cores."""
    large = n >= _LARGE
    threads = min(cores(), 8) if large else 1
    done: list[Floats] = []
    bar = tqdm(
        total=columns,
        desc="bootstrap",
        unit="resample",
        leave=False,
        disable=None if large else True,
    )

    def finish(values: Floats) -> None:
        done.append(values)
        bar.update(values.shape[1])

    with bar, ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Floats]] = deque()
        for weights in blocks:
            if threads == 1:
                finish(figures(weights))
                continue
            waiting.append(pool.submit(figures, weights))
            if len(waiting) > threads:
                finish(waiting.popleft().result())
        while waiting:
            finish(waiting.popleft().result())
    return np.concatenate(done, axis=1)


def jackknife(figures: Evaluate, n: int, seed: int) -> Floats:
    """The figures with each group of faces left out in turn, (F, groups).

    One face a group up to 1,000 faces; 1,000 random groups of near equal size above. The
    acceleration of BCa is the skewness of these values, which grouping leaves the same in
    expectation, and it costs 1,000 evaluations whatever n is.
    """
    groups = min(n, _JACKKNIFE_GROUPS)
    group = np.random.default_rng(seed).permutation(n) % groups
    block = max(_LEAST_BLOCK, _BLOCK_BYTES // (8 * max(n, 1)))
    blocks = (
        (group[:, None] != np.arange(start, min(start + block, groups))).astype(np.float64)
        for start in range(0, groups, block)
    )
    return _over_blocks(figures, blocks, n, groups)


def percentile_interval(samples: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """The (1 - level) / 2 and (1 + level) / 2 quantiles of `samples` (F, R), each (F,).

    Undefined resamples are left out; see `undefined_share`.
    """
    tail = np.full(len(samples), (1 - level) / 2)
    return _quantiles(samples, tail, 1 - tail)


def bca_interval(
    points: Floats, samples: Floats, left_out: Floats, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated interval (Efron, 1987), each (F,).

    z0 = Phi^-1(share of resamples below the point, ties one half); a = sum d^3 / (6 (sum
    d^2)^1.5) over the jackknife values' distances d below their mean. The quantiles taken are
    Phi(z0 + (z0 +- z) / (1 - a (z0 +- z))). Where z0 is infinite (all resamples on one side) the
    percentile interval is given.

    Args:
        points: (F,) figures of the faces as they are.
        samples: (F, R) figures of the resamples.
        left_out: (F, G) jackknife values.
    """
    low, high = np.empty(len(points)), np.empty(len(points))
    z = ndtri((1 + level) / 2)
    for f, (value, row, jack) in enumerate(zip(points, samples, left_out, strict=True)):
        row, jack = row[~np.isnan(row)], jack[~np.isnan(jack)]
        low[f], high[f] = (1 - level) / 2, (1 + level) / 2
        if len(row) == 0 or len(jack) == 0:
            continue
        z0 = ndtri(((row < value).sum() + 0.5 * (row == value).sum()) / len(row))
        away = jack.mean() - jack
        spread = (away**2).sum() ** 1.5
        acceleration = (away**3).sum() / (6 * spread) if spread > 0 else 0.0
        if np.isfinite(z0):
            low[f] = ndtr(z0 + (z0 - z) / (1 - acceleration * (z0 - z)))
            high[f] = ndtr(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    return _quantiles(samples, low, high)


def undefined_share(samples: Floats) -> Floats:
    """The share (F,) of resamples in which each figure is undefined."""
    return np.asarray(np.isnan(samples).mean(axis=1), dtype=np.float64)


def _quantiles(samples: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    bounds = np.full((2, len(samples)), np.nan)
    for f, row in enumerate(samples):
        defined = row[~np.isnan(row)]
        if len(defined):
            bounds[:, f] = np.quantile(defined, [low[f], high[f]])
    return bounds[0], bounds[1]
