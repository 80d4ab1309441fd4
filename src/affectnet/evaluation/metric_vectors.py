"""All metrics of one target as a vector per weighting, which is what the bootstrap resamples.

A `MetricVector` maps weights (n, B) to values (F, B) in the order of `names`. NaN is undefined, and
`why(name)` gives the reason. Weights of one give the metrics of the faces as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from scipy.sparse import csr_array

from affectnet.evaluation import metrics
from affectnet.evaluation.metrics import (
    AFFECT_METRICS,
    Bools,
    Calibration,
    Floats,
    Ints,
    Moments,
    Ranking,
    ZeroRule,
    in_top_k,
    mean_of_defined,
    nearest_expression,
    predicted_class,
    ratio,
    surprise,
)
from affectnet.evaluation.predictions import Predictions, Truth
from affectnet.labels import EXPRESSIONS
from affectnet.seven import CONTEMPT, SEVEN, lacks_contempt, seven_probabilities

LABEL_METRICS: Final = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1_weighted",
    "cohen_kappa",
    "krippendorff_alpha",
)
PROBABILITY_METRICS: Final = ("top2_accuracy", "auc_roc_macro", "auc_pr_macro", "log_loss", "ece")
SKEW_METRICS: Final = (
    "accuracy",
    "f1_macro",
    "cohen_kappa",
    "krippendorff_alpha",
    "auc_roc_macro",
    "auc_pr_macro",
)
CLASS_METRICS: Final = ("precision", "recall", "f1", "auc_roc", "auc_pr")
_NEEDS_PROBABILITIES: Final = frozenset((*PROBABILITY_METRICS, "auc_roc", "auc_pr"))


class MetricVector(Protocol):
    """What the bootstrap needs of several metrics over the same n faces."""

    names: tuple[str, ...]

    def __call__(self, weights: Floats) -> Floats: ...

    def trials(self, name: str) -> int: ...

    def why(self, name: str) -> str: ...


class ExpressionVector:
    """Every metric of predicted classes, and of probabilities where they are given.

    Names: those of `LABEL_METRICS` and `PROBABILITY_METRICS`, `skew_normalised/METRIC`, and
    `per_class/CLASS/METRIC`.

    Args:
        truth, preds: (n,) class indices below `len(classes)`.
        probabilities: (n, K), rows that sum to one, or None when only labels were given.
        classes: the K names.
        uncovered: classes for which no probability was given (theirs are zero).
        with_skew: also the skew-normalised metrics.
    """

    def __init__(
        self,
        truth: Ints,
        preds: Ints,
        probabilities: Floats | None,
        classes: Sequence[str],
        uncovered: Sequence[str] = (),
        with_skew: bool = True,
    ) -> None:
        n, k = len(truth), len(classes)
        self.classes, self._truth = tuple(classes), truth
        self._probabilities, self._with_skew = probabilities, with_skew
        self._uncovered_in_truth = [c for c in uncovered if (truth == self.classes.index(c)).any()]
        cells = truth * k + preds
        self._cells = csr_array((np.ones(n), (cells, np.arange(n))), shape=(k * k, n))
        self.names: tuple[str, ...] = (
            *LABEL_METRICS,
            *PROBABILITY_METRICS,
            *(f"skew_normalised/{name}" for name in SKEW_METRICS if with_skew),
            *(f"per_class/{c}/{name}" for name in CLASS_METRICS for c in classes),
        )
        self.calibration: Calibration | None = None
        if probabilities is not None and n:
            self.calibration = Calibration(truth, probabilities)
            self._means = np.stack(
                [in_top_k(truth, probabilities, 2), surprise(truth, probabilities)]
            )
            self._rankings = [Ranking(probabilities[:, c], truth == c) for c in range(k)]

    def confusion(self, weights: Floats) -> Floats:
        """The confusion matrices (B, K, K) of `weights` (n, B)."""
        k = len(self.classes)
        return np.asarray((self._cells @ weights).T.reshape(-1, k, k))

    def support(self) -> Ints:
        """The faces of each true class, (K,)."""
        return np.bincount(self._truth, minlength=len(self.classes))

    def __call__(self, weights: Floats) -> Floats:
        """Return (F, B) metrics in the order of `names` for `weights` (n, B)."""
        matrix = self.confusion(weights)
        labels = [getattr(metrics, name)(matrix) for name in LABEL_METRICS]
        aucs, aps = self._areas(weights)
        from_probabilities = [np.full(weights.shape[1], np.nan)] * len(PROBABILITY_METRICS)
        if self.calibration is not None:
            top2, log_loss = ratio(self._means @ weights, weights.sum(axis=0))
            if self._uncovered_in_truth:
                log_loss = np.full(weights.shape[1], np.nan)
            macro = mean_of_defined(aucs.T), mean_of_defined(aps.T)
            from_probabilities = [top2, *macro, log_loss, self.calibration(weights)]
        skew: list[Floats] = []
        if self._with_skew:
            equal = metrics.equal_classes(matrix)
            skew = [getattr(metrics, name)(equal) for name in SKEW_METRICS[:4]]
            skew_aucs, skew_aps = self._areas(self._equal_weights(weights, matrix))
            skew += [mean_of_defined(skew_aucs.T), mean_of_defined(skew_aps.T)]
        by_label = (metrics.precision(matrix), metrics.recall(matrix), metrics.f1(matrix))
        per_class = [*(values.T for values in by_label), aucs, aps]
        return np.concatenate([np.stack([*labels, *from_probabilities, *skew]), *per_class])

    def _areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """One-vs-rest (AUC-ROC, average precision), each (K, B)."""
        shape = (len(self.classes), weights.shape[1])
        aucs, aps = np.full(shape, np.nan), np.full(shape, np.nan)
        if self.calibration is not None:
            for c, ranking in enumerate(self._rankings):
                aucs[c], aps[c] = ranking(weights)
        return aucs, aps

    def _equal_weights(self, weights: Floats, matrix: Floats) -> Floats:
        if self.calibration is None:
            return weights
        # A class that was not drawn has only zeros to scale.
        per_class = 1.0 / np.maximum(matrix.sum(axis=-1).T, 1.0)
        equal = per_class[self._truth]
        equal *= weights
        return np.asarray(equal)

    def trials(self, name: str) -> int:
        """The number of faces of which the metric `name` is a fraction; 0 if it is not one."""
        *scope, metric = name.split("/")
        if not scope:
            return len(self._truth) if metric in ("accuracy", "top2_accuracy") else 0
        totals = {
            "recall": self.support(),
            "precision": self._cells.sum(axis=1).reshape(len(self.classes), -1).sum(axis=0),
        }
        if scope[0] != "per_class" or metric not in totals:
            return 0
        return int(totals[metric][self.classes.index(scope[1])])

    def why(self, name: str) -> str:
        """The reason why the metric `name` is undefined for these faces."""
        if len(self._truth) == 0:
            return "no face has both a true and a predicted expression"
        *scope, metric = name.split("/")
        if metric in _NEEDS_PROBABILITIES and self._probabilities is None:
            return "needs class probabilities, and only labels were given"
        if scope[:1] == ["per_class"]:
            return self._why_class(scope[1], metric)
        if metric == "log_loss":
            missing = ", ".join(self._uncovered_in_truth)
            return f"no probabilities were given for {missing}, which the truth holds"
        return f"every face is {self.classes[self._truth[0]]}, in the truth and the predictions"

    def _why_class(self, name: str, metric: str) -> str:
        if metric == "precision":
            return f"no face is predicted as {name}"
        if metric == "f1":
            return f"no face is {name}, neither in the truth nor in the predictions"
        if (self._truth == self.classes.index(name)).any():
            return f"every face is {name}, so there is no other face to compare with"
        return f"no face is {name} in the truth"


class AffectVector(Moments):
    """RMSE, MAE, CORR, SAGR and CCC of one dimension, `valence` or `arousal`."""

    names: tuple[str, ...] = AFFECT_METRICS

    def __init__(
        self, truth: Floats, preds: Floats, dimension: str, zero_rule: ZeroRule = "sign"
    ) -> None:
        super().__init__(truth, preds, zero_rule)
        self._dimension = dimension

    def trials(self, name: str) -> int:
        """The number of faces of which the metric `name` is a fraction; 0 if it is not one."""
        return self.counted if name == "sagr" else 0

    def why(self, name: str) -> str:
        """The reason why the metric `name` is undefined for these faces."""
        if len(self.truth) == 0:
            return f"no face has both an annotated and a predicted {self._dimension}"
        if name == "sagr":
            return f"every annotated {self._dimension} is zero, and the zero rule drops zeros"
        if len(self.truth) == 1:
            return "one face has no spread"
        flat = [
            word
            for word, values in (("annotated", self.truth), ("predicted", self.preds))
            if np.ptp(values) < 1e-150
        ]
        return f"the {' and the '.join(flat)} {self._dimension} does not vary"


class FractionVector:
    """One metric, the fraction of faces for which a condition holds."""

    def __init__(self, name: str, holds: Bools, reason: str) -> None:
        self.names: tuple[str, ...] = (name,)
        self._holds = np.asarray(holds, dtype=np.float64)
        self._reason = reason

    def __call__(self, weights: Floats) -> Floats:
        """Return (1, B) fractions for `weights` (n, B)."""
        return ratio(self._holds @ weights, weights.sum(axis=0))[None]

    def trials(self, name: str) -> int:
        """The number of faces of which the metric is a fraction."""
        del name
        return len(self._holds)

    def why(self, name: str) -> str:
        """The reason why the fraction is undefined: there are no faces."""
        del name
        return self._reason


@dataclass(frozen=True)
class MetricGroup:
    """Metrics over some of the faces.

    Attributes:
        key: where the metrics go in metrics.json, levels joined by `/`.
        metrics: over the faces in `rows`.
        rows: (n,) which of the faces have what the metrics need.
        refused: the reason why none of the metrics is computed, empty where they are.
    """

    key: str
    metrics: MetricVector
    rows: Bools
    refused: str = ""


def expression_groups(
    truth: Truth, preds: Predictions, classes: Sequence[str]
) -> tuple[MetricGroup, MetricGroup]:
    """`expression`, over `classes`, and `expression_7`, over the seven."""
    return (
        expression_group(truth, preds, classes),
        expression_group(truth, preds, SEVEN, "expression_7", with_skew=False),
    )


def expression_group(
    truth: Truth,
    preds: Predictions,
    classes: Sequence[str] = EXPRESSIONS,
    key: str = "expression",
    with_skew: bool = True,
    labels_only: bool = False,
) -> MetricGroup:
    """Eight classes; or seven, without contempt in the truth and in the probabilities.

    The seven probabilities are scaled to sum to one (all equal where all were zero), and the
    predicted class is the most probable of them. With `labels_only`, metrics of probabilities are
    not computed.
    """
    rows = (truth.expression >= 0) & (preds.expression >= 0)
    if preds.probabilities is not None:
        rows &= ~np.isnan(preds.probabilities[:, 0])
    seven = lacks_contempt(classes)
    if seven:
        rows &= truth.expression != CONTEMPT
    labels = preds.expression[rows]
    probabilities = None
    if preds.probabilities is not None and not labels_only:
        probabilities = preds.probabilities[rows]
    refused = ""
    if seven and probabilities is not None:
        probabilities = seven_probabilities(probabilities)
        labels = predicted_class(probabilities)
    elif seven and (labels == CONTEMPT).any():
        refused = (
            "seven classes need probabilities: the predicted label is contempt for "
            f"{int((labels == CONTEMPT).sum()):,} faces of other classes"
        )
        labels = np.minimum(labels, CONTEMPT - 1)
    uncovered = [name for name in preds.uncovered if name in classes]
    vector = ExpressionVector(
        truth.expression[rows], labels, probabilities, classes, uncovered, with_skew
    )
    return MetricGroup(key, vector, rows, refused)


def affect_group(
    truth: Truth, preds: Predictions, dimension: str, zero_rule: ZeroRule
) -> MetricGroup:
    """RMSE, MAE, CORR, SAGR and CCC of `valence` or `arousal`."""
    x, y = getattr(truth, dimension), getattr(preds, dimension)
    rows = ~np.isnan(x) & ~np.isnan(y)
    return MetricGroup(dimension, AffectVector(x[rows], y[rows], dimension, zero_rule), rows)


def consistency_groups(truth: Truth, preds: Predictions) -> list[MetricGroup]:
    """Whether expression agrees with valence and arousal, as predicted and as annotated."""
    groups = []
    for name, faces in (("predicted", preds), ("annotated", truth)):
        expression, valence, arousal = faces.expression, faces.valence, faces.arousal
        rows = (expression >= 0) & ~np.isnan(valence) & ~np.isnan(arousal)
        agrees = nearest_expression(valence[rows], arousal[rows]) == expression[rows]
        reason = f"no face has expression, valence and arousal all {name}"
        groups.append(MetricGroup("consistency", FractionVector(name, agrees, reason), rows))
    return groups
