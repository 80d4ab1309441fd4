"""Score predictions against truth: every metric, its interval, and the baselines."""

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy

from affectnet.errors import ConfigError, counted
from affectnet.evaluation.bootstrap import (
    INTERVAL_KINDS,
    LEVEL,
    BootstrapSettings,
    IntervalKind,
    nested,
    scored,
)
from affectnet.evaluation.metric_vectors import (
    ExpressionVector,
    MetricGroup,
    affect_group,
    consistency_groups,
    expression_groups,
)
from affectnet.evaluation.metrics import ECE_BINS, ZERO_RULES, ZeroRule
from affectnet.evaluation.prediction_files import predictions_of, truth_of
from affectnet.evaluation.predictions import Joined, Predictions, Truth, join, scored_faces
from affectnet.evaluation.slices import FEWEST_FACES, classes_with_few_faces, score_slices
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.run import write_beside
from affectnet.seven import lacks_contempt
from affectnet.version import __version__

LISTED_IDS: Final = 20
MIN_PERMUTED: Final = 20
"""Fewer faces give no hint at another class order."""
ANNOTATOR_AGREEMENT: Final = 0.607
ANNOTATOR_SOURCE: Final = (
    "Mollahosseini et al. 2017, arXiv:1708.03985: 36,000 images that two annotators labelled, with "
    "eleven categories (none, uncertain and no face among them), so not a ceiling for eight classes"
)


