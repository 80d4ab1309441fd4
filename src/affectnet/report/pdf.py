"""The report as a PDF of A4 pages: text that can be selected, figures as vectors, no browser."""

import io
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pypdf import PdfReader, PdfWriter, Transformation
from tqdm import tqdm

from affectnet.report.contents import Contents, draw_or_say
from affectnet.report.figures.style import GRID, INK, MUTED, look
from affectnet.report.outline import Block, Grid, Paragraph, Picture, Points, Section, sections_of
from affectnet.report.sheets import HEIGHT, LEFT, WIDTH, Sheet, Sheets, lines_of, table_rows
from affectnet.run import write_beside

DPI: Final = 200
"""Of what is rasterised inside the figures: faces, clouds of points."""
TALLEST: Final = 3.95
"""Inches: two figures of one column fit on a page."""


def write_pdf(contents: Contents, out: Path) -> Path:
    """Write the PDF, whole or not at all; return `out`."""
    sections = sections_of(contents)
    n = sum(isinstance(block, Picture) for section in sections for block in section.blocks)
    sheets = Sheets()
    with look(), tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar:
        for level, section in enumerate(sections):
            _section(sheets, section, level, bar)
        text = _texts(sheets)
    writer = PdfWriter(clone_from=PdfReader(text))
    for page, sheet in zip(writer.pages, sheets.pages, strict=True):
        for placed in sheet.figures:
            own = PdfReader(placed.pdf).pages[0]
            move = Transformation().scale(placed.scale).translate(72 * placed.x, 72 * placed.y)
            page.merge_transformed_page(own, move)
        page.compress_content_streams()
    for title, number in sheets.marks:
        writer.add_outline_item(title=title, page_number=number)
    writer.add_metadata({"/Title": f"{contents.title}: affectnet report"})
    writer.page_mode = "/UseOutlines"
    with write_beside(out) as new:
        writer.write(new)
    return out


def _section(sheets: Sheets, section: Section, level: int, bar: "tqdm[Any]") -> None:
    if level:
        # A section begins on a new page where little room is left on this one.
        sheets.make_room(3.0)
        sheets.skip(0.25)
    sheets.mark(section.title)
    size = 20.0 if level == 0 else 14.0
    for line in lines_of(section.title, size, WIDTH, weight="bold"):
        sheets.write(line, size, weight="bold")
    sheets.skip(0.12)
    for block in section.blocks:
        _block(sheets, block, bar)


def _block(sheets: Sheets, block: Block, bar: "tqdm[Any]") -> None:
    match block:
        case Paragraph(text, note):
            sheets.paragraph(text, colour=MUTED if note else None)
        case Points(lines):
            for line in lines:
                sheets.paragraph(line, indent=0.16, bullet="•")
        case Grid(title, columns, rows):
            _grid(sheets, title, columns, rows)
        case Picture(_, drawing):
            figure, why = draw_or_say(drawing)
            bar.update()
            if figure is None:
                sheets.paragraph(f"Left out: {why}.", colour=MUTED)
            else:
                _figure(sheets, figure, drawing.title, drawing.caption)


def _grid(sheets: Sheets, title: str, columns: list[str], rows: list[list[str]]) -> None:
    head, *body = table_rows([columns, *rows])
    sheets.make_room(head.height + 0.9)
    sheets.skip(0.08)
    sheets.write(title, 10, weight="bold")
    sheets.row(head, weight="bold")
    for row in body:
        if not sheets.has_room(row.height):
            sheets.turn()
            sheets.row(head, weight="bold")
        sheets.row(row)
    sheets.skip(0.15)


def _figure(sheets: Sheets, figure: Figure, title: str, caption: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", dpi=DPI, facecolor="none", metadata={"CreationDate": None})
    width, height = (float(side) for side in figure.get_size_inches())
    tallest = TALLEST if width < 6 else 8.5
    scale = min(1.0, WIDTH / width, tallest / height)
    under = lines_of(caption, 8.5, WIDTH)
    sheets.make_room(scale * height + 0.35 + 0.16 * len(under))
    sheets.skip(0.1)
    sheets.write(title, 10, weight="bold")
    for line in under:
        sheets.write(line, 8.5, colour=MUTED)
    sheets.place(buffer, LEFT + (WIDTH - scale * width) / 2, scale * height, scale)
    sheets.skip(0.15)


def _texts(sheets: Sheets) -> io.BytesIO:
    """All pages with their texts and lines, without the figures."""
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"CreationDate": None}) as pdf:
        for number, sheet in enumerate(sheets.pages, start=1):
            pdf.savefig(_page(sheet, number, len(sheets.pages)))
    buffer.seek(0)
    return buffer


def _page(sheet: Sheet, number: int, of: int) -> Figure:
    page = Figure(figsize=(2 * LEFT + WIDTH, HEIGHT))
    across, up = 2 * LEFT + WIDTH, HEIGHT
    for one in sheet.texts:
        page.text(
            one.x / across,
            one.y / up,
            one.text,
            fontsize=one.size,
            weight=one.weight,
            ha=one.align,
            va="baseline",
            color=one.colour or INK,
        )
    for y in sheet.rules:
        xs = LEFT / across, (LEFT + WIDTH) / across
        page.add_artist(Line2D(xs, (y / up, y / up), color=GRID, linewidth=0.6))
    page.text(
        1 - LEFT / across, 0.35 / up, f"{number} / {of}", fontsize=7.5, ha="right", color=MUTED
    )
    return page
