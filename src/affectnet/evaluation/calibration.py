"""Temperature scaling, and the mean of several models."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from affectnet.errors import DataError
from affectnet.evaluation.metrics import PROBABILITY_FLOOR, Floats
from affectnet.evaluation.predictions import Predictions

TEMPERATURE_RANGE: Final = (0.01, 100.0)


def fit_temperature(
    logits: npt.ArrayLike,
    truth: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    ratios: npt.ArrayLike = 0.0,
) -> float:
    """The T > 0 that minimises the log loss of softmax(logits / T + ratios) (Guo et al., 2017).

    The loss is convex in 1 / T, so the minimum for T from 0.01 to 100 is found exactly. T above 1
    softens an overconfident model; without ratios the predicted class never changes. Fit it on
    faces that are used neither for training nor for the reported scores: the validation split.

    Args:
        logits: (n, K), or log-probabilities.
        truth: (n,) class indices, -1 where missing.
        weights: weight of the faces of each class, (K,): where the faces to score have other class
            fractions, their fraction over that of these faces.
        ratios: logarithms of what probabilities are multiplied by after the temperature, (K,); see
            `affectnet.models.prior.log_ratios`.

    Raises:
        DataError: no face has a true class.
    """
    values, labels = np.asarray(logits, np.float64), np.asarray(truth, np.int64)
    known = labels >= 0
    if not known.any():
        raise DataError("temperature scaling needs faces with a true expression; there are none")
    values, labels = values[known], labels[known]
    rows = np.arange(len(labels))
    faces = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)[labels]
    if not faces.any():
        raise DataError("all faces with a true expression have the weight 0")
    shift = np.maximum(np.asarray(ratios, np.float64), np.log(PROBABILITY_FLOOR))

    def loss(inverse: float) -> float:
        own = log_softmax(values * inverse + shift, axis=1)[rows, labels]
        return float(-np.average(own, weights=faces))

    lowest, highest = TEMPERATURE_RANGE
    found = minimize_scalar(
        loss, bounds=(1 / highest, 1 / lowest), method="bounded", options={"xatol": 1e-9}
    )
    return float(1 / found.x)


def apply_temperature(probabilities: npt.ArrayLike, temperature: float) -> Floats:
    """Softmax of log p / T: what softmax(logits / T) gives, from probabilities alone, (n, K).

    >>> apply_temperature([[0.8, 0.2]], 2.0).round(4).tolist()
    [[0.6667, 0.3333]]
    """
    logs = log_probabilities(probabilities)
    return np.asarray(softmax(logs / temperature, axis=1), dtype=np.float64)


def log_probabilities(probabilities: npt.ArrayLike) -> Floats:
    """ln p, with p at least 2.2e-16, as logits for `fit_temperature`, (n, K)."""
    known = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(np.log(np.maximum(known, PROBABILITY_FLOOR)), dtype=np.float64)


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of several models: of probabilities, of valence and of arousal.

    The faces are those that all members have, in the order of the first. A value that any member
    lacks for a face is missing, so that every face has the same mixture. The predicted class is the
    most probable one of the mean.

    Raises:
        DataError: no members, no face that all have, or a member without probabilities or with
            probabilities for other classes.
    """
    if not members:
        raise DataError("an ensemble needs at least one set of predictions")
    common = set(members[0].ids).intersection(*(member.ids for member in members[1:]))
    ids = [name for name in members[0].ids if name in common]
    if not ids:
        raise DataError(f"{_names(members)} have no id in common, so they have no mean")
    if len({member.uncovered for member in members}) > 1:
        raise DataError(f"{_names(members)} have probabilities for different classes")
    aligned = [member.in_order(ids) for member in members]
    if any(member.probabilities is None for member in members) and any(
        (member.expression >= 0).any() for member in members
    ):
        raise DataError("an ensemble needs probabilities of every member, not only labels")
    known = [member.probabilities for member in aligned if member.probabilities is not None]
    return Predictions(
        ids=ids,
        expression=np.full(len(ids), -1, dtype=np.int64),
        valence=np.mean([member.valence for member in aligned], axis=0),
        arousal=np.mean([member.arousal for member in aligned], axis=0),
        probabilities=np.mean(known, axis=0) if known else None,
        uncovered=members[0].uncovered,
        source=f"mean of {_names(members)}",
    )


def _names(members: Sequence[Predictions]) -> str:
    return ", ".join(member.source for member in members)
