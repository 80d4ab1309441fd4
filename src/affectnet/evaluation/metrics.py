"""The metrics themselves, for many weightings of the faces at once.

Metrics of labels follow from confusion matrices (..., K, K): the weight of the faces of true class
i (row) predicted as class j (column). Weights are counts for plain metrics and resamples, and any
non-negative numbers for reweighted ones. A metric of one weighting is a float64, and NaN means
undefined; outside of `affectnet.evaluation` undefined is None.
"""

from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide elementwise; NaN, without a warning, where the denominator is zero.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of the entries that are not NaN; NaN where none is.

    >>> float(mean_of_defined(np.array([1.0, np.nan, 3.0])))
    2.0
    """
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return ratio(total, defined.sum(axis=-1).astype(np.float64))


def none_if_undefined(value: float | np.floating | Floats) -> float | None:
    """A 0-d metric as a Python float, or None where it is undefined."""
    number = float(value)
    return None if np.isnan(number) else number


def confusion_matrix(
    truth: npt.ArrayLike, preds: npt.ArrayLike, n_classes: int | None = None
) -> Floats:
    """Count the faces of true class i (row) predicted as class j (column), (K, K).

    K is one more than the highest class where `n_classes` is not given.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1]).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    t, p = np.asarray(truth, dtype=np.int64), np.asarray(preds, dtype=np.int64)
    k = n_classes or int(max(t.max(initial=0), p.max(initial=0))) + 1
    counts = np.bincount(t * k + p, minlength=k * k).reshape(k, k)
    return np.asarray(counts, dtype=np.float64)


def _hits(confusion: Floats) -> Floats:
    return np.asarray(np.diagonal(confusion, axis1=-2, axis2=-1), dtype=np.float64)


def _one_class_only(confusion: Floats) -> Floats:
    """Whether truth and predictions together hold a single class, shape (...)."""
    marginal = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray((marginal > 0).sum(axis=-1) <= 1)


