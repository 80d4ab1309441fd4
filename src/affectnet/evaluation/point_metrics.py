"""Point figures as plain functions of NumPy arrays: one figure, one function.

`truth` and `preds` are (n,) class indices or (n,) real numbers, `probabilities` (n, K) with rows
that sum to one. A figure that is undefined for the given faces is None, never NaN. The classes are
0 to K - 1, where K is the width of `probabilities`, or one more than the highest label.
"""

import numpy as np
import numpy.typing as npt

from affectnet.evaluation import metrics as on
from affectnet.evaluation.metrics import (
    AFFECT_FIGURES,
    ECE_BINS,
    Calibration,
    Floats,
    Ints,
    Moments,
    Ranking,
    ZeroRule,
    in_top_k,
    mean_of_defined,
    nearest_expression,
    none_if_undefined,
    surprise,
)


def confusion_matrix(
    truth: npt.ArrayLike, preds: npt.ArrayLike, n_classes: int | None = None
) -> Floats:
    """Count the faces of true class i (row) predicted as class j (column), (K, K).

    >>> confusion_matrix([0, 0, 1], [0, 1, 1]).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    t, p = _labels(truth, preds)
    k = n_classes or int(max(t.max(initial=0), p.max(initial=0))) + 1
    counts = np.bincount(t * k + p, minlength=k * k).reshape(k, k)
    return np.asarray(counts, dtype=np.float64)


def accuracy(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Share of faces predicted right: (1/n) sum [pred = truth].

    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    return none_if_undefined(on.accuracy(confusion_matrix(truth, preds)))


def balanced_accuracy(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Mean recall over the classes that occur in the truth.

    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    return none_if_undefined(on.balanced_accuracy(confusion_matrix(truth, preds)))


def top_k_accuracy(truth: npt.ArrayLike, probabilities: npt.ArrayLike, k: int = 2) -> float | None:
    """Share of faces whose true class is among the k most probable; ties go to the earlier class.

    >>> top_k_accuracy([2, 0], [[0.5, 0.2, 0.3], [0.1, 0.5, 0.4]])
    0.5
    """
    t, q = _scored(truth, probabilities)
    return _mean(in_top_k(t, q, k))


def f1_macro(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Mean of 2 TP / (2 TP + FP + FN) over the classes that are true or predicted somewhere.

    >>> round(f1_macro([0, 0, 1], [0, 1, 1]), 4)
    0.6667
    """
    return none_if_undefined(on.f1_macro(confusion_matrix(truth, preds)))


