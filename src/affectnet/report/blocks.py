"""A report as a row of blocks, for the forms that are read from top to bottom: PDF and Markdown."""

from dataclasses import dataclass
from datetime import date

from affectnet.report.audit_summary import AuditSummary
from affectnet.report.contents import Contents, RunPart
from affectnet.report.run_figures import Drawing, gallery_drawings
from affectnet.report.tables import Cell, Table
from affectnet.version import __version__


@dataclass(frozen=True)
class Paragraph:
    """Some sentences; a `note` is set apart."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Points:
    """Lines of a list."""

    lines: list[str]


@dataclass(frozen=True)
class Grid:
    """A table of texts; what stands below the value in a cell comes after a line break."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Picture:
    """A figure yet to be drawn, under a name that no other of the report has."""

    name: str
    drawing: Drawing


Block = Paragraph | Points | Grid | Picture


@dataclass(frozen=True)
class Section:
    """A headed part of a report; `apart` begins on a page of its own."""

    title: str
    blocks: list[Block]
    apart: bool = False


FOOTER = (
    "A face shows an expression; what a person feels is another matter. These figures tell how "
    "well a model repeats human annotation, on these faces."
)


def sections_of(contents: Contents) -> list[Section]:
    """The whole report in the order in which it is read."""
    sections = [
        Section(contents.title, _opening(contents)),
        Section("Scores", _scores(contents)),
        *(_of_run(part, i + 1) for i, part in enumerate(contents.drawn)),
    ]
    if contents.undrawn:
        left = f"The figures of {', '.join(contents.undrawn)} are left out to keep this short."
        sections[-1].blocks.append(Paragraph(left, note=True))
    sections.append(Section("Training", [Picture("all-learning-curves", contents.history)]))
    sections.append(Section("Data", _data(contents)))
    sections.append(Section("Settings and versions", _settings(contents)))
    return sections


def _opening(contents: Contents) -> list[Block]:
    kicker = f"Expression, valence and arousal on the {contents.split} split."
    blocks: list[Block] = [Paragraph(kicker)]
    if contents.tiles:
        columns = ["", "Value", "95% interval", "Without looking"]
        rows = [[one.label, one.value, one.interval, one.guess or ""] for one in contents.tiles]
        best = contents.tiles[0].run
        blocks.append(Grid(f"In short: {best}" if best else "In short", columns, rows))
    return [*blocks, Points(contents.summary)]


def _scores(contents: Contents) -> list[Block]:
    lead = "Under each value its 95% interval."
    if len(contents.runs) > 1:
        lead += " A star marks the best run of the column."
    blocks: list[Block] = [
        Paragraph(
            f"{lead} For measure: what a model gets that does not look at the face, and how far "
            "people agree."
        ),
        _grid("Expression", contents.categorical),
    ]
    for first, name in ((0, "Valence"), (4, "Arousal")):
        blocks.append(_grid(name, _columns(contents.continuous, first, first + 4)))
    blocks.append(_grid("F1 of each expression", contents.per_class))
    if contents.published:
        columns = ["Model", "Classes", "Figure", "Value", "Source"]
        rows = [
            [str(one.get(name) or "") for name in ("model", "classes", "figure", "value", "source")]
            for one in contents.published
        ]
        blocks.append(Grid("Published figures on AffectNet's own validation set", columns, rows))
    return blocks


def _columns(table: Table, first: int, last: int) -> Table:
    """Some columns of a table, and the rows that have anything in them."""
    rows = tuple(
        type(row)(row.name, row.cells[first:last], row.baseline, row.note)
        for row in table.rows
        if not row.baseline or any(cell.value is not None for cell in row.cells[first:last])
    )
    lower = frozenset(i - first for i in table.lower if first <= i < last)
    return Table(table.columns[first:last], rows, lower)


def _grid(title: str, table: Table) -> Grid:
    columns = [
        f"{name} (less is better)" if i in table.lower else name
        for i, name in enumerate(table.columns)
    ]
    rows = [
        [f"{row.name}\n{row.note}" if row.note else row.name, *(_cell(cell) for cell in row.cells)]
        for row in table.rows
    ]
    return Grid(title, ["", *columns], rows)


def _cell(cell: Cell) -> str:
    star = " ★" if cell.best else ""
    return f"{cell.text}{star}\n{cell.interval}" if cell.interval else f"{cell.text}{star}"


def _of_run(part: RunPart, number: int) -> Section:
    run = part.run
    blocks: list[Block] = [Paragraph(f"{len(run.predictions):,} faces.")]
    if part.source.problem:
        blocks.append(Paragraph(f"No face can be shown: {part.source.problem}.", note=True))
    else:
        galleries = gallery_drawings(run, part.source, titled=False)[:2]
        blocks += [Picture(f"run-{number}-{one.name}", one) for one in galleries]
    blocks += [Picture(f"run-{number}-{one.name}", one) for one in part.drawings]
    return Section(run.name, blocks, apart=True)


def _data(contents: Contents) -> list[Block]:
    blocks: list[Block] = []
    for info in contents.infos:
        blocks.append(
            Paragraph(
                f"Release {info.release}, ingested by affectnet {info.version}; content "
                f"{info.content_hash[:16]}."
            )
        )
        if info.dropped:
            rows = [[reason, f"{n:,}"] for reason, n in info.dropped.items()]
            blocks.append(Grid("Rows dropped at ingest", ["Reason", "Rows"], rows))
    if not contents.infos:
        said = "The dataset was not found, so nothing is known of it beyond the predictions."
        blocks.append(Paragraph(said, note=True))
    for audit in contents.audits:
        blocks += _audit(audit)
    return blocks + [Picture(f"all-{one.name}", one) for one in contents.data]


def _audit(audit: AuditSummary) -> list[Block]:
    blocks: list[Block] = [
        Paragraph(f"What the audit says of {audit.name}:"),
        Points([f"{finding.severity}: {finding.text}" for finding in audit.findings]),
    ]
    return blocks if audit.whole else [*blocks, Paragraph(audit.advice, note=True)]


def _was(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _settings(contents: Contents) -> list[Block]:
    blocks: list[Block] = []
    names = [run.name for run in contents.runs]
    if contents.settings:
        rows = [[one.name, *one.values] for one in contents.settings]
        blocks.append(Grid("Training settings", ["setting", *names], rows))
    for group in contents.protocols:
        lines = [[key, value] for key, value in group["lines"].items()]
        blocks.append(
            Grid(f"How {', '.join(group['runs'])} {_was(group['runs'])} scored", ["", ""], lines)
        )
    made = [[name, number] for name, number in contents.versions.items()]
    blocks.append(Grid("Versions that made this report", ["", ""], made))
    closing = f"{FOOTER} Made by affectnet {__version__} on {date.today().isoformat()}."
    return [*blocks, Paragraph(closing)]