def accuracy(confusion: Floats) -> Floats:
    """Fraction of faces on the diagonal, shape (...)."""
    return ratio(_hits(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def recall(confusion: Floats) -> Floats:
    """TP / (TP + FN) of each class, shape (..., K); undefined for a class absent from the truth."""
    return ratio(_hits(confusion), confusion.sum(axis=-1))


def precision(confusion: Floats) -> Floats:
    """TP / (TP + FP) of each class, shape (..., K); undefined for a class never predicted."""
    return ratio(_hits(confusion), confusion.sum(axis=-2))


def f1(confusion: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN) of each class, shape (..., K).

    Undefined only for a class that is neither in the truth nor in the predictions.
    """
    return ratio(2 * _hits(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def balanced_accuracy(confusion: Floats) -> Floats:
    """Mean recall over the classes that occur in the truth, shape (...)."""
    return mean_of_defined(recall(confusion))


def f1_macro(confusion: Floats) -> Floats:
    """Mean F1 over the classes that occur in the truth or in the predictions, shape (...)."""
    return mean_of_defined(f1(confusion))


def f1_weighted(confusion: Floats) -> Floats:
    """Mean F1 weighted by the number of faces of each true class, shape (...)."""
    support = confusion.sum(axis=-1)
    scores = np.where(support > 0, f1(confusion), 0.0)
    return ratio((scores * support).sum(axis=-1), support.sum(axis=-1))


def cohen_kappa(confusion: Floats) -> Floats:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e), shape (...) (Cohen, 1960).

    Undefined where truth and prediction are one and the same single class (p_e = 1).
    """
    total = confusion.sum(axis=(-2, -1))
    observed = _hits(confusion).sum(axis=-1) * total
    expected = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1)
    kappa = ratio(observed - expected, total * total - expected)
    return np.where(_one_class_only(confusion), np.nan, kappa)


def krippendorff_alpha(confusion: Floats) -> Floats:
    """1 - D_o / D_e, nominal, truth and prediction as two raters, shape (...).

    With n = 2N values and n_c of them of class c: D_o = 1 - accuracy and
    D_e = (n^2 - sum n_c^2) / (n (n - 1)) (Krippendorff, 2011). Undefined where all values are
    one class.
    """
    total = confusion.sum(axis=(-2, -1))
    values = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    n = 2 * total
    disagreements = 2 * (total - _hits(confusion).sum(axis=-1))
    expected = n * n - (values * values).sum(axis=-1)
    alpha = 1.0 - (n - 1) * ratio(disagreements, expected)
    return np.where(_one_class_only(confusion), np.nan, alpha)


def equal_classes(confusion: Floats) -> Floats:
    """Scale each true class to the same weight, keeping the total, shape (..., K, K).

    Classes absent from the truth stay empty. This is the limit of drawing the same number of
    faces from every class again and again (Jeni, Cohn and De la Torre, 2013).
    """
    support = confusion.sum(axis=-1)
    present = (support > 0).sum(axis=-1, keepdims=True)
    target = support.sum(axis=-1, keepdims=True) / np.maximum(present, 1)
    factor = np.where(support > 0, target / np.where(support > 0, support, 1.0), 0.0)
    return np.asarray(confusion * factor[..., None], dtype=np.float64)


ZeroRule: TypeAlias = Literal["sign", "positive", "drop"]
ZERO_RULES: Final[tuple[str, ...]] = get_args(ZeroRule)
AFFECT_METRICS: Final = ("rmse", "mae", "corr", "sagr", "ccc")

# Below this fraction of the mean square, E[x^2] - E[x]^2 has lost digits: two passes are needed.
_CANCELLATION: Final = 1e-4


def same_sign(truth: Floats, preds: Floats, zero_rule: ZeroRule) -> tuple[Bools, Bools]:
    """Whether the signs agree, and whether the face counts at all, each (n,).

    `sign`: zero is a sign of its own (Kronecker's delta of the two signs, as in the AffectNet
    paper). `positive`: zero counts as positive. `drop`: faces annotated exactly zero do not count,
    and a predicted zero agrees with nothing.
    """
    if zero_rule == "positive":
        return (truth >= 0) == (preds >= 0), np.ones(len(truth), dtype=bool)
    agree = np.sign(truth) == np.sign(preds)
    if zero_rule == "drop":
        return agree & (truth != 0), truth != 0
    return agree, np.ones(len(truth), dtype=bool)


class Moments:
    """RMSE, MAE, CORR, SAGR and CCC of one dimension, from sums that are linear in the weights.

    Args:
        truth, preds: (n,), finite.
        zero_rule: how SAGR treats zero, see `same_sign`.
    """

    def __init__(self, truth: Floats, preds: Floats, zero_rule: ZeroRule = "sign") -> None:
        # Centred by the mean of all faces, so that E[x^2] - E[x]^2 of resamples cancels little.
        self.truth, self.preds = truth, preds
        self._shift = float(truth.mean() - preds.mean()) if len(truth) else 0.0
        x, y, error = _centred(truth), _centred(preds), preds - truth
        agree, counts = same_sign(truth, preds, zero_rule)
        self.counted = int(counts.sum())
        """Faces that SAGR is over."""
        self._rows = np.stack(
            [np.ones(len(x)), x, y, x * x, y * y, x * y, error * error, abs(error), agree, counts]
        )

    def __call__(self, weights: Floats) -> Floats:
        """Return (5, B) metrics in the order of `AFFECT_METRICS` for `weights` (n, B)."""
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
                self.truth[drawn], self.preds[drawn], weights[drawn, b]
            )
        corr = ratio(cov, np.sqrt(var_x) * np.sqrt(var_y))
        ccc = ratio(2 * cov, var_x + var_y + gap**2)
        sagr = ratio(sums[8], sums[9])
        return np.stack([np.sqrt(error2), error1, np.clip(corr, -1.0, 1.0), sagr, ccc])


