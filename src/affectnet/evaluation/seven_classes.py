"""The seven-class mode, AffectNet-7: faces of contempt left out, its probability dropped."""

from dataclasses import replace
from typing import Final

import numpy as np

from affectnet.errors import DataError
from affectnet.evaluation.metrics import Floats
from affectnet.evaluation.predictions import Predictions, Truth
from affectnet.labels import CONTEMPT

UNCOVERED: Final = ("contempt",)
"""What predictions of seven classes do not cover."""


def knows_seven(preds: Predictions) -> bool:
    """Whether the predictions have probabilities for every class but contempt."""
    return preds.uncovered == UNCOVERED


def seven_probabilities(probabilities: Floats) -> Floats:
    """The first seven of eight probabilities, scaled to sum to one, (n, 7).

    All equal where all seven are zero; NaN rows stay so.
    """
    kept = probabilities[:, :CONTEMPT]
    total = kept.sum(axis=1, keepdims=True)
    even = np.full_like(kept, 1.0 / CONTEMPT)
    return np.where(total == 0, even, kept / np.where(total == 0, 1.0, total))


def seven_predictions(preds: Predictions) -> Predictions:
    """Predictions that never say contempt: seven probabilities, the most probable one the label.

    Labels without probabilities stay as they are, contempt included.
    """
    if preds.probabilities is None:
        return preds
    seven = seven_probabilities(preds.probabilities)
    known = ~np.isnan(seven[:, 0])
    labels = preds.expression.copy()
    labels[known] = seven[known].argmax(axis=1)
    none = np.where(known, 0.0, np.nan)
    return replace(
        preds,
        expression=labels,
        probabilities=np.column_stack([seven, none]),
        uncovered=(*(name for name in preds.uncovered if name not in UNCOVERED), *UNCOVERED),
    )


def seven_classes(truth: Truth, preds: Predictions) -> tuple[Truth, Predictions]:
    """The same rows of both without the faces of contempt, whose valence and arousal go with them.

    Faces without a true expression stay: they count for valence and arousal alone.

    Raises:
        DataError: every face is one of contempt; or labels without probabilities say contempt of
            other faces, for which there is then no prediction among the seven.
    """
    kept = np.flatnonzero(truth.expression != CONTEMPT)
    if not len(kept):
        raise DataError(f"every face of {truth.source} is of contempt, which seven classes lack")
    known, said = truth.rows(kept), seven_predictions(preds.rows(kept))
    lost = int((said.expression == CONTEMPT).sum())
    if lost:
        raise DataError(
            f"{preds.source}: seven classes need probabilities, and {lost:,} faces have only the "
            "label contempt; give p_ columns, or score eight classes"
        )
    return known, said
