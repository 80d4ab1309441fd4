"""The leaderboard of a benchmark: tables of mean scores with their spread, and of costs.

The spread is that over the seeds; for a single seed, the 95% interval of its own evaluation.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from affectnet.errors import counted
from affectnet.evaluation.bootstrap import LEVEL
from affectnet.evaluation.comparison import holm
from affectnet.report import html
from affectnet.report.runs import metric_of
from affectnet.report.tables import (
    CATEGORICAL,
    CONTINUOUS,
    DASH,
    Cell,
    Keys,
    Row,
    Table,
    lower_columns,
    mark_best,
    md_table,
    md_text,
    number,
    text_table,
)
from affectnet.run import write_beside

COSTS: Final = {  # heading and unit
    "parameters": ("Parameters (M)", 1e6),
    "multiply_adds": ("GFLOPs", 1e9),
    "images_per_second": ("Images/s", 1.0),
    "peak_memory": ("Peak memory (GB)", 1e9),
}
NOTE: Final = (
    "Mean over the seeds ± standard deviation (n - 1); for a single seed, its score with the 95% "
    "bootstrap interval over the faces in brackets. GFLOPs are billions of multiply-adds per face "
    "in the forward pass. Images per second: prediction in 32 bits on faces in memory. Peak "
    "memory: of training; on a GPU what PyTorch allocated there, otherwise of the whole process."
)


COMPARISON_NOTE: Final = (
    "Each model minus the one with the highest mean accuracy, over the seeds that both have, with "
    "95% intervals. The p-values count the variation over faces and over seeds, and are corrected "
    "for the number of comparisons (Holm). Below 0.05 a difference is more than chance."
)


@dataclass(frozen=True)
class Entry:
    """One backbone of the leaderboard.

    Attributes:
        name: name of the backbone.
        metrics: content of metrics.json for each scored seed.
        costs: the known ones of `COSTS`, in units of one (bytes, operations).
        failed: seed -> why it has no score.
        waiting: seeds that have not been tried yet.
    """

    name: str
    metrics: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    waiting: Sequence[int] = ()


def score_table(title: str, entries: Sequence[Entry], columns: Mapping[Keys, str]) -> Table:
    """Mean and spread of these metrics for each entry that has a score."""
    rows = []
    for entry in entries:
        if entry.metrics:
            seeds = f"seed{'s' * (len(entry.metrics) > 1)} {', '.join(map(str, entry.metrics))}"
            rows.append(Row(entry.name, tuple(_cell(entry, keys) for keys in columns), seeds))
    lower = lower_columns(columns)
    return Table(title, "backbone", tuple(columns.values()), tuple(mark_best(rows, lower)), lower)


def comparison_table(reference: str, compared: Mapping[str, dict[str, Any]]) -> Table:
    """Every model against `reference`: differences, corrected p-values, and what they mean.

    `compared` are results of `affectnet.evaluation.comparison.compare_seeds` by model.
    """
    known = {name: found for name, found in compared.items() if "accuracy" in found}
    corrected = {}
    for metric in ("accuracy", "f1_macro"):
        p_values = [1.0 if (p := one[metric]["p"]) is None else p for one in known.values()]
        corrected[metric] = dict(zip(known, holm(p_values), strict=True))
    rows = []
    for name, found in known.items():
        cells, verdict = [], []
        for metric, label in (("accuracy", "accuracy"), ("f1_macro", "macro F1")):
            one, p = found[metric], corrected[metric][name]
            low, high = one["low"], one["high"]
            interval = "" if low is None else f"[{number(low)}, {number(high)}]"
            cells.append(Cell(number(one["difference"]), one["difference"], interval))
            cells.append(Cell("< 0.001" if p < 0.001 else number(p), p))
            if p < 1 - LEVEL:
                verdict.append(f"{'lower' if one['difference'] < 0 else 'higher'} {label}")
        cells.append(Cell(", ".join(verdict) or "no more than chance"))
        seeds = f"{counted(found['seeds'], 'seed')}, {counted(found['n'], 'face')}"
        rows.append(Row(name, tuple(cells), seeds))
    columns = ("Accuracy", "p", "Macro F1", "p", "More than chance")
    return Table(f"Compared with {reference}", "backbone", columns, tuple(rows))


def cost_table(entries: Sequence[Entry]) -> Table:
    """Parameters, GFLOPs, images per second and peak memory of each entry that has any."""
    rows = []
    for entry in entries:
        cells = []
        for name, (_, unit) in COSTS.items():
            cost = entry.costs.get(name)
            value = None if cost is None else cost / unit
            text = DASH if value is None else number(value, 1 if value >= 100 else 2)
            cells.append(Cell(text, value))
        if entry.costs:
            rows.append(Row(entry.name, tuple(cells)))
    lower = frozenset(i for i, name in enumerate(COSTS) if name != "images_per_second")
    headings = tuple(heading for heading, _ in COSTS.values())
    return Table("Cost", "backbone", headings, tuple(rows), lower)


def write_leaderboard(
    folder: Path,
    entries: Sequence[Entry],
    title: str,
    settings: Mapping[str, object],
    compared: Table | None = None,
) -> None:
    """Write leaderboard.csv, .md and .html into `folder`, replacing earlier ones.

    `compared` is a table of `comparison_table`.
    """
    for name, text in (
        ("leaderboard.csv", leaderboard_csv(entries)),
        ("leaderboard.md", leaderboard_md(entries, title, settings, compared)),
        ("leaderboard.html", leaderboard_html(entries, title, settings, compared)),
    ):
        with write_beside(folder / name) as new:
            new.write_text(text, encoding="utf-8", newline="")


def leaderboard_csv(entries: Sequence[Entry]) -> str:
    """One row per backbone: costs, failures, and each metric as `expression_accuracy_mean`, with
    `_std` over several seeds or `_low` and `_high` of one."""
    text = io.StringIO()
    metrics = [*CATEGORICAL, *CONTINUOUS]
    ends = ("mean", "std", "low", "high")
    header = ["backbone", "seeds", *("_".join((*keys, end)) for keys in metrics for end in ends)]
    header += ["parameters", "multiply_adds", "images_per_second", "peak_memory_bytes"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "failed", "waiting"])
    for entry in entries:
        values = [value for keys in metrics for value in _mean(entry, keys)]
        values += [entry.costs.get(name) for name in COSTS]
        row = [entry.name, " ".join(map(str, entry.metrics))]
        row += ["" if value is None else f"{value:.8g}" for value in values]
        failed = "; ".join(f"seed {seed}: {why}" for seed, why in entry.failed.items())
        writer.writerow([*row, failed, " ".join(map(str, entry.waiting))])
    return text.getvalue()


def leaderboard_md(
    entries: Sequence[Entry],
    title: str,
    settings: Mapping[str, object],
    compared: Table | None = None,
) -> str:
    """The leaderboard in Markdown."""
    affect = score_table("", entries, CONTINUOUS)
    parts = [f"# {md_text(title)}", NOTE]
    for table in (
        score_table("Expression", entries, CATEGORICAL),
        affect.select("Valence", 0, 4),
        affect.select("Arousal", 4, 8),
        cost_table(entries),
    ):
        parts.append(f"## {table.title}")
        parts.append(md_table(table, notes=False) if table.rows else "No model is scored yet.")
    if compared is not None and compared.rows:
        parts += [f"## {md_text(compared.title)}", COMPARISON_NOTE, md_table(compared)]
    for heading, lines in (("Failed", _failed(entries)), ("Not tried yet", _waiting(entries))):
        if lines:
            parts += [f"## {heading}", "\n".join(f"- {md_text(line)}" for line in lines)]
    parts += ["## Settings", md_table(_settings(settings))]
    return "\n\n".join(parts) + "\n"


def leaderboard_html(
    entries: Sequence[Entry],
    title: str,
    settings: Mapping[str, object],
    compared: Table | None = None,
) -> str:
    """The leaderboard as one page that opens offline, in light and dark."""
    return html.page(
        "leaderboard.html.j2",
        ("theme.js", "tables.js"),
        title=title,
        scored=sum(bool(entry.metrics) for entry in entries),
        models=len(entries),
        expression=score_table("Expression", entries, CATEGORICAL),
        affect=score_table("Valence and arousal", entries, CONTINUOUS),
        compared=compared,
        comparison_note=COMPARISON_NOTE,
        costs=cost_table(entries),
        failed=_failed(entries),
        waiting=_waiting(entries),
        settings=_settings(settings),
        note=NOTE,
    )


def _cell(entry: Entry, keys: Keys) -> Cell:
    value, spread, low, high = _mean(entry, keys)
    if value is None:
        return Cell(DASH, note="not scored")
    interval = "" if spread is None else f"± {number(spread)}"
    if low is not None and high is not None:
        interval = f"[{number(low)}, {number(high)}]"
    return Cell(number(value), value, interval)


def _mean(entry: Entry, keys: Keys) -> tuple[float | None, ...]:
    """Mean and standard deviation over several seeds, or value and interval of one."""
    found = [metric_of(metrics, *keys) for metrics in entry.metrics.values()]
    known = [value for value, _, _ in found if value is not None]
    if not known:
        return None, None, None, None
    if len(found) == 1:
        value, low, high = found[0]
        return value, None, low, high
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, None, None


def _failed(entries: Sequence[Entry]) -> list[str]:
    return [f"{e.name}, seed {seed}: {why}" for e in entries for seed, why in e.failed.items()]


def _waiting(entries: Sequence[Entry]) -> list[str]:
    return [f"{e.name}, seed {seed}" for e in entries for seed in e.waiting]


def _settings(settings: Mapping[str, object]) -> Table:
    return text_table("Settings", ("setting", "value"), settings.items())