def affect_metrics(
    truth: npt.ArrayLike, preds: npt.ArrayLike, zero_rule: ZeroRule = "sign"
) -> dict[str, float | None]:
    """RMSE, MAE, CORR, SAGR and CCC of one dimension over all faces; None where undefined.

    >>> round(affect_metrics([-0.5, 0.0, 0.5], [0.0, 0.5, 1.0])["ccc"], 6)
    0.571429
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(preds, dtype=np.float64)
    values = Moments(x, y, zero_rule)(np.ones((len(x), 1)))[:, 0]
    return dict(zip(AFFECT_METRICS, map(none_if_undefined, values), strict=True))


def _centred(values: Floats) -> Floats:
    # A constant must become exactly zero, so that rounding does not hide that it does not vary.
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


ECE_BINS: Final = 15
PROBABILITY_FLOOR: Final = float(np.finfo(np.float64).eps)


def predicted_class(probabilities: Floats) -> Ints:
    """The most probable class of each face, (n,); the first in class order on a tie."""
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def in_top_k(truth: Ints, probabilities: Floats, k: int) -> Bools:
    """Whether the true class is among the k most probable, (n,).

    On ties the class that comes first in class order wins, as in `predicted_class`, so top-1
    equals accuracy.
    """
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)
    tied_before = (probabilities == own) & (np.arange(probabilities.shape[1]) < truth[:, None])
    return np.asarray(((probabilities > own) | tied_before).sum(axis=1) < k)


def surprise(truth: Ints, probabilities: Floats) -> Floats:
    """-ln p(true class) of each face in nats, (n,); p is clipped to 2.2e-16 and 1 - 2.2e-16."""
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(own, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)))


def confidence_bin(confidence: Floats, bins: int = ECE_BINS) -> Ints:
    """The index of the equal-width bin ((b - 1) / bins, b / bins] of each confidence, (n,).

    A confidence on an edge belongs to the bin below it (Guo et al., 2017).
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.asarray(np.searchsorted(edges[1:-1], confidence, side="left"), dtype=np.int64)


class Calibration:
    """Expected calibration error: |accuracy - confidence| of each bin, weighted by its faces.

    Confidence is the highest probability of a face, accuracy whether that class is right
    (Naeini et al., 2015; Guo et al., 2017, equation 3).
    """

    def __init__(self, truth: Ints, probabilities: Floats, bins: int = ECE_BINS) -> None:
        self.confidence = probabilities.max(axis=1) if len(truth) else np.zeros(0)
        self.right = predicted_class(probabilities) == truth if len(truth) else np.zeros(0, bool)
        self.bin = confidence_bin(self.confidence, bins)
        self.bins = bins
        n = len(truth)
        self._gaps = csr_array((self.right - self.confidence, (self.bin, np.arange(n))), (bins, n))

    def __call__(self, weights: Floats) -> Floats:
        """Return the error (B,) for `weights` of shape (n, B)."""
        return ratio(np.abs(self._gaps @ weights).sum(axis=0), weights.sum(axis=0))

    def curve(self) -> list[dict[str, float | int | None]]:
        """The reliability curve: bounds, faces, confidence and accuracy of each bin."""
        rows: list[dict[str, float | int | None]] = []
        for index in range(self.bins):
            inside = self.bin == index
            row: dict[str, float | int | None] = {"from": index / self.bins}
            row |= {"to": (index + 1) / self.bins, "n": int(inside.sum())}
            for name, values in (("confidence", self.confidence), ("accuracy", self.right)):
                row[name] = float(values[inside].mean()) if inside.any() else None
            rows.append(row)
        return rows


def nearest_expression(valence: Floats, arousal: Floats) -> Ints:
    """The class whose point in `labels.CIRCUMPLEX` is nearest to (valence, arousal), (n,).

    Euclidean distance; the first in class order on a tie.
    """
    points = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    distance = (valence[:, None] - points[:, 0]) ** 2 + (arousal[:, None] - points[:, 1]) ** 2
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)


