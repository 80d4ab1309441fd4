"""All figures of one target as a vector per weighting: what the bootstrap resamples.

`Figures(weights)` maps weights (n, B) to values (F, B) in the order of `names`; NaN is undefined
and `why(name)` says why. Weights of one give the point figures.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from scipy.sparse import csr_array

from affectnet.evaluation import metrics as on
from affectnet.evaluation.metrics import (
    AFFECT_FIGURES,
    Calibration,
    Floats,
    Ints,
    Moments,
    Ranking,
    ZeroRule,
    in_top_k,
    mean_of_defined,
    ratio,
    surprise,
)

LABEL_FIGURES: Final = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1_weighted",
    "cohen_kappa",
    "krippendorff_alpha",
)
PROBABILITY_FIGURES: Final = ("top2_accuracy", "auc_roc_macro", "auc_pr_macro", "log_loss", "ece")
SKEW_FIGURES: Final = (
    "accuracy",
    "f1_macro",
    "cohen_kappa",
    "krippendorff_alpha",
    "auc_roc_macro",
    "auc_pr_macro",
)
CLASS_FIGURES: Final = ("precision", "recall", "f1", "auc_roc", "auc_pr")
_NEEDS_PROBABILITIES: Final = frozenset((*PROBABILITY_FIGURES, "auc_roc", "auc_pr"))


class Figures(Protocol):
    """What the bootstrap needs of a set of figures over the same n faces."""

    names: tuple[str, ...]

    def __call__(self, weights: Floats) -> Floats: ...

    def why(self, name: str) -> str: ...


class ExpressionFigures:
    """Every figure of predicted classes, and of probabilities where there are some.

    Names: those of `LABEL_FIGURES` and `PROBABILITY_FIGURES`, `skew_normalised/FIGURE`, and
    `per_class/CLASS/FIGURE`.

    Args:
        truth, preds: (n,) class indices below `len(classes)`.
        probabilities: (n, K), rows summing to one, or None when only labels were given.
        classes: the K names.
        uncovered: classes for which no probability was given (theirs are zero).
        with_skew: also the skew-normalised figures.
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
        self.classes, self._truth, self._preds = tuple(classes), truth, preds
        self._probabilities, self._uncovered = probabilities, tuple(uncovered)
        self._with_skew = with_skew
        cells = truth * k + preds
        self._cells = csr_array((np.ones(n), (cells, np.arange(n))), shape=(k * k, n))
        self.names: tuple[str, ...] = (
            *LABEL_FIGURES,
            *PROBABILITY_FIGURES,
            *(f"skew_normalised/{name}" for name in SKEW_FIGURES if with_skew),
            *(f"per_class/{c}/{name}" for name in CLASS_FIGURES for c in classes),
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
        """Return (F, B) figures in the order of `names` for `weights` (n, B)."""
        columns, k = weights.shape[1], len(self.classes)
        matrix = self.confusion(weights)
        labels = [getattr(on, name)(matrix) for name in LABEL_FIGURES]
        aucs, aps = self._areas(weights)
        from_probabilities = [np.full(columns, np.nan)] * len(PROBABILITY_FIGURES)
        if self.calibration is not None:
            top2, log_loss = ratio(self._means @ weights, weights.sum(axis=0))
            if self._uncovered_in_truth():
                log_loss = np.full(columns, np.nan)
            ece = self.calibration(weights)
            from_probabilities = [
                top2,
                mean_of_defined(aucs.T),
                mean_of_defined(aps.T),
                log_loss,
                ece,
            ]
        skew: list[Floats] = []
        if self._with_skew:
            equal = on.equal_classes(matrix)
            skew = [getattr(on, name)(equal) for name in SKEW_FIGURES[:4]]
            skew_aucs, skew_aps = self._areas(self._equal_weights(weights, matrix))
            skew += [mean_of_defined(skew_aucs.T), mean_of_defined(skew_aps.T)]
        per_class = [on.precision(matrix).T, on.recall(matrix).T, on.f1(matrix).T, aucs, aps]
        values = np.concatenate([np.stack([*labels, *from_probabilities, *skew]), *per_class])
        assert values.shape == (len(self.names), columns), (values.shape, k)
        return values

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

    def _uncovered_in_truth(self) -> list[str]:
        return [c for c in self._uncovered if (self._truth == self.classes.index(c)).any()]

    def why(self, name: str) -> str:
        """Say why the figure `name` is undefined for these faces."""
        if len(self._truth) == 0:
            return "no face has both a true and a predicted expression"
        parts = name.split("/")
        figure = parts[-1]
        if figure in _NEEDS_PROBABILITIES and self._probabilities is None:
            return "needs class probabilities, and only labels were given"
        if parts[0] == "per_class":
            return self._why_class(self.classes.index(parts[1]), figure)
        if figure == "log_loss":
            missing = ", ".join(self._uncovered_in_truth())
            return f"no probabilities were given for {missing}, which the truth holds"
        return f"every face is {self.classes[self._truth[0]]}, in the truth and the predictions"

    def _why_class(self, c: int, figure: str) -> str:
        name = self.classes[c]
        if figure == "precision":
            return f"no face is predicted as {name}"
        if figure == "f1":
            return f"no face is {name}, neither in the truth nor in the predictions"
        if (self._truth == c).any():
            return f"every face is {name}, so there is no other face to compare with"
        return f"no face is {name} in the truth"


class AffectFigures:
    """RMSE, MAE, CORR, SAGR and CCC of one dimension, `valence` or `arousal`."""

    def __init__(
        self, truth: Floats, preds: Floats, dimension: str, zero_rule: ZeroRule = "sign"
    ) -> None:
        self.names: tuple[str, ...] = AFFECT_FIGURES
        self._dimension = dimension
        self._truth, self._preds = truth, preds
        self._moments = Moments(truth, preds, zero_rule)

    def __call__(self, weights: Floats) -> Floats:
        """Return (5, B) figures in the order of `names` for `weights` (n, B)."""
        return self._moments(weights)

    def why(self, name: str) -> str:
        """Say why the figure `name` is undefined for these faces."""
        if len(self._truth) == 0:
            return f"no face has both an annotated and a predicted {self._dimension}"
        if name == "sagr":
            return f"every annotated {self._dimension} is zero, and the zero rule drops zeros"
        if len(self._truth) == 1:
            return "one face has no spread"
        flat = [
            word
            for word, values in (("annotated", self._truth), ("predicted", self._preds))
            if np.ptp(values) < 1e-150
        ]
        return f"the {' and the '.join(flat)} {self._dimension} does not vary"


class ShareFigure:
    """One figure that is the share of faces for which something holds."""

    def __init__(self, name: str, holds: Floats, reason: str) -> None:
        self.names: tuple[str, ...] = (name,)
        self._holds = np.asarray(holds, dtype=np.float64)
        self._reason = reason

    def __call__(self, weights: Floats) -> Floats:
        """Return (1, B) shares for `weights` (n, B)."""
        return ratio(self._holds @ weights, weights.sum(axis=0))[None]

    def why(self, name: str) -> str:
        """Say why the share is undefined: there are no faces."""
        del name
        return self._reason
