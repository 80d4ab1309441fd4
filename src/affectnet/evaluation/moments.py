"""RMSE, MAE, CORR, SAGR and CCC of one dimension, for many weightings at once."""

from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from affectnet.evaluation.arrays import Bools, Floats, ratio

ZeroRule: TypeAlias = Literal["sign", "positive", "drop"]
ZERO_RULES: Final[tuple[str, ...]] = get_args(ZeroRule)
AFFECT_FIGURES: Final = ("rmse", "mae", "corr", "sagr", "ccc")

# Below this share of the mean square, E[x^2] - E[x]^2 has lost digits; do it in two passes.
_CANCELLATION: Final = 1e-4


def same_sign(truth: Floats, preds: Floats, zero_rule: ZeroRule) -> tuple[Bools, Bools]:
    """Whether the signs agree, and whether the face counts at all, each (n,).

    `sign`: zero is a sign of its own (Kronecker's delta of the two signs, as the AffectNet paper
    writes it). `positive`: zero counts as positive. `drop`: faces annotated exactly zero do not
    count; a predicted zero then agrees with nothing.
    """
    if zero_rule == "positive":
        return (truth >= 0) == (preds >= 0), np.ones(len(truth), dtype=bool)
    agree = np.sign(truth) == np.sign(preds)
    if zero_rule == "drop":
        return agree & (truth != 0), truth != 0
    return agree, np.ones(len(truth), dtype=bool)


class Moments:
    """The five figures of one dimension: sums are linear in the weights, so one product gives all.

    Args:
        truth, preds: (n,), finite.
        zero_rule: what SAGR does with zero, see `same_sign`.
    """

    def __init__(self, truth: Floats, preds: Floats, zero_rule: ZeroRule = "sign") -> None:
        # Centred by the mean of all faces: resamples then cancel little in E[x^2] - E[x]^2.
        self._truth, self._preds = truth, preds
        self._shift = float(truth.mean() - preds.mean()) if len(truth) else 0.0
        x, y, error = _centred(truth), _centred(preds), preds - truth
        agree, counts = same_sign(truth, preds, zero_rule)
        self._rows = np.stack(
            [np.ones(len(x)), x, y, x * x, y * y, x * y, error * error, abs(error), agree, counts]
        )

    def __call__(self, weights: Floats) -> Floats:
        """Return (5, B) figures in the order of `AFFECT_FIGURES` for `weights` (n, B)."""
        sums = self._rows @ weights
        total = sums[0]
        mean_x, mean_y, square_x, square_y, cross, error2, error1 = ratio(sums[1:8], total)
        var_x = square_x - mean_x**2
        var_y = square_y - mean_y**2
        cov = cross - mean_x * mean_y
        gap = mean_x - mean_y + self._shift
        unsafe = (var_x < _CANCELLATION * square_x) | (var_y < _CANCELLATION * square_y)
        for b in np.flatnonzero(unsafe):
            drawn = weights[:, b] > 0
            var_x[b], var_y[b], cov[b], gap[b] = _two_pass(
                self._truth[drawn], self._preds[drawn], weights[drawn, b]
            )
        corr = ratio(cov, np.sqrt(var_x) * np.sqrt(var_y))
        ccc = ratio(2 * cov, var_x + var_y + gap**2)
        sagr = ratio(sums[8], sums[9])
        return np.stack([np.sqrt(error2), error1, np.clip(corr, -1.0, 1.0), sagr, ccc])


def _centred(values: Floats) -> Floats:
    # A constant must become exactly zero, so that "does not vary" is seen and not rounded away.
    if len(values) == 0 or values.min() == values.max():
        return np.zeros(len(values))
    return np.asarray(values - values.mean(), dtype=np.float64)


def _two_pass(x: Floats, y: Floats, weights: Floats) -> tuple[float, float, float, float]:
    """Population variances, covariance and the gap of the means; exact for constants."""
    total = weights.sum()
    mean_x, mean_y = _mean(x, weights), _mean(y, weights)
    dx, dy = x - mean_x, y - mean_y
    return (
        float((weights * dx * dx).sum() / total),
        float((weights * dy * dy).sum() / total),
        float((weights * dx * dy).sum() / total),
        mean_x - mean_y,
    )


def _mean(values: Floats, weights: Floats) -> float:
    constant = values.min() == values.max()
    return float(values[0] if constant else np.average(values, weights=weights))
