"""`affectnet audit`: describe a dataset and report its problems in sentences."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from affectnet.config import AuditConfig
from affectnet.data.audit.affect import BINS
from affectnet.data.audit.dataset_audit import Audit, audit_dataset, expression_name
from affectnet.data.audit.findings import Severity
from affectnet.errors import ConfigError, counted
from affectnet.evaluation.terminal import grid
from affectnet.labels import EXPRESSIONS
from affectnet.report.audit_page import render_audit
from affectnet.run import locked, refuse_existing, write_beside

_STYLES = {Severity.INFO: "dim", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}
_BARS = " ▁▂▃▄▅▆▇█"


def audit(config: AuditConfig) -> int:
    """Audit a dataset, print the findings, and write them to a file where requested.

    Returns:
        The exit status: 1 if `strict` and a finding is a problem, else 0.

    Raises:
        ConfigError: `out` is neither .html nor .json.
        DataError: the folder is not a dataset, or the predictions do not belong to it.
        RunError: `out` exists and `overwrite` is off.
    """
    kind = config.out.suffix.lower() if config.out else ""
    if config.out:
        if kind not in (".html", ".json"):
            raise ConfigError(
                f"--out is {config.out}; name a .html file for a page, or a .json file for all "
                "findings"
            )
        refuse_existing(config.out, config.overwrite)
    found = audit_dataset(config.data, config.predictions, config.split, config.without_contempt)
    if config.out:
        text = (
            json.dumps(found.to_dict(), indent=2, ensure_ascii=False)
            if kind == ".json"
            else render_audit(found)
        )
        with locked(config.out), write_beside(config.out, config.overwrite) as new:
            new.write_text(text + "\n", encoding="utf-8")
    _print(found, Console(), max(0, config.show))
    if config.out:
        print(f"written: {config.out}")
    return int(config.strict and not found.passed)


def _print(audit: Audit, console: Console, show: int) -> None:
    console.print(_counts(audit))
    if audit.affect.n:
        console.print(_affect(audit))
        for name, counts in (("valence", audit.affect.valence), ("arousal", audit.affect.arousal)):
            console.print(f"{name}  -1 {_bars(counts.tolist())} 1", highlight=False)
    for table in (_duplicates(audit, show), _contradictions(audit, show), _suspects(audit, show)):
        if table is not None:
            console.print(table)
    console.print()
    for finding in audit.findings:
        line = Text(f"{finding.severity:>7}  ", style=_STYLES[finding.severity])
        line.append(finding.text, style="default")
        console.print(line, soft_wrap=True)
    problems, warnings = audit.number(Severity.PROBLEM), audit.number(Severity.WARNING)
    console.print(
        f"\n{counted(problems, 'problem')}, {counted(warnings, 'warning')} in "
        f"{counted(len(audit.rows), 'face')}",
        highlight=False,
    )


def _counts(audit: Audit) -> Table:
    columns = audit.count_columns()
    release = audit.recognition.release
    title = "faces by class" + (f" and split, next to {release.title}" if release else "")
    table = grid(title, ["expression", *(column.title for column in columns)])
    for i, name in enumerate(audit.classes):
        cells = [
            Text(f"{column.counts[i]:,}", style="yellow" if column.differs[i] else "")
            for column in columns
        ]
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("all", *(f"{column.counts.sum():,}" for column in columns))
    return table


def _affect(audit: Audit) -> Table:
    table = grid(
        "valence and arousal, mean ± standard deviation",
        ("expression", "faces", "valence", "arousal"),
    )
    affect = audit.affect
    for i, name in enumerate(EXPRESSIONS):
        if affect.class_n[i]:
            moments = zip(affect.class_mean[i], affect.class_std[i], strict=True)
            cells = (f"{mean:+.2f} ± {std:.2f}" for mean, std in moments)
            table.add_row(name, f"{affect.class_n[i]:,}", *cells)
    return table


def _bars(counts: list[int]) -> str:
    """Return a histogram in one line; bins that are not empty are visible."""
    top = max(max(counts), 1)
    assert len(counts) == BINS
    return "".join(_BARS[-(-n * (len(_BARS) - 1) // top)] for n in counts)


def _duplicates(audit: Audit, show: int) -> Table | None:
    rows = []
    for group in audit.duplicates[:show]:
        names = [f"{audit.name(row)} {_label(audit, row)}" for row in group.rows[:4]]
        more = len(group.rows) - len(names)
        faces = ", ".join(names) + (f" and {more} more" if more else "")
        splits = Text(" + ".join(group.splits), style="red" if group.leak else "")
        rows.append((group.kind, splits, Text(faces)))
    columns = ("relation", "splits", "faces")
    return _first("images that appear more than once", columns, 0, rows, len(audit.duplicates))


def _contradictions(audit: Audit, show: int) -> Table | None:
    rows = [
        (
            Text(audit.name(found.row)),
            found.rule.expression,
            str(found.rule),
            f"{audit.rows.valence[found.row]:+.2f}",
            f"{audit.rows.arousal[found.row]:+.2f}",
        )
        for found in audit.contradictions[:show]
    ]
    columns = ("face", "expression", "rule broken", "valence", "arousal")
    title = "valence or arousal against expression"
    return _first(title, columns, 2, rows, len(audit.contradictions))


def _suspects(audit: Audit, show: int) -> Table | None:
    if audit.suspects is None:
        return None
    found = audit.suspects.found
    rows = [
        (
            Text(audit.name(row)),
            _label(audit, row),
            EXPRESSIONS[found.suggested[i]],
            f"{found.margin[i]:+.2f}",
        )
        for i, row in enumerate(audit.suspects.rows[:show].tolist())
    ]
    columns = ("face", "label", "more likely", "margin")
    return _first("likely wrong labels", columns, 1, rows, len(audit.suspects.rows))


def _label(audit: Audit, row: int) -> str:
    return expression_name(int(audit.rows.expression[row]))


def _first(
    title: str,
    columns: Sequence[str],
    numbers: int,
    rows: Sequence[Sequence[str | Text]],
    total: int,
) -> Table | None:
    """Return a table of the first rows of `total`; None if there are none."""
    if not rows:
        return None
    if len(rows) < total:
        title += f" (the first {len(rows)} of {total:,}; --out FILE.json has all)"
    table = grid(title, columns, numbers)
    for row in rows:
        table.add_row(*row)
    return table
