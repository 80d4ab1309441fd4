"""What a model card tells of one evaluated split: figures of metrics.json, as tables and words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import EvaluatedRun, figure_of, reason_of
from affectnet.report.tables import CATEGORICAL, CONTINUOUS, Keys, baselines_of

HUB_NAMES: Final = {
    "f1_macro": "f1",
    "auc_roc_macro": "roc_auc",
    "auc_pr_macro": "average_precision",
    "corr": "pearsonr",
}
"""Our figures under the names of the hub's metrics, where they differ."""

CLASS_COLUMNS: Final = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc_roc": "AUC",
    "auc_pr": "AUC-PR",
}
SLICE_COLUMNS: Final[dict[Keys, str]] = {
    ("expression", "accuracy"): "Accuracy",
    ("expression", "f1_macro"): "F1 (macro)",
    ("valence", "rmse"): "Valence RMSE",
    ("valence", "ccc"): "Valence CCC",
    ("arousal", "rmse"): "Arousal RMSE",
    ("arousal", "ccc"): "Arousal CCC",
}
FURTHER: Final[dict[Keys, str]] = {("expression", "ece"): "Calibration error (ECE)"}
COMMONEST: Final = 3


@dataclass(frozen=True)
class CardTable:
    """A table of texts."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Result:
    """One split's part of the card."""

    split: str
    n: int
    findings: list[str]
    tables: list[CardTable]
    undefined: list[tuple[str, str]]
    notes: list[str]
    protocol: str
    slices: list[str] = field(default_factory=list)


def result_of(run: EvaluatedRun) -> Result:
    """Tell what the scores of a run on its split say."""
    metrics = run.metrics
    tables = [
        _against_baselines("Expression", metrics, CATEGORICAL | FURTHER),
        _against_baselines("Valence and arousal", metrics, _named_by_dimension()),
        _classes(metrics),
        *_slices(metrics),
    ]
    wanted = CATEGORICAL | FURTHER | _named_by_dimension() | _named_by_class(metrics)
    return Result(
        split=run.split,
        n=int(metrics.get("n") or len(run.predictions)),
        findings=_findings(metrics),
        tables=[table for table in tables if table.rows],
        undefined=_undefined(metrics, wanted),
        notes=[str(note) for note in _protocol(metrics).get("notes") or ()],
        protocol=_protocol_words(metrics),
        slices=list(_slice_blocks(metrics)),
    )


def measured_values(metrics: dict[str, Any]) -> Iterator[tuple[Keys, str, str, float]]:
    """Each defined figure: keys in metrics.json, the hub's name for it, a label, the value."""
    for keys, label in (CATEGORICAL | FURTHER | _named_by_dimension()).items():
        value = figure_of(metrics, *keys)[0]
        if value is not None:
            yield keys, HUB_NAMES.get(keys[-1], keys[-1]), label, value


def _named_by_dimension() -> dict[Keys, str]:
    return {keys: f"{keys[0].capitalize()} {label}" for keys, label in CONTINUOUS.items()}


def _named_by_class(metrics: dict[str, Any]) -> dict[Keys, str]:
    block = metrics.get("expression") or {}
    return {
        ("expression", "per_class", name, figure): f"{label} of {name}"
        for name in block.get("per_class") or {}
        for figure, label in CLASS_COLUMNS.items()
    }


def _against_baselines(title: str, metrics: dict[str, Any], wanted: dict[Keys, str]) -> CardTable:
    rows = [(keys, label) for keys, label in wanted.items() if _value(metrics, keys) is not None]
    others = [
        (name, block)
        for name, block in baselines_of(metrics)
        if any(_value(block, keys) is not None for keys, _ in rows)
    ]
    return CardTable(
        title,
        ["Metric", "Value", f"{_level(metrics)} interval", *(name for name, _ in others)],
        [
            [
                label,
                _three(_value(metrics, keys)),
                _interval(metrics, keys),
                *(_three(_value(block, keys)) for _, block in others),
            ]
            for keys, label in rows
        ],
    )


