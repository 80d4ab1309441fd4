"""The parts of a score: which figures, over which faces, under which key of metrics.json."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from affectnet.evaluation.bootstrap import (
    MAX_UNDEFINED,
    IntervalKind,
    bca_interval,
    bootstrap,
    jackknife,
    percentile_interval,
    point,
    undefined_share,
)
from affectnet.evaluation.metric_vectors import (
    AffectFigures,
    ExpressionFigures,
    Figures,
    ShareFigure,
)
from affectnet.evaluation.metrics import (
    Bools,
    Floats,
    Ints,
    ZeroRule,
    nearest_expression,
    predicted_class,
)
from affectnet.evaluation.predictions import Predictions, Truth
from affectnet.labels import EXPRESSIONS
from affectnet.seven import CONTEMPT, SEVEN, lacks_contempt, seven_probabilities


@dataclass(frozen=True)
class Section:
    """Figures over some of the faces.

    Attributes:
        key: where its figures go in metrics.json, parts joined by `/`.
        figures: over the faces in `rows`.
        rows: (n,) which of the faces have what the figures need.
        refused: why no figure is given at all, empty where they are.
    """

    key: str
    figures: Figures
    rows: Bools
    refused: str = ""


@dataclass(frozen=True)
class Setting:
    """How intervals are made: see `scores.evaluate`."""

    resamples: int
    seed: int
    interval: IntervalKind
    stratified: bool


def label_section(truth: Truth, preds: Predictions) -> Section:
    """The figures of the eight labels alone, over the faces of `expression_section`."""
    rows = _labelled(truth, preds)
    figures = ExpressionFigures(
        truth.expression[rows], preds.expression[rows], None, EXPRESSIONS, with_skew=False
    )
    return Section("expression", figures, rows)


def _labelled(truth: Truth, preds: Predictions) -> Bools:
    rows = (truth.expression >= 0) & (preds.expression >= 0)
    if preds.probabilities is not None:
        rows &= ~np.isnan(preds.probabilities[:, 0])
    return rows


def expression_sections(
    truth: Truth, preds: Predictions, classes: Sequence[str]
) -> tuple[Section, Section]:
    """`expression`, over `classes`, and `expression_7`, over the seven."""
    return (
        expression_section(truth, preds, classes),
        expression_section(truth, preds, SEVEN, "expression_7", with_skew=False),
    )


def expression_section(
    truth: Truth,
    preds: Predictions,
    classes: Sequence[str] = EXPRESSIONS,
    key: str = "expression",
    with_skew: bool = True,
) -> Section:
    """Eight classes; or seven, with contempt out of the truth and the probabilities.

    The seven probabilities are scaled to sum to one (all equal where all were zero) and the
    predicted class is the most probable of them.
    """
    rows = _labelled(truth, preds)
    seven = lacks_contempt(classes)
    if seven:
        rows &= truth.expression != CONTEMPT
    true, said = truth.expression[rows], preds.expression[rows]
    probabilities = None if preds.probabilities is None else preds.probabilities[rows]
    refused = ""
    if seven and probabilities is not None:
        probabilities = seven_probabilities(probabilities)
        said = predicted_class(probabilities)
    elif seven and (said == CONTEMPT).any():
        refused = (
            "seven classes need probabilities: the labels say contempt for "
            f"{int((said == CONTEMPT).sum()):,} faces that are not"
        )
        said = np.minimum(said, CONTEMPT - 1)
    uncovered = [name for name in preds.uncovered if name in classes]
    figures = ExpressionFigures(true, said, probabilities, classes, uncovered, with_skew)
    return Section(key, figures, rows, refused)


def affect_section(
    truth: Truth, preds: Predictions, dimension: str, zero_rule: ZeroRule
) -> Section:
    """RMSE, MAE, CORR, SAGR and CCC of `valence` or `arousal`."""
    x, y = getattr(truth, dimension), getattr(preds, dimension)
    rows = ~np.isnan(x) & ~np.isnan(y)
    return Section(dimension, AffectFigures(x[rows], y[rows], dimension, zero_rule), rows)


def consistency_sections(truth: Truth, preds: Predictions) -> list[Section]:
    """Whether expression agrees with valence and arousal, as predicted and as annotated."""
    return [
        _consistency("predicted", preds.expression, preds.valence, preds.arousal),
        _consistency("annotated", truth.expression, truth.valence, truth.arousal),
    ]


def _consistency(name: str, expression: Ints, valence: Floats, arousal: Floats) -> Section:
    rows = (expression >= 0) & ~np.isnan(valence) & ~np.isnan(arousal)
    agrees = nearest_expression(valence[rows], arousal[rows]) == expression[rows]
    reason = f"no face has expression, valence and arousal all {name}"
    return Section("consistency", ShareFigure(name, agrees, reason), rows)


def scored(
    sections: Sequence[Section], setting: Setting, strata: Ints
) -> Iterator[tuple[Section, dict[str, dict[str, Any]]]]:
    """Yield each section with {figure name: {value, low, high, and reason where undefined}}.

    Sections over the same faces share their resamples.

    Args:
        sections: over the same n faces.
        setting: of the bootstrap.
        strata: (n,) class of each face, used where the setting is stratified.
    """
    together: dict[bytes, list[Section]] = {}
    for section in sections:
        together.setdefault(section.rows.tobytes(), []).append(section)
    for group in together.values():
        rows = group[0].rows
        n = int(rows.sum())
        alive = [section for section in group if n and not section.refused]
        names = [len(section.figures.names) for section in alive]
        ends = np.cumsum([0, *names])

        def stacked(weights: Floats, alive: list[Section] = alive) -> Floats:
            return np.concatenate([section.figures(weights) for section in alive])

        values = low = high = undefined = np.zeros(0)
        if alive:
            values = point(stacked, n)
            low, high, undefined = _interval(
                stacked, values, n, setting, strata[rows] if setting.stratified else None
            )
        for section in group:
            if section not in alive:
                reason = section.refused
                yield (
                    section,
                    {
                        name: _figure(np.nan, np.nan, np.nan, reason or section.figures.why(name))
                        for name in section.figures.names
                    },
                )
                continue
            start = int(ends[alive.index(section)])
            entries = {}
            for f, name in enumerate(section.figures.names, start=start):
                reason = ""
                if np.isnan(values[f]):
                    reason = section.figures.why(name)
                elif n == 1:
                    reason = "one face gives no interval"
                elif undefined[f] > MAX_UNDEFINED:
                    reason = f"undefined in {undefined[f]:.0%} of the resamples, so no interval"
                entries[name] = _figure(values[f], low[f], high[f], reason)
            yield section, entries


def _interval(
    figures: Any, values: Floats, n: int, setting: Setting, strata: Ints | None
) -> tuple[Floats, Floats, Floats]:
    nothing = np.full(len(values), np.nan)
    if setting.resamples == 0 or n == 1:
        return nothing, nothing, np.zeros(len(values))
    samples = bootstrap(figures, n, setting.resamples, setting.seed, strata)
    if setting.interval == "bca":
        left_out = jackknife(figures, n, setting.seed)
        low, high = bca_interval(values, samples, left_out)
    else:
        low, high = percentile_interval(samples)
    undefined = undefined_share(samples)
    hidden = undefined > MAX_UNDEFINED
    return np.where(hidden, np.nan, low), np.where(hidden, np.nan, high), undefined


def _figure(value: float, low: float, high: float, reason: str) -> dict[str, Any]:
    """One entry of metrics.json."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "reason": reason}
    bounds = [None if np.isnan(bound) else float(bound) for bound in (low, high)]
    entry: dict[str, Any] = {"value": float(value), "low": bounds[0], "high": bounds[1]}
    return entry | ({"reason": reason} if reason else {})


def nested(key: str, entries: dict[str, dict[str, Any]], into: dict[str, Any]) -> None:
    """Put `entries`, whose names may have parts joined by `/`, under `key` of `into`."""
    for name, entry in entries.items():
        place = into
        *path, last = [*key.split("/"), *name.split("/")]
        for part in path:
            place = place.setdefault(part, {})
        place[last] = entry