@dataclass(frozen=True)
class Scores:
    """The result of `evaluate`; `metrics` is the content of metrics.json.

    Example:
        >>> s = evaluate({"expression": [0, 1, 1]}, {"expression_pred": [0, 1, 0]}, resamples=0)
        >>> round(s["expression"]["accuracy"]["value"], 4)
        0.6667
    """

    metrics: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics.json: plain dicts, lists, numbers, strings and None."""
        known: dict[str, Any] = json.loads(json.dumps(self.metrics, allow_nan=False))
        return known

    def table(self) -> str:
        """The scores, their intervals and the baselines as tables for a terminal."""
        from affectnet.evaluation.terminal import tables, to_text

        return to_text(tables(self.metrics))

    def write(self, path: Path | str) -> None:
        """Write metrics.json, completely or not at all."""
        text = json.dumps(self.metrics, indent=2, allow_nan=False)
        with write_beside(path) as new:
            new.write_text(text + "\n", encoding="utf-8")


def evaluate(
    truth: Any,
    preds: Any,
    *,
    resamples: int = 1000,
    seed: int = 0,
    interval: IntervalKind = "percentile",
    stratified: bool = False,
    zero_rule: ZeroRule = "sign",
    slices: Sequence[str] | Mapping[str, npt.ArrayLike] = (),
    without_contempt: bool = False,
    test_part_of: str = "",
) -> Scores:
    """Score predictions for expression, valence and arousal, as far as they are given.

    Args:
        truth: `Truth`, or a mapping, data frame or Arrow table with `expression` (0 to 7 or
            names), `valence`, `arousal`, any of them, and `id` where rows are not in order.
        preds: `Predictions`, or the like with `probabilities` (n, 8) or `p_neutral` to
            `p_contempt`, `expression_pred`, `valence_pred`, `arousal_pred`, any of them.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
        interval: `percentile` or `bca`.
        stratified: resample within each true class, keeping the size of each.
        zero_rule: of SAGR, see `metrics.same_sign`.
        slices: names of further columns of truth or predictions to score by, value by value; or
            columns themselves, each as long as the truth.
        without_contempt: score seven classes: no metric, valence and arousal included, has faces
            of contempt, and the other seven probabilities are scaled to sum to one. Always so for
            predictions with probabilities for these seven alone.
        test_part_of: the dataset whose published test part these faces are, `AffectNet`, `FER+` or
            `RAF-DB`: adds its published metrics to the baselines, which are comparable only there.

    Raises:
        DataError: impossible values, repeated ids, or no id in common.
        ConfigError: an unknown interval, zero rule or slice.
    """
    _check(resamples, interval, zero_rule)
    known = truth if isinstance(truth, Truth) else truth_of(truth)
    if isinstance(slices, Mapping):
        known = _with_columns(known, slices)
    given = preds if isinstance(preds, Predictions) else predictions_of(preds)
    joined = join(known, given)
    settings = BootstrapSettings(resamples, seed, interval, stratified)
    faces, (answers,), classes = scored_faces(joined.truth, [joined.preds], without_contempt)
    groups = [
        *expression_groups(faces, answers, classes),
        affect_group(faces, answers, "valence", zero_rule),
        affect_group(faces, answers, "arousal", zero_rule),
        *consistency_groups(faces, answers),
    ]

    found: dict[str, Any] = {"n": len(faces)}
    for group in groups:
        found.setdefault(group.key, {})
    for group, entries in scored(groups, settings, faces.expression):
        nested(group.key, entries, found)
        _describe(group, found[group.key])
    found["baselines"] = baselines(faces, zero_rule, classes, test_part_of)
    if slices:
        found["slices"] = score_slices(faces, answers, list(slices), settings, zero_rule)
    left_out = len(joined.truth) - len(faces)
    found["protocol"] = _protocol(joined, settings, zero_rule, classes, left_out)
    if few := classes_with_few_faces(found["expression"]):
        counts = (f"{name} ({found['expression']['per_class'][name]['n']})" for name in few)
        found["protocol"]["notes"].append(
            f"metrics of classes with fewer than {FEWEST_FACES} faces are uncertain, and so are "
            f"means over the classes: {', '.join(counts)}"
        )
    return Scores(found)


def _describe(group: MetricGroup, block: dict[str, Any]) -> None:
    """Add counts, confusion and reliability to a block of metrics.json."""
    n = int(group.rows.sum())
    if group.key == "consistency":
        block[group.metrics.names[0]]["n"] = n
        return
    block["n"] = n
    if not isinstance(group.metrics, ExpressionVector):
        return
    metrics = group.metrics
    usable = n > 0 and not group.refused
    matrix = metrics.confusion(np.ones((n, 1)))[0].astype(int) if usable else None
    block["classes"] = list(metrics.classes)
    block["confusion"] = None if matrix is None else matrix.tolist()
    counts = metrics.support()
    for c, name in enumerate(metrics.classes):
        block["per_class"][name]["n"] = int(counts[c])
    absent = [name for name, count in zip(metrics.classes, counts, strict=True) if count == 0]
    if usable and absent:
        block["note"] = (
            f"the truth holds no {', no '.join(absent)}; means are over the other classes"
        )
    block["reliability"] = metrics.calibration.curve() if metrics.calibration and usable else None


def _protocol(
    joined: Joined,
    settings: BootstrapSettings,
    zero_rule: ZeroRule,
    classes: Sequence[str],
    left_out: int,
) -> dict[str, Any]:
    """How the metrics were computed; `left_out` counts the faces of classes that do not apply."""
    truth, preds = joined.truth, joined.preds
    seven = lacks_contempt(classes)
    notes = [*dict.fromkeys((*truth.notes, *preds.notes))]
    if joined.missing:
        faces = counted(len(joined.missing), "face")
        notes.append(f"without a prediction, and so not scored: {faces} of the truth")
    if joined.extra:
        extra = counted(len(joined.extra), "prediction")
        notes.append(f"without a face in the truth, and so not scored: {extra}")
    notes += _missing_values(truth, preds)
    absent = [
        name
        for name, missing in (
            ("expression", (preds.expression < 0).all() and (truth.expression >= 0).any()),
            *(
                (name, np.isnan(getattr(preds, name)).all() and not np.isnan(values).all())
                for name, values in (("valence", truth.valence), ("arousal", truth.arousal))
            ),
        )
        if missing
    ]
    if absent:
        notes.append(
            f"no {' and no '.join(absent)} is predicted; models predict what they were trained on"
        )
    if preds.probabilities is not None:
        known = ~np.isnan(preds.probabilities[:, 0])
        other = preds.expression[known] != preds.probabilities[known].argmax(axis=1)
        if other.any() and not seven:
            notes.append(
                f"the predicted label is not the most probable class for "
                f"{counted(int(other.sum()), 'face')}; metrics of labels use the label, all others "
                "the probabilities"
            )
    if preds.prior is not None:
        notes.append(f"the probabilities are corrected for other class fractions: {preds.prior}")
    notes += _permutation_note(truth, preds)
    uncovered = [name for name in preds.uncovered if name in classes]
    if uncovered:
        notes.append(f"the predictions have no probability for {', '.join(uncovered)}")
    if seven:
        note = f"{left_out:,} faces of contempt are in no metric, valence and arousal included"
        notes.append(
            f"seven classes (the predictions have no contempt): {note}"
            if preds.of_seven
            else f"seven classes (contempt dropped): {note}; "
            "the other seven probabilities are scaled to sum to one"
        )
    return {
        "truth": truth.source,
        "predictions": preds.source,
        "n_truth": len(truth) + len(joined.missing),
        "n_missing": len(joined.missing),
        "n_extra": len(joined.extra),
        "missing_ids": list(joined.missing[:LISTED_IDS]),
        "extra_ids": list(joined.extra[:LISTED_IDS]),
        "classes": list(classes),
        "without_contempt": seven,
        "n_contempt": left_out,
        "zero_rule": zero_rule,
        "interval": settings.interval,
        "level": LEVEL,
        "resamples": settings.resamples,
        "stratified": settings.stratified,
        "seed": settings.seed,
        "ece_bins": ECE_BINS,
        "notes": notes,
        "versions": {
            "affectnet": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    }


def _missing_values(truth: Truth, preds: Predictions) -> list[str]:
    """The columns that lack a value for some of the faces, and for how many."""
    labels = preds.expression >= 0
    if preds.probabilities is not None:
        labels &= ~np.isnan(preds.probabilities[:, 0])
    of_labels = "expression_pred" if preds.probabilities is None else "probabilities"
    notes = []
    for name, ours, known, given in (
        ("expression", of_labels, truth.expression >= 0, labels),
        *(
            (name, f"{name}_pred", *(~np.isnan(getattr(one, name)) for one in (truth, preds)))
            for name in ("valence", "arousal")
        ),
    ):
        if not (known.any() and given.any()):
            continue
        for column, lost in ((f"{name} in the truth", ~known), (ours, known & ~given)):
            if lost.any():
                faces = counted(int(lost.sum()), "face")
                notes.append(f"without {column}, and so not scored for {name}: {faces}")
    return notes


def _permutation_note(truth: Truth, preds: Predictions) -> list[str]:
    """A hint that the predictions may have another class order; it is never applied.

    The permutation with most hits has to explain 90% of the errors, or to be the alphabetical one
    of all 40,320 and to double the hits.
    """
    from scipy.optimize import linear_sum_assignment

    both = (truth.expression >= 0) & (preds.expression >= 0)
    n = int(both.sum())
    if n < MIN_PERMUTED:
        return []
    counts = np.zeros((N_EXPRESSIONS, N_EXPRESSIONS), np.int64)
    np.add.at(counts, (preds.expression[both], truth.expression[both]), 1)
    said, meant = linear_sum_assignment(-counts)
    hits, best = int(np.trace(counts)), int(counts[said, meant].sum())
    alphabetical = [EXPRESSIONS[c] for c in meant] == sorted(EXPRESSIONS)
    explains_all = best - hits >= 0.9 * (n - hits) >= 0.1 * n
    if not (explains_all or (alphabetical and best >= max(2 * hits, n // 4))):
        return []
    order = [EXPRESSIONS[c] for c in meant[: int(preds.expression[both].max()) + 1]]
    return [
        f"the classes seem to be in another order: read as {', '.join(order)}, {best / n:.1%} of "
        f"the labels would be right instead of {hits / n:.1%}; if that is their order, give it "
        "with --classes"
    ]


def _check(resamples: int, interval: str, zero_rule: str) -> None:
    if resamples < 0 or resamples == 1:
        raise ConfigError(
            f"{resamples} resamples give no interval; 1,000 are usual, 0 means no intervals"
        )
    if interval not in INTERVAL_KINDS:
        raise ConfigError(f"interval {interval!r} is not one of {', '.join(INTERVAL_KINDS)}")
    if zero_rule not in ZERO_RULES:
        raise ConfigError(f"zero rule {zero_rule!r} is not one of {', '.join(ZERO_RULES)}")


def _with_columns(truth: Truth, columns: Mapping[str, npt.ArrayLike]) -> Truth:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, values in arrays.items():
        if len(values) != len(truth):
            raise ConfigError(
                f"slice column {name!r} has {len(values):,} values for {len(truth):,} faces"
            )
    return replace(truth, extra={**truth.extra, **arrays})


def baselines(
    truth: Truth, zero_rule: ZeroRule, classes: Sequence[str], test_part_of: str = ""
) -> dict[str, Any]:
    """The baselines on these faces, each with the layout of a score.

    For the test part of a known dataset also its published metrics, and how often two annotators of
    AffectNet agree.

    `majority class`: every face gets the class fractions of the truth as its probabilities, and so
    the most frequent class as its label. `constant mean`: every face gets the mean valence and
    arousal of the truth, the best constant by RMSE. Both use the truth that they are scored on, so
    they are as good as a constant can be. `expression` is of `classes`.
    """
    n = len(truth)
    labels = truth.expression[truth.expression >= 0]
    fractions = np.bincount(labels, minlength=N_EXPRESSIONS) / max(len(labels), 1)
    means = {
        name: float(np.nanmean(values))
        for name, values in (("valence", truth.valence), ("arousal", truth.arousal))
        if not np.isnan(values).all()
    }
    guess = Predictions(
        ids=truth.ids,
        expression=np.full(n, -1, dtype=np.int64),
        valence=np.full(n, means.get("valence", np.nan)),
        arousal=np.full(n, means.get("arousal", np.nan)),
        probabilities=np.tile(fractions, (n, 1)) if len(labels) else None,
    )
    found: dict[str, Any] = {}
    if len(labels):
        found["majority class"] = _score(truth, expression_groups(truth, guess, classes))
        found["majority class"]["says"] = EXPRESSIONS[int(fractions.argmax())]
    if means:
        groups = [affect_group(truth, guess, name, zero_rule) for name in means]
        found["constant mean"] = _score(truth, groups) | {"says": means}
    if test_part_of == "AffectNet":
        found["two AffectNet annotators"] = {
            "expression": {"accuracy": {"value": ANNOTATOR_AGREEMENT, "low": None, "high": None}},
            "source": ANNOTATOR_SOURCE,
        }
    if rows := [row for row in published() if row["data"] == test_part_of]:
        found["published"] = rows
    return found


def published() -> list[dict[str, Any]]:
    """Published metrics on the test parts of AffectNet, FER+ and RAF-DB.

    `figure` is the metric. `checked` states whether it was read at its source or is quoted second
    hand, `epoch` on what the epoch was chosen (`test set` or unknown), `note` a condition, and
    `reproduced` whether it was reproduced with this package.
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


def _score(truth: Truth, groups: Sequence[MetricGroup]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    plain = BootstrapSettings(resamples=0, seed=0, interval="percentile", stratified=False)
    for group, entries in scored(groups, plain, truth.expression):
        overall = {k: v for k, v in entries.items() if not k.startswith("per_class/")}
        nested(group.key, overall, out)
    return out
