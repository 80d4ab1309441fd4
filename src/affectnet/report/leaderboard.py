"""The leaderboard of a benchmark: two tables of scores with mean and spread, and what it costs.

The spread is that over the seeds; of one seed alone, the 95% interval of its own evaluation.
"""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from affectnet.report.markdown import md_table, md_text
from affectnet.report.page import asset, html_template
from affectnet.report.runs import figure_of
from affectnet.report.tables import CATEGORICAL, CONTINUOUS, LOWER_IS_BETTER, Keys
from affectnet.run import write_beside
from affectnet.version import __version__

SCORES: dict[Keys, str] = CATEGORICAL | {
    keys: f"{keys[0].capitalize()} {label}" for keys, label in CONTINUOUS.items()
}
COSTS: dict[str, str] = {
    "parameters": "Parameters (M)",
    "multiply_adds": "GFLOPs",
    "images_per_second": "Images/s",
    "peak_memory": "Peak memory (GB)",
}
_UNITS = {"parameters": 1e6, "multiply_adds": 1e9, "images_per_second": 1.0, "peak_memory": 1e9}
NOTE = (
    "Mean over the seeds ± standard deviation (n - 1); of a single seed, its figure with the 95% "
    "bootstrap interval over the faces in brackets. GFLOPs are billions of multiply-adds of one "
    "face, forward. Images a second: prediction in 32 bits on faces in memory. Peak memory: of "
    "training, on a GPU what PyTorch allocated there, otherwise the whole process."
)


@dataclass(frozen=True)
class Entry:
    """One backbone of the leaderboard.

    Attributes:
        name: the backbone.
        metrics: metrics.json of each seed that is scored.
        costs: `COSTS` in units of one (bytes, operations), those that are known.
        failed: seed -> why there is no score.
        waiting: seeds that have not been tried yet.
    """

    name: str
    metrics: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    waiting: Sequence[int] = ()


@dataclass(frozen=True)
class MeanCell:
    """Mean of a figure over the seeds, and its standard deviation where there are several.

    Of one seed, `low` and `high` bound its 95% interval, where that was computed.
    """

    value: float | None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    best: bool = False
    digits: int = 3

    @property
    def text(self) -> str:
        """The mean, or a dash."""
        if self.value is None:
            return "–"
        return f"{self.value:,.{self.digits}f}".replace("-", "−")

    @property
    def interval(self) -> str:
        """The spread with its sign, or the interval of one seed; empty where there is neither."""
        if self.spread is not None:
            return f"± {self.spread:.{self.digits}f}"
        if self.low is None or self.high is None:
            return ""
        return f"[{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]".replace("-", "−")


@dataclass(frozen=True)
class MeanRow:
    """One backbone of a table."""

    name: str
    cells: tuple[MeanCell, ...]
    note: str = ""
    baseline: bool = False


@dataclass(frozen=True)
class MeanTable:
    """Rows under column names; `lower` are the columns in which less is better."""

    columns: tuple[str, ...]
    rows: tuple[MeanRow, ...]
    lower: frozenset[int] = frozenset()


def score_table(entries: Sequence[Entry], columns: Mapping[Keys, str]) -> MeanTable:
    """Mean and spread of these figures for each entry that has any score."""
    rows = []
    for entry in entries:
        if entry.metrics:
            cells = tuple(_mean(entry, keys) for keys in columns)
            rows.append(MeanRow(entry.name, cells, _seeds_note(entry)))
    lower = frozenset(i for i, keys in enumerate(columns) if keys[-1] in LOWER_IS_BETTER)
    return MeanTable(tuple(columns.values()), tuple(_mark_best(rows, lower)), lower)


def cost_table(entries: Sequence[Entry]) -> MeanTable:
    """Parameters, GFLOPs, images a second and peak memory of each entry that has any."""
    rows = []
    for entry in entries:
        if entry.costs:
            cells = []
            for name in COSTS:
                value = entry.costs.get(name)
                shown = None if value is None else value / _UNITS[name]
                digits = 1 if shown is not None and shown >= 100 else 2
                cells.append(MeanCell(shown, digits=digits))
            rows.append(MeanRow(entry.name, tuple(cells)))
    # Only images a second gain by being more.
    return MeanTable(tuple(COSTS.values()), tuple(rows), frozenset({0, 1, 3}))


def write_leaderboard(
    folder: Path, entries: Sequence[Entry], title: str, settings: Mapping[str, object]
) -> None:
    """Write leaderboard.csv, .md and .html into `folder`, each in place of the one before."""
    for name, text in (
        ("leaderboard.csv", leaderboard_csv(entries)),
        ("leaderboard.md", leaderboard_md(entries, title, settings)),
        ("leaderboard.html", leaderboard_html(entries, title, settings)),
    ):
        with write_beside(folder / name) as new:
            new.write_text(text, encoding="utf-8", newline="")


