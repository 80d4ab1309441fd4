"""The one table of all reports, and the tables of scores: runs against baselines."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from affectnet.evaluation.slices import FEW, classes_with_few_faces
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import EvaluatedRun, baselines_of, mapping_of, metric_of, reason_of
from affectnet.seven import lacks_contempt

Keys = tuple[str, ...]

CATEGORICAL: Final[dict[Keys, str]] = {
    ("expression", "accuracy"): "Accuracy",
    ("expression", "f1_macro"): "F1 (macro)",
    ("expression", "cohen_kappa"): "Cohen's κ",
    ("expression", "krippendorff_alpha"): "Krippendorff's α",
    ("expression", "auc_roc_macro"): "AUC",
    ("expression", "auc_pr_macro"): "AUC-PR",
}
CONTINUOUS: Final[dict[Keys, str]] = {
    (dimension, metric): label
    for dimension in ("valence", "arousal")
    for metric, label in (("rmse", "RMSE"), ("corr", "CORR"), ("sagr", "SAGR"), ("ccc", "CCC"))
}
NAMED_CONTINUOUS: Final[dict[Keys, str]] = {
    keys: f"{keys[0].capitalize()} {label}" for keys, label in CONTINUOUS.items()
}
LOWER_IS_BETTER: Final = {"rmse"}
DASH: Final = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the value as shown.
        value: the number behind the text, by which tables are sorted; None where there is none.
        interval: its interval or spread.
        note: why there is no value, or no interval.
        best: whether it is the best value of its column.
    """

    text: str
    value: float | None = None
    interval: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table; `note` stands under its name."""

    name: str
    cells: tuple[Cell, ...]
    note: str = ""
    kind: Literal["", "baseline", "differs"] = ""


@dataclass(frozen=True)
class Table:
    """Named rows under columns.

    Attributes:
        head: heading of the column of row names.
        columns: headings of the other columns.
        lower: indices of the columns in which a lower value is better.
    """

    title: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lower: frozenset[int] = frozenset()

    def select(self, title: str, first: int, last: int) -> "Table":
        """Columns `first` to `last` (exclusive), without baselines that are empty in them."""
        every = (replace(row, cells=row.cells[first:last]) for row in self.rows)
        rows = tuple(
            row
            for row in every
            if row.kind != "baseline" or any(cell.value is not None for cell in row.cells)
        )
        lower = frozenset(i - first for i in self.lower if first <= i < last)
        return Table(title, self.head, self.columns[first:last], rows, lower)

    def lines(self) -> list[list[tuple[str, str]]]:
        """The header and the rows as pairs of texts: a value and what stands next to it."""
        notes = ("less is better" if i in self.lower else "" for i in range(len(self.columns)))
        lines = [[(self.head, ""), *zip(self.columns, notes, strict=True)]]
        for row in self.rows:
            cells = ((cell.text + " ★" * cell.best, cell.interval) for cell in row.cells)
            lines.append([(row.name, row.note), *cells])
        return lines


def text_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of texts; the first column holds the names of the rows."""
    return Table(
        title,
        columns[0],
        tuple(columns[1:]),
        tuple(Row(str(name), tuple(Cell(str(text)) for text in rest)) for name, *rest in rows),
    )


