"""The bootstrap over faces as matrix products, its intervals, and the jackknife behind BCa.

A resample of n faces is the vector of how often each face was drawn. All metrics are functions of
weighted sums, so a block of resamples is one matrix (n, B), and a metric of all of them needs a few
products, with values equal to those of a loop over resampled arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from tqdm import tqdm

from affectnet.evaluation.metric_vectors import MetricGroup
from affectnet.evaluation.metrics import Floats, Ints, none_if_undefined
from affectnet.threads import cores, ordered_map

IntervalKind: TypeAlias = Literal["percentile", "bca"]
INTERVAL_KINDS: Final[tuple[str, ...]] = get_args(IntervalKind)
LEVEL: Final = 0.95
MAX_UNDEFINED: Final = 1 - LEVEL
"""A metric gets an interval only where at most this fraction of resamples leaves it undefined."""

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

    The same seed gives the same columns for every block size.

    Args:
        n: faces.
        resamples: columns in all.
        seed: of NumPy's PCG64.
        strata: (n,) group of each face; every resample then keeps the size of each group.
        block: columns per block; by default what fits 1 MiB, and at least 12.
    """
    rng = np.random.default_rng(seed)
    block = block or _block_size(n)
    groups = [np.arange(n)]
    if strata is not None:
        groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    for start in range(0, resamples, block):
        # Built with one row per resample and transposed, because counting is fast along a row.
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