def leaderboard_csv(entries: Sequence[Entry]) -> str:
    """A row a backbone: costs, what failed, and each figure as `expression_accuracy_mean`, with
    `_std` over several seeds or `_low` and `_high` of one."""
    text = io.StringIO()
    names = ["_".join(keys) for keys in SCORES]
    header = ["backbone", "seeds"]
    header += [f"{name}_{kind}" for name in names for kind in ("mean", "std", "low", "high")]
    header += ["parameters", "multiply_adds", "images_per_second", "peak_memory_bytes"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "failed", "waiting"])
    for entry in entries:
        row: list[object] = [entry.name, " ".join(map(str, entry.metrics))]
        for keys in SCORES:
            cell = _mean(entry, keys)
            row += map(_number, (cell.value, cell.spread, cell.low, cell.high))
        row += [_number(entry.costs.get(name)) for name in COSTS]
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in entry.failed.items())
        writer.writerow([*row, failed, " ".join(map(str, entry.waiting))])
    return text.getvalue()


def leaderboard_md(entries: Sequence[Entry], title: str, settings: Mapping[str, object]) -> str:
    """The tables in Markdown."""
    parts = [f"# {md_text(title)}", NOTE]
    for heading, table in _tables(entries):
        parts.append(f"## {heading}")
        if not table.rows:
            parts.append("No model is scored yet.")
            continue
        rows = [[row.name, *map(_md_cell, row.cells)] for row in table.rows]
        parts.append(md_table(("backbone", *table.columns), rows))
    for heading, lines in (("Failed", _failed(entries)), ("Not tried yet", _waiting(entries))):
        if lines:
            parts += [f"## {heading}", "\n".join(f"- {md_text(line)}" for line in lines)]
    parts += ["## Settings", md_table(("setting", "value"), _settings(settings))]
    return "\n\n".join(parts) + "\n"


def leaderboard_html(entries: Sequence[Entry], title: str, settings: Mapping[str, object]) -> str:
    """The tables as one page that opens offline, in light and dark."""
    return html_template("leaderboard.html.j2").render(
        title=title,
        made=date.today().isoformat(),
        version=__version__,
        scored=sum(bool(entry.metrics) for entry in entries),
        models=len(entries),
        expression=score_table(entries, CATEGORICAL),
        affect=score_table(entries, CONTINUOUS),
        costs=cost_table(entries),
        failed=_failed(entries),
        waiting=_waiting(entries),
        settings=_settings(settings),
        note=NOTE,
        style=asset("page.css"),
        scripts=[asset("theme.js"), asset("tables.js")],
    )


def _tables(entries: Sequence[Entry]) -> list[tuple[str, MeanTable]]:
    return [
        ("Expression", score_table(entries, CATEGORICAL)),
        ("Valence", score_table(entries, _dimension("valence"))),
        ("Arousal", score_table(entries, _dimension("arousal"))),
        ("Cost", cost_table(entries)),
    ]


def _dimension(name: str) -> dict[Keys, str]:
    return {keys: label for keys, label in CONTINUOUS.items() if keys[0] == name}


def _mean(entry: Entry, keys: Keys) -> MeanCell:
    found = [figure_of(metrics, *keys) for metrics in entry.metrics.values()]
    known = [value for value, _, _ in found if value is not None]
    if not known:
        return MeanCell(None, reason="not scored")
    if len(found) == 1:
        value, low, high = found[0]
        return MeanCell(value, low=low, high=high)
    spread = statistics.stdev(known) if len(known) > 1 else None
    return MeanCell(statistics.fmean(known), spread)


def _mark_best(rows: list[MeanRow], lower: frozenset[int]) -> list[MeanRow]:
    """Mark the best mean of each column, ties to three places included, unless all tie."""
    marked = [list(row.cells) for row in rows]
    for i in range(len(marked[0]) if len(rows) > 1 else 0):
        known = [row[i].value for row in marked if row[i].value is not None]
        if not known:
            continue
        pick: Callable[..., Any] = min if i in lower else max
        best = MeanCell(pick(known)).text
        if not all(row[i].text == best for row in marked):
            for row in marked:
                row[i] = replace(row[i], best=row[i].text == best)
    return [replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True)]


def _seeds_note(entry: Entry) -> str:
    seeds = ", ".join(map(str, entry.metrics))
    return f"seed{'s' if len(entry.metrics) > 1 else ''} {seeds}"


def _failed(entries: Sequence[Entry]) -> list[str]:
    return [f"{e.name}, seed {seed}: {why}" for e in entries for seed, why in e.failed.items()]


def _waiting(entries: Sequence[Entry]) -> list[str]:
    return [f"{e.name}, seed {seed}" for e in entries for seed in e.waiting]


def _settings(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in settings.items()]


def _md_cell(cell: MeanCell) -> str:
    return f"{cell.text} {cell.interval}".strip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"