def _classes(metrics: dict[str, Any]) -> CardTable:
    rows = []
    for name in EXPRESSIONS:
        known = {f: ("expression", "per_class", name, f) for f in CLASS_COLUMNS}
        if all(_value(metrics, keys) is None for keys in known.values()):
            continue
        n = figure_of(metrics, "expression", "per_class", name, "n")[0]
        values = [_three(_value(metrics, keys)) for keys in known.values()]
        rows.append([name, "" if n is None else f"{int(n):,}", *values])
    return CardTable("By expression", ["Expression", "Faces", *CLASS_COLUMNS.values()], rows)


def _slice_blocks(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    known = metrics.get("slices")
    return known if isinstance(known, dict) else {}


def _slices(metrics: dict[str, Any]) -> Iterator[CardTable]:
    for column, found in _slice_blocks(metrics).items():
        blocks = found["slices"]
        figures = {
            keys: label
            for keys, label in SLICE_COLUMNS.items()
            if any(_value(block, keys) is not None for block in blocks)
        }
        rows = [
            [
                str(block["slice"]),
                f"{block['n']:,}",
                *(_with_interval(block, keys) for keys in figures),
            ]
            for block in blocks
        ]
        yield CardTable(f"By {column}", [column, "Faces", *figures.values()], rows)


def _findings(metrics: dict[str, Any]) -> list[str]:
    said = []
    scores = {
        name: value
        for name in EXPRESSIONS
        if (value := _value(metrics, ("expression", "per_class", name, "f1"))) is not None
    }
    if len(scores) > 1:
        ends = []
        for word, end in (
            ("Best expression", max(scores.values())),
            ("worst", min(scores.values())),
        ):
            names = [name for name, value in scores.items() if value == end]
            ends.append(f"{word}: {', '.join(names)} (F1 {end:.3f})")
        said.append("; ".join(ends) + ".")
    mistakes = _mistakes(metrics)
    if mistakes:
        said.append(f"Most frequent errors: {', '.join(mistakes)}.")
    for column, found in _slice_blocks(metrics).items():
        worst_slice = found.get("worst")
        if worst_slice:
            said.append(
                f"By {column}, the worst slice is {worst_slice['slice']}: {worst_slice['by']} "
                f"{worst_slice['value']:.3f} over {worst_slice['n']:,} faces."
            )
    return said


def _mistakes(metrics: dict[str, Any]) -> list[str]:
    """The largest wrong cells of the confusion matrix, in words."""
    block = metrics.get("expression") or {}
    matrix, classes = block.get("confusion"), block.get("classes")
    if not matrix or not classes:
        return []
    cells = [
        (count, f"{classes[i]} predicted as {classes[j]} ({count:,} of {sum(row):,})")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return [text for _, text in sorted(cells, key=lambda cell: -cell[0])[:COMMONEST]]


def _undefined(metrics: dict[str, Any], wanted: dict[Keys, str]) -> list[tuple[str, str]]:
    return [
        (label, reason_of(metrics, *keys) or "not scored")
        for keys, label in wanted.items()
        if _value(metrics, keys) is None
    ]


def _protocol(metrics: dict[str, Any]) -> dict[str, Any]:
    known = metrics.get("protocol")
    return known if isinstance(known, dict) else {}


def _protocol_words(metrics: dict[str, Any]) -> str:
    known = _protocol(metrics)
    said = []
    if known.get("resamples"):
        said.append(
            f"Intervals: {_level(metrics)}, {known.get('interval')} bootstrap over faces, "
            f"{known['resamples']:,} resamples, seed {known.get('seed')}."
        )
    if known.get("zero_rule"):
        said.append(f"SAGR at zero: rule '{known['zero_rule']}'.")
    versions = known.get("versions")
    if isinstance(versions, dict):
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        said.append(f"Scored with {listed}.")
    return " ".join(said)


def _level(metrics: dict[str, Any]) -> str:
    level = _protocol(metrics).get("level")
    return f"{100 * level:g}%" if isinstance(level, float) else "95%"


def _value(metrics: dict[str, Any], keys: Sequence[str]) -> float | None:
    return figure_of(metrics, *keys)[0]


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(metrics: dict[str, Any], keys: Sequence[str]) -> str:
    _, low, high = figure_of(metrics, *keys)
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _with_interval(metrics: dict[str, Any], keys: Sequence[str]) -> str:
    interval = _interval(metrics, keys)
    return _three(_value(metrics, keys)) + (f" ({interval})" if interval else "")