def number(value: float, digits: int = 3) -> str:
    """A number with thousands separators and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "−")


def score_cell(metrics: dict[str, Any], keys: Keys) -> Cell:
    """The metric at `keys` to three digits with its interval, or a dash and why it is missing."""
    value, low, high = metric_of(metrics, *keys)
    reason = reason_of(metrics, *keys)
    if value is None:
        return Cell(DASH, note=reason or "not scored")
    interval = "" if low is None or high is None else f"{number(low)} to {number(high)}"
    return Cell(number(value), value, interval, reason)


def mark_best(rows: Sequence[Row], lower: frozenset[int]) -> list[Row]:
    """Mark the best cell of each column; ties to three digits are all best, unless all tie."""
    if len(rows) < 2:
        return list(rows)
    marked = [list(row.cells) for row in rows]
    for i in range(len(marked[0])):
        known = [row[i].value for row in marked if row[i].value is not None]
        if not known:
            continue
        pick: Callable[..., float] = min if i in lower else max
        best = number(pick(known))
        if not all(row[i].text == best for row in marked):
            for row in marked:
                row[i] = replace(row[i], best=row[i].text == best)
    return [replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True)]


def lower_columns(columns: Iterable[Keys]) -> frozenset[int]:
    """Indices of the metrics of which a lower value is better."""
    return frozenset(i for i, keys in enumerate(columns) if keys[-1] in LOWER_IS_BETTER)


def categorical_table(runs: Sequence[EvaluatedRun]) -> Table:
    """Accuracy, F1, kappa, alpha, AUC and AUC-PR of every run, then of the baselines."""
    return _score_table("Expression", runs, CATEGORICAL)


def continuous_table(runs: Sequence[EvaluatedRun]) -> Table:
    """RMSE, CORR, SAGR and CCC of valence, then of arousal, of every run, then the baselines."""
    return _score_table("Valence and arousal", runs, CONTINUOUS)


def per_class_table(runs: Sequence[EvaluatedRun]) -> Table:
    """F1 of each expression (columns) for every run (rows)."""
    few = {
        name
        for run in runs
        for name in classes_with_few_faces(mapping_of(run.metrics, "expression"))
    }
    keys: dict[Keys, str] = {
        ("expression", "per_class", name, "f1"): name + " *" * (name in few)
        for name in EXPRESSIONS
        if any(name in run.classes for run in runs)
    }
    title = "F1 of each expression" + f" ({FEW})" * bool(few)
    return _score_table(title, runs, keys, baselines=False)


def published_table(runs: Sequence[EvaluatedRun]) -> Table:
    """The published scores listed in metrics.json; without rows where there are none."""
    columns = ("Model", "Classes", "Metric", "Value", "Source", "Condition")
    lists = (mapping_of(run.metrics, "baselines").get("published") for run in runs)
    known = next((listed for listed in lists if isinstance(listed, list)), [])
    rows = []
    for one in known:
        if isinstance(one, dict) and "model" in one:
            texts = [one.get(key) or "" for key in ("model", "classes", "figure", "value")]
            checked = f" ({one['checked']})" if one.get("checked") else ""
            chosen = "epoch chosen on the test set" if one.get("epoch") == "test set" else ""
            condition = "; ".join(filter(None, (chosen, str(one.get("note") or ""))))
            rows.append([*texts, f"{one.get('source') or ''}{checked}", condition])
    data = next((one["data"] for one in known if isinstance(one, dict) and "data" in one), "")
    return text_table(f"Published scores on {data}'s test part", columns, rows)


def _score_table(
    title: str, runs: Sequence[EvaluatedRun], columns: Mapping[Keys, str], baselines: bool = True
) -> Table:
    rows = [
        Row(
            run.name,
            tuple(score_cell(run.metrics, keys) for keys in columns),
            "seven classes, without contempt" if lacks_contempt(run.classes) else "",
        )
        for run in runs
    ]
    lower = lower_columns(columns)
    if len({run.classes for run in runs}) == 1:  # seven classes are easier than eight
        rows = mark_best(rows, lower)
    rows += _rows_without_duplicates(runs, columns)
    if baselines:
        rows += _baseline_rows(runs, columns)
    return Table(title, "run", tuple(columns.values()), tuple(rows), lower)


def _rows_without_duplicates(
    runs: Sequence[EvaluatedRun], columns: Mapping[Keys, str]
) -> list[Row]:
    """The scores of each run on the faces without a duplicate in an earlier split, if known."""
    rows = []
    for run in runs:
        slices = mapping_of(mapping_of(run.metrics, "slices"), "duplicates").get("slices") or []
        for block in slices:
            cells = tuple(score_cell(block, keys) for keys in columns)
            if str(block["slice"]).startswith("not in") and any(c.value is not None for c in cells):
                cells = tuple(Cell(DASH) if c.value is None else c for c in cells)
                note = f"the {block['n']:,} faces {block['slice']}"
                rows.append(Row(f"{run.name} without duplicates", cells, note, "baseline"))
    return rows


def _baseline_rows(runs: Sequence[EvaluatedRun], columns: Mapping[Keys, str]) -> list[Row]:
    """The baselines that have any of these metrics; equal ones of several runs once."""
    rows: list[Row] = []
    for run in runs:
        for name, block in baselines_of(run.metrics):
            cells = tuple(score_cell(block, keys) for keys in columns)
            if all(cell.value is None for cell in cells):
                continue
            # Compared by value: intervals of equal baselines may differ through the resampling.
            if [cell.text for cell in cells] in [[c.text for c in r.cells] for r in rows]:
                continue
            if any(other.name == name for other in rows):
                name = f"{name} (faces of {run.name})"
            rows.append(Row(name, cells, _baseline_note(block), "baseline"))
    return rows


def _baseline_note(block: dict[str, Any]) -> str:
    """What a baseline always predicts, or the source of its scores."""
    says = block.get("says")
    if isinstance(says, dict):
        return ", ".join(f"{name} {value:.2f}" for name, value in says.items())
    return f"always {says}" if says else str(block.get("source") or "")


def md_text(text: object) -> str:
    """Escape text so that Markdown and HTML show it unchanged."""
    return re.sub(r"([\\`*\[\]<>#|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))


def md_table(table: Table, notes: bool = True) -> str:
    """The table in Markdown, numbers flush right.

    `notes` adds the notes of rows and columns and the mark of the best value.
    """
    if notes:
        lines = [[f"{a} ({b})" if b else a for a, b in line] for line in table.lines()]
    else:
        lines = [[table.head, *table.columns]]
        lines += [
            [row.name, *(f"{cell.text} {cell.interval}".strip() for cell in row.cells)]
            for row in table.rows
        ]
    header, *body = [f"| {' | '.join(map(md_text, line))} |" for line in lines]
    rule = f"| {' | '.join(['---', *['---:'] * len(table.columns)])} |"
    return "\n".join((header, rule, *body))