def f1_weighted(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Mean F1 over classes, weighted by the faces of each true class.

    >>> round(f1_weighted([0, 0, 0, 1], [0, 0, 1, 1]), 4)
    0.7667
    """
    return none_if_undefined(on.f1_weighted(confusion_matrix(truth, preds)))


def precision_per_class(truth: npt.ArrayLike, preds: npt.ArrayLike) -> list[float | None]:
    """TP / (TP + FP) of each class; None for a class never predicted.

    >>> precision_per_class([0, 0, 1], [0, 0, 0])
    [0.6666666666666666, None]
    """
    return _each(on.precision(confusion_matrix(truth, preds)))


def recall_per_class(truth: npt.ArrayLike, preds: npt.ArrayLike) -> list[float | None]:
    """TP / (TP + FN) of each class; None for a class absent from the truth.

    >>> recall_per_class([0, 0, 2], [0, 1, 2])
    [0.5, None, 1.0]
    """
    return _each(on.recall(confusion_matrix(truth, preds)))


def f1_per_class(truth: npt.ArrayLike, preds: npt.ArrayLike) -> list[float | None]:
    """2 TP / (2 TP + FP + FN) of each class; None for a class neither true nor predicted.

    >>> f1_per_class([0, 0, 1], [0, 0, 0])
    [0.8, 0.0]
    """
    return _each(on.f1(confusion_matrix(truth, preds)))


def cohen_kappa(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """(p_o - p_e) / (1 - p_e): agreement beyond what the marginals give (Cohen, 1960).

    >>> cohen_kappa([0, 0, 1, 1], [0, 0, 1, 0])
    0.5
    """
    return none_if_undefined(on.cohen_kappa(confusion_matrix(truth, preds)))


def krippendorff_alpha(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """1 - D_o / D_e, nominal, truth and prediction as two raters (Krippendorff, 2011).

    >>> round(krippendorff_alpha([0, 0, 1, 1], [0, 0, 1, 0]), 4)
    0.5333
    """
    return none_if_undefined(on.krippendorff_alpha(confusion_matrix(truth, preds)))


def auc_roc_per_class(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> list[float | None]:
    """P(score of a face of the class > score of another) + P(tie) / 2, each class against the rest.

    None for a class that no face, or every face, is of (Hanley and McNeil, 1982).

    >>> auc_roc_per_class([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    [0.75, 0.75]
    """
    return _each(_areas(truth, probabilities)[0])


def auc_roc_macro(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Mean one-vs-rest AUC-ROC over the classes for which it is defined.

    >>> auc_roc_macro([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    0.75
    """
    return none_if_undefined(mean_of_defined(_areas(truth, probabilities)[0]))


def auc_pr_per_class(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> list[float | None]:
    """Average precision, sum over thresholds of (R_t - R_(t-1)) P_t, each class against the rest.

    None for a class that no face is of.

    >>> auc_pr_per_class([0, 1], [[0.4, 0.6], [0.2, 0.8]])
    [1.0, 1.0]
    """
    return _each(_areas(truth, probabilities)[1])


def auc_pr_macro(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Mean one-vs-rest average precision over the classes that occur in the truth.

    >>> auc_pr_macro([0, 1], [[0.4, 0.6], [0.5, 0.5]])
    0.5
    """
    return none_if_undefined(mean_of_defined(_areas(truth, probabilities)[1]))


def log_loss(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Mean of -ln p(true class), in nats; p is kept away from 0 and 1 by 2.2e-16.

    >>> round(log_loss([0, 1], [[0.5, 0.5], [0.25, 0.75]]), 4)
    0.4904
    """
    return _mean(surprise(*_scored(truth, probabilities)))


def expected_calibration_error(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = ECE_BINS
) -> float | None:
    """Sum over bins of (n_b / n) |accuracy_b - confidence_b| (Guo et al., 2017, equation 3).

    Bins of equal width, each closed above; confidence is the highest probability of a face.

    >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 4)
    0.4
    """
    t, q = _scored(truth, probabilities)
    return none_if_undefined(Calibration(t, q, bins)(np.ones((len(t), 1)))[0])


def reliability_curve(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = ECE_BINS
) -> list[dict[str, float | int | None]]:
    """Faces, mean confidence and accuracy of each bin that the calibration error sums over.

    >>> reliability_curve([0, 1], [[0.9, 0.1], [0.9, 0.1]], bins=2)[1]
    {'from': 0.5, 'to': 1.0, 'n': 2, 'confidence': 0.9, 'accuracy': 0.5}
    """
    return Calibration(*_scored(truth, probabilities), bins).curve()


def rmse(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Root of the mean squared error: sqrt((1/n) sum (y - x)^2).

    >>> rmse([0.0, 0.0], [0.3, -0.3])
    0.3
    """
    return _affect(truth, preds, "rmse")


def mae(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Mean absolute error: (1/n) sum |y - x|.

    >>> mae([0.0, 0.0], [0.5, 0.0])
    0.25
    """
    return _affect(truth, preds, "mae")


def corr(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """Pearson's correlation, cov(x, y) / (sd x sd y); None where either does not vary.

    >>> round(corr([-1.0, 0.0, 1.0], [0.0, 0.5, 1.0]), 6)
    1.0
    """
    return _affect(truth, preds, "corr")


def sagr(truth: npt.ArrayLike, preds: npt.ArrayLike, zero_rule: ZeroRule = "sign") -> float | None:
    """Share of faces whose predicted sign equals the annotated one (Nicolaou et al., 2011).

    Args:
        truth, preds: (n,) numbers.
        zero_rule: `sign`: zero is a sign of its own; `positive`: zero counts as positive; `drop`:
            faces annotated exactly zero are left out.

    >>> sagr([0.5, 0.0, -0.5], [0.1, 0.1, -0.1])
    0.6666666666666666
    >>> sagr([0.5, 0.0, -0.5], [0.1, 0.1, -0.1], zero_rule="positive")
    1.0
    """
    return _affect(truth, preds, "sagr", zero_rule)


def ccc(truth: npt.ArrayLike, preds: npt.ArrayLike) -> float | None:
    """2 cov(x, y) / (var x + var y + (mean x - mean y)^2), population moments (Lin, 1989).

    Zero where only one of the two varies; None where both are the same constant.

    >>> round(ccc([-0.5, 0.0, 0.5], [0.0, 0.5, 1.0]), 6)
    0.571429
    """
    return _affect(truth, preds, "ccc")


def expression_affect_agreement(
    expression: npt.ArrayLike, valence: npt.ArrayLike, arousal: npt.ArrayLike
) -> float | None:
    """Share of faces whose (valence, arousal) is nearest to the point of their own expression.

    The points are `labels.CIRCUMPLEX`, the distance Euclidean. On predictions it says whether the
    two heads tell the same story; on annotations it is what a consistent annotator reaches.

    >>> expression_affect_agreement([1, 2], [0.8, 0.7], [0.5, 0.5])
    0.5
    """
    e = np.asarray(expression, dtype=np.int64)
    v, a = np.asarray(valence, np.float64), np.asarray(arousal, np.float64)
    return _mean(nearest_expression(v, a) == e)


def skew_normalised(
    truth: npt.ArrayLike, preds: npt.ArrayLike, probabilities: npt.ArrayLike | None = None
) -> dict[str, float | None]:
    """The figures that a set with as many faces of every class would give.

    Each face weighs n / (K n_c), with n_c the faces of its true class and K the classes that
    occur: the limit of drawing the larger classes down to the size of the smallest again and again
    (Jeni, Cohn and De la Torre, 2013; AffectNet reports such figures beside the plain ones).

    >>> skew_normalised([0, 0, 0, 1], [0, 0, 0, 0])["accuracy"]
    0.5
    """
    from affectnet.evaluation.bootstrap import point
    from affectnet.evaluation.metric_vectors import ExpressionFigures

    t, p = _labels(truth, preds)
    q = None if probabilities is None else _scored(truth, probabilities)[1]
    k = q.shape[1] if q is not None else int(max(t.max(initial=0), p.max(initial=0))) + 1
    figures = ExpressionFigures(t, p, q, [str(c) for c in range(k)])
    return {
        name.removeprefix("skew_normalised/"): none_if_undefined(value)
        for name, value in zip(figures.names, point(figures, len(t)), strict=True)
        if name.startswith("skew_normalised/")
    }


def _labels(truth: npt.ArrayLike, preds: npt.ArrayLike) -> tuple[Ints, Ints]:
    t, p = np.asarray(truth, dtype=np.int64), np.asarray(preds, dtype=np.int64)
    _same_length(t, p)
    return t, p


def _scored(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Ints, Floats]:
    t, q = np.asarray(truth, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    if q.ndim != 2:
        raise ValueError(f"probabilities must be (n, K), not {q.shape}")
    _same_length(t, q)
    return t, q


def _same_length(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> None:
    if a.ndim != 1 or len(a) != len(b):
        raise ValueError(f"truth {a.shape} and predictions {b.shape} must have the same faces")


def _areas(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Floats, Floats]:
    t, q = _scored(truth, probabilities)
    ones = np.ones((len(t), 1))
    areas = np.array([Ranking(q[:, c], t == c)(ones) for c in range(q.shape[1])])
    return areas[:, 0, 0], areas[:, 1, 0]


def _affect(
    truth: npt.ArrayLike, preds: npt.ArrayLike, name: str, zero_rule: ZeroRule = "sign"
) -> float | None:
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(preds, dtype=np.float64)
    _same_length(t, p)
    values = Moments(t, p, zero_rule)(np.ones((len(t), 1)))[:, 0]
    return none_if_undefined(values[AFFECT_FIGURES.index(name)])


def _mean(values: npt.NDArray[np.generic]) -> float | None:
    return float(values.mean()) if len(values) else None


def _each(values: Floats) -> list[float | None]:
    return [none_if_undefined(value) for value in values]
