"""Figures that follow from the confusion matrix alone, for one matrix or a whole batch.

Every function takes `confusion` of shape (..., K, K): the weight of the faces of true class i
(row) predicted as class j (column). Weights are counts for plain figures and resamples, and any
non-negative numbers for reweighted ones. Undefined entries come out as NaN.
"""

import numpy as np

from affectnet.evaluation.arrays import Floats, mean_of_defined, ratio


def _hits(confusion: Floats) -> Floats:
    return np.asarray(np.diagonal(confusion, axis1=-2, axis2=-1), dtype=np.float64)


def _one_class_only(confusion: Floats) -> Floats:
    """Whether truth and prediction together hold a single class, shape (...)."""
    marginal = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray((marginal > 0).sum(axis=-1) <= 1)


def accuracy(confusion: Floats) -> Floats:
    """Share of faces on the diagonal, shape (...)."""
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
