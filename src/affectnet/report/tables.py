"""The tables of a report as plain rows: all runs against the baselines, the best value marked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import EvaluatedRun, figure_of, reason_of
from affectnet.seven import lacks_contempt

Keys = tuple[str, ...]

CATEGORICAL: dict[Keys, str] = {
    ("expression", "accuracy"): "Accuracy",
    ("expression", "f1_macro"): "F1 (macro)",
    ("expression", "cohen_kappa"): "Cohen's κ",
    ("expression", "krippendorff_alpha"): "Krippendorff's α",
    ("expression", "auc_roc_macro"): "AUC",
    ("expression", "auc_pr_macro"): "AUC-PR",
}
CONTINUOUS: dict[Keys, str] = {
    (dimension, figure): label
    for dimension in ("valence", "arousal")
    for figure, label in (("rmse", "RMSE"), ("corr", "CORR"), ("sagr", "SAGR"), ("ccc", "CCC"))
}
LOWER_IS_BETTER = {"rmse"}


@dataclass(frozen=True)
class Cell:
    """One score of a table; `reason` says why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """The score to three places, or a dash."""
        return "–" if self.value is None else _cell_text(self.value)

    @property
    def interval(self) -> str:
        """The 95% interval, empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.3f} to {self.high:.3f}".replace("-", "−")


@dataclass(frozen=True)
class Row:
    """One run or baseline of a table."""

    name: str
    cells: tuple[Cell, ...]
    baseline: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under column names; `lower` are the columns in which less is better."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lower: frozenset[int] = frozenset()


def _cell_text(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def categorical_table(runs: Sequence[EvaluatedRun]) -> Table:
    """Accuracy, F1, kappa, alpha, AUC and AUC-PR of every run, then the baselines."""
    return _table(runs, CATEGORICAL)


def continuous_table(runs: Sequence[EvaluatedRun]) -> Table:
    """RMSE, CORR, SAGR and CCC of valence, then of arousal, of every run, then the baselines."""
    return _table(runs, CONTINUOUS)


def per_class_table(runs: Sequence[EvaluatedRun], figure: str = "f1") -> Table:
    """One figure of each expression (columns) for every run (rows)."""
    keys: dict[Keys, str] = {
        ("expression", "per_class", name, figure): name
        for name in EXPRESSIONS
        if any(name in run.classes for run in runs)
    }
    return _table(runs, keys, baselines=False)


def _table(runs: Sequence[EvaluatedRun], columns: dict[Keys, str], baselines: bool = True) -> Table:
    rows = [
        Row(
            run.name,
            tuple(_cell(run.metrics, keys) for keys in columns),
            note="seven classes, without contempt" if lacks_contempt(run.classes) else "",
        )
        for run in runs
    ]
    lower = frozenset(i for i, keys in enumerate(columns) if keys[-1] in LOWER_IS_BETTER)
    if len({run.classes for run in runs}) == 1:  # seven classes are easier than eight
        rows = _mark_best(rows, lower)
    if baselines:
        rows += _baseline_rows(runs, columns)
    return Table(tuple(columns.values()), tuple(rows), lower)


def _cell(metrics: dict[str, Any], keys: Keys) -> Cell:
    value, low, high = figure_of(metrics, *keys)
    reason = reason_of(metrics, *keys) or ("not scored" if value is None else "")
    return Cell(value, low, high, reason)


def _mark_best(rows: list[Row], lower: frozenset[int]) -> list[Row]:
    """Mark the best cell of each column; ties to three places are all best, unless all tie."""
    if len(rows) < 2:
        return rows
    marked = [list(row.cells) for row in rows]
    for i in range(len(marked[0])):
        values = [row[i].value for row in marked]
        known = [value for value in values if value is not None]
        if not known:
            continue
        pick: Callable[[list[float]], float] = min if i in lower else max
        best = _cell_text(pick(known))
        if all(row[i].text == best for row in marked):
            continue
        for row in marked:
            row[i] = replace(row[i], best=row[i].text == best)
    return [replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True)]


def _baseline_rows(runs: Sequence[EvaluatedRun], columns: dict[Keys, str]) -> list[Row]:
    """The baselines that have any of these figures; equal ones of several runs once."""
    rows: list[Row] = []
    for run in runs:
        for name, block in baselines_of(run.metrics):
            cells = tuple(_cell(block, keys) for keys in columns)
            if all(cell.value is None for cell in cells):
                continue
            row = Row(name, cells, baseline=True, note=_note(block))
            # Their intervals may differ by the chance of the resampling: the values tell.
            if [cell.text for cell in cells] not in [[c.text for c in r.cells] for r in rows]:
                if any(other.name == name for other in rows):
                    row = replace(row, name=f"{name} (faces of {run.name})")
                rows.append(row)
    return rows


def _note(block: dict[str, Any]) -> str:
    """What a baseline answers, or where its figures are from."""
    says = block.get("says")
    if isinstance(says, dict):
        return ", ".join(f"{name} {value:.2f}" for name, value in says.items())
    return f"always {says}" if says else str(block.get("source") or "")


def published_figures(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """The published figures that the scores carry: model, classes, figure, value, source."""
    for run in runs:
        known = run.metrics.get("baselines")
        listed = known.get("published") if isinstance(known, dict) else None
        if isinstance(listed, list):
            return [one for one in listed if isinstance(one, dict) and "model" in one]
    return []


def baselines_of(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and scores of each baseline in metrics.json, the scores laid out as the run's own."""
    known = metrics.get("baselines")
    if not isinstance(known, dict):
        return
    for name, block in known.items():
        if isinstance(block, dict):
            yield name, block
