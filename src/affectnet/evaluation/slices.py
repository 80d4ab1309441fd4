"""Scores for each value of a column, and the worst slice."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from affectnet.errors import ConfigError, suggest
from affectnet.evaluation.bootstrap import BootstrapSettings, nested, scored
from affectnet.evaluation.metric_vectors import affect_group, expression_group
from affectnet.evaluation.metrics import Bools, ZeroRule
from affectnet.evaluation.predictions import Predictions, Truth

MOST_VALUES: Final = 12
"""A column of numbers with more distinct values than this is split into quarters."""
FEWEST_FACES: Final = 30
"""The worst slice is chosen from slices of this many faces, and classes with fewer are marked."""
FEW: Final = f"* fewer than {FEWEST_FACES} faces"
"""The mark of classes whose metrics are uncertain, as headings explain it."""
SLICE_METRICS: Final = {
    "expression": ("accuracy", "f1_macro"),
    "valence": ("rmse", "ccc"),
    "arousal": ("rmse", "ccc"),
}


def score_slices(
    truth: Truth,
    preds: Predictions,
    columns: Sequence[str],
    settings: BootstrapSettings,
    zero_rule: ZeroRule,
) -> dict[str, Any]:
    """Score each value of each column: {column: {"slices": [...], "worst": {...}}}.

    A slice holds its name, its number of faces, and the metrics of `SLICE_METRICS` with their
    intervals. The worst is the one of lowest accuracy, or, without expression, of lowest mean CCC,
    among slices of at least 30 faces (of any size where no slice is that large).

    Raises:
        ConfigError: no such column, or a column of text with a different value for every face.
    """
    return {name: _score_column(truth, preds, name, settings, zero_rule) for name in columns}


def slice_masks(name: str, values: npt.NDArray[Any]) -> dict[str, Bools]:
    """The faces of each slice of a column, by the slice's name.

    Text, booleans and up to 12 distinct numbers: one slice per value. More numbers: quarters of
    almost equal size. Missing values are a slice of their own.

    Raises:
        ConfigError: text that differs for every face.
    """
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        distinct = np.unique(numbers[~missing])
        if len(distinct) > MOST_VALUES:
            edges = np.unique(np.quantile(numbers[~missing], [0, 0.25, 0.5, 0.75, 1]))
            bins = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
            masks = {
                f"{low:.4g} to {high:.4g}": (bins == b) & ~missing
                for b, (low, high) in enumerate(pairwise(edges))
            }
        else:
            masks = {f"{value:g}": numbers == value for value in distinct}
    else:
        words = np.array(["" if _is_missing(value) else str(value) for value in values], object)
        missing = words == ""
        names = sorted(set(words[~missing]))
        if len(names) > max(MOST_VALUES, len(words) // 2):
            raise ConfigError(
                f"--slices {name}: {len(names):,} different values for {len(words):,} faces are "
                "too many for slices; choose a column that groups faces"
            )
        masks = {word: words == word for word in names}
    return masks | ({"(missing)": missing} if missing.any() else {})


def classes_with_few_faces(expression: Mapping[str, Any]) -> list[str]:
    """The classes of the block `expression` of metrics.json with 1 to `FEWEST_FACES` - 1 faces."""
    per_class = expression.get("per_class") or {}
    return [name for name, one in per_class.items() if 0 < (one.get("n") or 0) < FEWEST_FACES]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _score_column(
    truth: Truth, preds: Predictions, name: str, settings: BootstrapSettings, zero_rule: ZeroRule
) -> dict[str, Any]:
    known = {**preds.extra, **truth.extra}
    if name not in known:
        raise ConfigError(
            f"--slices: there is no column {name!r}{suggest(name, known)}; "
            f"further columns are {', '.join(known) or 'none'}"
        )
    slices = []
    for value, mask in slice_masks(name, np.asarray(known[name])).items():
        faces = np.flatnonzero(mask)
        some, some_preds = truth.rows(faces), preds.rows(faces)
        block: dict[str, Any] = {"slice": value, "n": len(faces)}
        groups = [
            expression_group(some, some_preds, with_skew=False, labels_only=True),
            affect_group(some, some_preds, "valence", zero_rule),
            affect_group(some, some_preds, "arousal", zero_rule),
        ]
        for group, entries in scored(groups, settings, some.expression):
            wanted = SLICE_METRICS[group.key]
            nested(group.key, {k: v for k, v in entries.items() if k in wanted}, block)
        slices.append(block)
    return {"slices": slices, "worst": _worst(slices)}


def _worst(slices: list[dict[str, Any]]) -> dict[str, Any] | None:
    large = [block for block in slices if block["n"] >= FEWEST_FACES] or slices
    for by, merit in (("accuracy", _accuracy), ("mean CCC", _mean_ccc)):
        known = [(merit(block), block) for block in large if merit(block) is not None]
        if known:
            value, block = min(known, key=lambda pair: pair[0])
            return {"slice": block["slice"], "n": block["n"], "by": by, "value": value}
    return None


def _accuracy(block: dict[str, Any]) -> Any:
    return block["expression"]["accuracy"]["value"]


def _mean_ccc(block: dict[str, Any]) -> Any:
    both = [block[name]["ccc"]["value"] for name in ("valence", "arousal")]
    known = [value for value in both if value is not None]
    return sum(known) / len(known) if known else None
