"""The report as a PDF of A4 pages: text that can be selected, figures as vectors, no browser."""

import io
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pypdf import PdfReader, PdfWriter, Transformation
from tqdm import tqdm

from affectnet.figures.style import GRID, INK, MUTED, look
from affectnet.report.blocks import Block, Grid, Paragraph, Picture, Points, Section, sections_of
from affectnet.report.contents import Contents, draw_or_say
from affectnet.report.sheets import HEIGHT, LEFT, WIDTH, Sheet, Sheets, lines_of, table_rows
from affectnet.run import write_beside

DPI: Final = 150
"""Of what is rasterised inside the figures: faces, clouds of points."""
TALLEST: Final = 3.95
"""Inches: two figures of one column fit on a page."""


def write_pdf(contents: Contents, out: Path) -> Path:
    """Write the PDF, whole or not at all; return `out`."""
    sections = sections_of(contents)
    n = sum(isinstance(block, Picture) for section in sections for block in section.blocks)
    buffer = io.BytesIO()
    with (
        look(),
        tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar,
        # One file for all, so that they share their fonts: first the figures, then the pages.
        PdfPages(buffer, metadata={"CreationDate": None}) as pdf,
    ):
        sheets = Sheets()
        setter = _Setter(sheets, pdf, bar)
        for level, section in enumerate(sections):
            setter.section(section, level)
        for number, sheet in enumerate(sheets.pages, start=1):
            paper = _page(sheet, number, len(sheets.pages))
            pdf.savefig(paper)
    reader = PdfReader(buffer)
    writer = PdfWriter()
    for place, sheet in enumerate(sheets.pages, start=setter.figures):
        page = writer.add_page(reader.pages[place])
        for placed in sheet.figures:
            move = Transformation().scale(placed.scale).translate(72 * placed.x, 72 * placed.y)
            page.merge_transformed_page(reader.pages[placed.figure], move)
        page.compress_content_streams()
    for title, number in sheets.marks:
        writer.add_outline_item(title=title, page_number=number)
    writer.add_metadata({"/Title": f"{contents.title}: affectnet report"})
    writer.page_mode = "/UseOutlines"
    with write_beside(out) as new:
        writer.write(new)
    return out


class _Setter:
    """Sets blocks on the sheets, and figures into the PDF, each on a page of its own for now."""

    def __init__(self, sheets: Sheets, pdf: PdfPages, bar: "tqdm[Any]") -> None:
        self.sheets, self.pdf, self.bar = sheets, pdf, bar
        self.figures = 0

    def section(self, section: Section, level: int) -> None:
        """Set a heading and what stands under it."""
        if level:
            # A section begins on a new page where little room is left on this one.
            needed = 6.5 if isinstance(section.blocks[0], Picture) else 3.0
            self.sheets.make_room(HEIGHT if section.apart else needed)
            self.sheets.skip(0.25)
        self.sheets.mark(section.title)
        size = 20.0 if level == 0 else 14.0
        for line in lines_of(section.title, size, WIDTH, weight="bold"):
            self.sheets.write(line, size, weight="bold")
        self.sheets.skip(0.12)
        for block in section.blocks:
            self._block(block)

    def _block(self, block: Block) -> None:
        match block:
            case Paragraph(text, note):
                self.sheets.paragraph(text, colour=MUTED if note else None)
            case Points(lines):
                for line in lines:
                    self.sheets.paragraph(line, indent=0.16, bullet="•")
            case Grid(title, columns, rows):
                self._grid(title, columns, rows)
            case Picture(_, drawing):
                figure, why = draw_or_say(drawing)
                self.bar.update()
                if figure is None:
                    self.sheets.paragraph(f"Left out: {why}.", colour=MUTED)
                else:
                    self._figure(figure, drawing.title, drawing.caption)

    def _grid(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        sheets = self.sheets
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

    def _figure(self, figure: Figure, title: str, caption: str) -> None:
        sheets = self.sheets
        width, height = (float(side) for side in figure.get_size_inches())
        tallest = TALLEST if width < 6 else 8.5
        scale = min(1.0, WIDTH / width, tallest / height)
        under = lines_of(caption, 8.5, WIDTH)
        sheets.make_room(scale * height + 0.45 + 0.17 * len(under))
        sheets.skip(0.1)
        sheets.write(title, 10, weight="bold")
        for line in under:
            sheets.write(line, 8.5, colour=MUTED)
        sheets.skip(0.08)
        self.pdf.savefig(figure, dpi=DPI, facecolor="none")  # type: ignore[no-untyped-call]
        sheets.place(self.figures, LEFT + (WIDTH - scale * width) / 2, scale * height, scale)
        self.figures += 1
        sheets.skip(0.15)


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