def _block_size(n: int) -> int:
    return max(_LEAST_BLOCK, _BLOCK_BYTES // (8 * max(n, 1)))


def point(metrics: Evaluate, n: int) -> Floats:
    """The metrics (F,) of the faces as they are."""
    return metrics(np.ones((n, 1)))[:, 0]


def bootstrap(
    metrics: Evaluate,
    n: int,
    resamples: int,
    seed: int,
    strata: Ints | None = None,
    block: int | None = None,
) -> Floats:
    """The metrics of every resample, (F, resamples); NaN where one is undefined."""
    return _over_blocks(metrics, draw_counts(n, resamples, seed, strata, block), n, resamples)


def _over_blocks(metrics: Evaluate, blocks: Iterator[Floats], n: int, columns: int) -> Floats:
    """The metrics of all blocks in their order; with many faces the blocks run on all cores."""
    threads = min(cores(), 8) if n >= _LARGE else 1
    results = (
        ordered_map(metrics, blocks, threads, threads + 1) if threads > 1 else map(metrics, blocks)
    )
    done: list[Floats] = []
    with tqdm(
        total=columns, desc="bootstrap", unit="resample", leave=False, delay=1, disable=None
    ) as bar:
        for values in results:
            done.append(values)
            bar.update(values.shape[1])
    return np.concatenate(done, axis=1)


def jackknife(metrics: Evaluate, n: int, seed: int) -> Floats:
    """The metrics with each group of faces left out in turn, (F, groups).

    A group is one face for up to 1,000 faces; above that there are 1,000 random groups of almost
    equal size. The acceleration of BCa is the skewness of these values, which grouping leaves the
    same in expectation, and it costs at most 1,000 evaluations.
    """
    groups = min(n, _JACKKNIFE_GROUPS)
    group = np.random.default_rng(seed).permutation(n) % groups
    block = _block_size(n)
    blocks = (
        (group[:, None] != np.arange(start, min(start + block, groups))).astype(np.float64)
        for start in range(0, groups, block)
    )
    return _over_blocks(metrics, blocks, n, groups)


def percentile_interval(samples: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """The (1 - level) / 2 and (1 + level) / 2 quantiles of `samples` (F, R), each (F,).

    Undefined resamples are left out; see `undefined_fraction`.
    """
    tail = np.full(len(samples), (1 - level) / 2)
    return _quantiles(samples, tail, 1 - tail)


def bca_interval(
    points: Floats, samples: Floats, left_out: Floats, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated interval (Efron, 1987), each (F,).

    z0 = Phi^-1(fraction of resamples below the point, where ties count one half); a = sum d^3 / (6
    (sum d^2)^1.5) over the distances d of the jackknife values below their mean. The bounds are the
    quantiles Phi(z0 + (z0 +- z) / (1 - a (z0 +- z))), or the percentile interval where z0 is
    infinite (all resamples on one side).

    Args:
        points: (F,) metrics of the faces as they are.
        samples: (F, R) metrics of the resamples.
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
        distance = jack.mean() - jack
        spread = (distance**2).sum() ** 1.5
        acceleration = (distance**3).sum() / (6 * spread) if spread > 0 else 0.0
        if np.isfinite(z0):
            low[f] = ndtr(z0 + (z0 - z) / (1 - acceleration * (z0 - z)))
            high[f] = ndtr(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    return _quantiles(samples, low, high)


def undefined_fraction(samples: Floats) -> Floats:
    """The fraction (F,) of resamples in which each metric is undefined."""
    return np.asarray(np.isnan(samples).mean(axis=1), dtype=np.float64)


def _quantiles(samples: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    bounds = np.full((2, len(samples)), np.nan)
    for f, row in enumerate(samples):
        defined = row[~np.isnan(row)]
        if len(defined):
            bounds[:, f] = np.quantile(defined, [low[f], high[f]])
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class BootstrapSettings:
    """How intervals are computed: see `scores.evaluate`."""

    resamples: int
    seed: int
    interval: IntervalKind
    stratified: bool


def scored(
    groups: Sequence[MetricGroup], settings: BootstrapSettings, strata: Ints
) -> Iterator[tuple[MetricGroup, dict[str, dict[str, Any]]]]:
    """Yield each group with {metric name: {value, low, high}}.

    An entry also has the `reason` where value or interval is missing, and `interval` where it is
    Wilson's instead of the bootstrap's.

    Groups over the same faces share their resamples.

    Args:
        groups: over the same n faces.
        settings: of the bootstrap.
        strata: (n,) class of each face, used where the settings are stratified.
    """
    together: dict[bytes, list[MetricGroup]] = {}
    for group in groups:
        together.setdefault(group.rows.tobytes(), []).append(group)
    for same_rows in together.values():
        rows = same_rows[0].rows
        n = int(rows.sum())
        usable = [group for group in same_rows if n and not group.refused]
        found = _intervals(usable, n, settings, strata[rows])
        start = 0
        for group in same_rows:
            names = group.metrics.names
            if group.refused or not n:
                columns = [np.full(4, np.nan)] * len(names)
            else:
                columns = list(found.T[start : start + len(names)])
                start += len(names)
            pairs = zip(names, columns, strict=True)
            yield group, {name: _entry(group, name, n, column, settings) for name, column in pairs}


def _intervals(
    groups: Sequence[MetricGroup], n: int, settings: BootstrapSettings, strata: Ints
) -> Floats:
    """Value, low, high and the fraction of undefined resamples of all metrics together, (4, F)."""
    if not groups:
        return np.zeros((4, 0))

    def stacked(weights: Floats) -> Floats:
        return np.concatenate([group.metrics(weights) for group in groups])

    values = point(stacked, n)
    nothing = np.full(len(values), np.nan)
    if settings.resamples == 0 or n == 1:
        return np.stack([values, nothing, nothing, np.zeros(len(values))])
    given = strata if settings.stratified else None
    samples = bootstrap(stacked, n, settings.resamples, settings.seed, given)
    if settings.interval == "bca":
        low, high = bca_interval(values, samples, jackknife(stacked, n, settings.seed))
    else:
        low, high = percentile_interval(samples)
    undefined = undefined_fraction(samples)
    # The same value in every resample says nothing about other faces: no interval of zero width.
    hidden = (undefined > MAX_UNDEFINED) | (low == high)
    return np.stack([values, *np.where(hidden, np.nan, [low, high]), undefined])


def _entry(
    group: MetricGroup, name: str, n: int, found: Floats, settings: BootstrapSettings
) -> dict[str, Any]:
    """One entry of metrics.json from value, low, high and fraction undefined.

    A fraction of faces for which the bootstrap gives no interval gets Wilson's.
    """
    value, low, high = map(none_if_undefined, found[:3])
    entry: dict[str, Any] = {"value": value, "low": low, "high": high}
    if value is None:
        return entry | {"reason": group.refused or group.metrics.why(name)}
    if low is not None or settings.resamples == 0:
        return entry
    if trials := group.metrics.trials(name):
        bounds = wilson_interval(round(value * trials), trials)
        return entry | {"low": bounds[0], "high": bounds[1], "interval": "wilson"}
    reason = "the same value in every resample, so no interval"
    if n == 1:
        reason = "one face gives no interval"
    elif found[3] > MAX_UNDEFINED:
        reason = f"undefined in {found[3]:.0%} of the resamples, so no interval"
    return entry | {"reason": reason}


def wilson_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a fraction (1927), which is never of zero width.

    >>> wilson_interval(10, 10)
    (0.7224672001371107, 1.0)
    """
    bounds = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(bounds.low), float(bounds.high)


def nested(key: str, entries: dict[str, dict[str, Any]], into: dict[str, Any]) -> None:
    """Put `entries`, whose names may have levels joined by `/`, under `key` of `into`."""
    for name, entry in entries.items():
        place = into
        *path, last = [*key.split("/"), *name.split("/")]
        for level in path:
            place = place.setdefault(level, {})
        place[last] = entry