class Ranking:
    """One class against the rest, sorted once, so that each weighting costs only sums.

    Faces are sorted by falling score and cut into segments: one for each score that some face of
    the class has (with every face tied to it), one for each run of other faces in between. Both
    areas need only the weight of each segment and of the faces of the class in it. A weighting is
    a column of `weights`, so a sparse product gives the segments of all weightings together.

    Args:
        scores: (n,), any real numbers; higher means "more likely this class".
        positive: (n,), True for the faces of the class.
    """

    def __init__(self, scores: Floats, positive: Bools) -> None:
        n = len(scores)
        order = np.argsort(-scores, kind="stable")
        ranked, hit = scores[order], positive[order]
        new_score = np.ones(n, dtype=bool)
        new_score[1:] = ranked[1:] != ranked[:-1]
        tie_group = np.cumsum(new_score) - 1
        group_has_hit = np.bincount(tie_group, weights=hit, minlength=1) > 0
        starts = group_has_hit.copy()
        starts[1:] |= group_has_hit[:-1]
        starts[:1] = True
        segment = (np.cumsum(starts) - 1)[tie_group]
        n_segments = int(segment[-1]) + 1 if n else 0
        self._all = _sums_by(segment, order, n_segments, n)
        self._hit_segments: Ints = np.unique(segment[hit])
        rank_of_segment = np.searchsorted(self._hit_segments, segment[hit])
        self._hits = _sums_by(rank_of_segment, order[hit], len(self._hit_segments), n)
        # Without a tie between a face of the class and another face, the segments of the class
        # hold only its faces, and the second product is not needed.
        self._tied = len(self._hit_segments) > 0 and bool(
            (np.bincount(segment)[self._hit_segments] != np.bincount(rank_of_segment)).any()
        )

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return (AUC-ROC, average precision), each (B,), for `weights` of shape (n, B).

        AUC: the weighted fraction of (face of the class, other face) pairs in the right order,
        where a tie counts one half; undefined unless both kinds occur. Average precision: the sum
        over falling scores of precision times the step in recall; undefined without a face of the
        class.
        """
        columns = weights.shape[1]
        if len(self._hit_segments) == 0:
            return np.full(columns, np.nan), np.full(columns, np.nan)
        # Transposed, because running sums are several times as fast along a row.
        in_segment = np.ascontiguousarray((self._all @ weights).T)
        hits = in_segment[:, self._hit_segments]
        tied_others = None
        if self._tied:
            together, hits = hits, np.ascontiguousarray((self._hits @ weights).T)
            tied_others = together - hits
        np.cumsum(in_segment, axis=1, out=in_segment)
        total = in_segment[:, -1].copy()
        above = in_segment[:, self._hit_segments]
        hits_above = np.cumsum(hits, axis=1)
        all_hits = hits_above[:, -1].copy()
        others = total - all_hits

        others_above = np.subtract(above, hits_above, out=in_segment[:, : above.shape[1]])
        right = others * all_hits - np.einsum("bs,bs->b", hits, others_above)
        if tied_others is not None:
            right += 0.5 * np.einsum("bs,bs->b", hits, tied_others)
        auc = ratio(right, others * all_hits)

        # Above the first drawn face of the class both sums are zero, and the step is zero too.
        np.maximum(above, np.finfo(np.float64).tiny, out=above)
        np.divide(hits_above, above, out=hits_above)
        average_precision = ratio(np.einsum("bs,bs->b", hits, hits_above), all_hits)
        return auc, average_precision


def _sums_by(group: Ints, members: Ints, n_groups: int, n: int) -> csr_array:
    """The (n_groups, n) matrix that sums rows `members` by their ascending `group`."""
    sizes = np.bincount(group, minlength=n_groups)
    indptr = np.concatenate(([0], np.cumsum(sizes)))
    # Half-width indices: the product is bound by memory.
    narrow = np.int32 if n < np.iinfo(np.int32).max else np.int64
    return csr_array(
        (np.ones(len(members)), members.astype(narrow), indptr.astype(narrow)), shape=(n_groups, n)
    )
