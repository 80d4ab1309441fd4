"""Baselines of a score: constant predictions, agreement of annotators, published results."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import numpy as np

from affectnet.evaluation.bootstrap import BootstrapSettings, nested, scored
from affectnet.evaluation.metric_vectors import (
    CLASS_METRICS,
    MetricGroup,
    affect_group,
    expression_groups,
)
from affectnet.evaluation.metrics import ZeroRule
from affectnet.evaluation.predictions import Predictions, Truth
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

ANNOTATOR_AGREEMENT: Final = 0.607
ANNOTATOR_SOURCE: Final = (
    "Mollahosseini et al. 2017, arXiv:1708.03985: 36,000 images that two annotators labelled"
)
MAJORITY: Final = "majority class"
CONSTANT: Final = "constant mean"
ANNOTATORS: Final = "two AffectNet annotators"


def baselines(truth: Truth, zero_rule: ZeroRule, classes: Sequence[str]) -> dict[str, Any]:
    """The baselines on these faces, each with the layout of a score, and the published metrics.

    `majority class`: every face gets the class fractions of the truth as its probabilities, and so
    the most frequent class as its label. `constant mean`: every face gets the mean valence and
    arousal of the truth, the best constant by RMSE. Both use the truth that they are scored on, so
    they are as good as a constant can be. `expression` is of `classes`.
    """
    found: dict[str, Any] = {}
    labelled = truth.expression >= 0
    if labelled.any():
        fractions = (
            np.bincount(truth.expression[labelled], minlength=N_EXPRESSIONS) / labelled.sum()
        )
        guess = _constant(truth, probabilities=np.tile(fractions, (len(truth), 1)))
        found[MAJORITY] = _score(truth, expression_groups(truth, guess, classes))
        found[MAJORITY]["says"] = EXPRESSIONS[int(fractions.argmax())]
    means = {
        name: float(np.nanmean(getattr(truth, name)))
        for name in ("valence", "arousal")
        if not np.isnan(getattr(truth, name)).all()
    }
    if means:
        guess = _constant(
            truth, **{name: np.full(len(truth), mean) for name, mean in means.items()}
        )
        found[CONSTANT] = _score(
            truth, [affect_group(truth, guess, name, zero_rule) for name in means]
        )
        found[CONSTANT]["says"] = means
    found[ANNOTATORS] = {
        "expression": {"accuracy": {"value": ANNOTATOR_AGREEMENT, "low": None, "high": None}},
        "source": ANNOTATOR_SOURCE,
    }
    found["published"] = published()
    return found


def published() -> list[dict[str, Any]]:
    """Published AffectNet metrics: model, classes, figure, value, source, and whether reproduced.

    `figure` is the metric. `checked` states whether it was read at its source or is quoted second
    hand.
    """
    text = files("affectnet.evaluation").joinpath("published.csv").read_text(encoding="utf-8")
    return [
        {
            **row,
            "classes": int(row["classes"]) if row["classes"] else None,
            "value": float(row["value"]),
            "reproduced": row["reproduced"] == "yes",
        }
        for row in csv.DictReader(text.splitlines())
    ]


def _constant(truth: Truth, **given: Any) -> Predictions:
    blank = np.full(len(truth), np.nan)
    return Predictions(
        ids=truth.ids,
        expression=np.full(len(truth), -1, dtype=np.int64),
        valence=given.get("valence", blank),
        arousal=given.get("arousal", blank),
        probabilities=given.get("probabilities"),
    )


def _score(truth: Truth, groups: Sequence[MetricGroup]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    plain = BootstrapSettings(resamples=0, seed=0, interval="percentile", stratified=False)
    for group, entries in scored(groups, plain, truth.expression):
        overall = {
            name: entry
            for name, entry in entries.items()
            if not (name.startswith("per_class/") and name.rsplit("/", 1)[1] in CLASS_METRICS)
        }
        nested(group.key, overall, out)
    return out
