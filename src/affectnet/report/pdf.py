"""The report as a PDF of A4 pages: selectable text, figures as vectors, no browser."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import matplotlib
from fpdf import FPDF
from fpdf.fonts import FontFace
from matplotlib.backends.backend_pdf import PdfPages
from pypdf import PdfReader, PdfWriter, Transformation
from tqdm import tqdm

from affectnet.figures.style import GRID, INK, MUTED, figure_style
from affectnet.report.contents import Block, Chapter, Contents, Note, chapters_of
from affectnet.report.run_figures import RunFigure
from affectnet.report.tables import DASH, Table
from affectnet.run import write_beside

# Lengths in inches, sizes of text in points.
WIDTH: Final = 7.2  # between the margins: the width of the widest figures
DPI: Final = 150  # of rasterised parts of figures: faces, clouds of points
TALLEST: Final = 3.95  # two figures of one column fit on a page
BODY: Final = 9.0
CELL: Final = 7.5  # in tables, down to `SMALLEST` in wide ones
SMALLEST: Final = 6.3
GAP: Final = 0.16  # between two columns of a table
LONG: Final = 1.6  # a longer column may be broken into lines before the text gets smaller
FONT: Final = "DejaVu Sans"


def write_pdf(contents: Contents, out: Path, overwrite: bool = True) -> Path:
    """Write the PDF atomically; return `out`."""
    chapters = chapters_of(contents)
    n = sum(isinstance(block, RunFigure) for chapter in chapters for block in chapter.blocks)
    buffer = io.BytesIO()
    with (
        figure_style(),
        tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar,
        PdfPages(buffer, metadata={"CreationDate": None}) as figures,
    ):
        document = _Document(figures, bar)
        for chapter in chapters:
            document.chapter(chapter)
    writer = PdfWriter()
    writer.append(io.BytesIO(document.output()))  # without its date: same contents, same bytes
    writer.add_metadata({"/Title": f"{contents.title}: affectnet report"})
    writer.page_mode = "/UseOutlines"
    drawn = list(PdfReader(buffer).pages) if document.placed else []
    for figure, (page, x, y, scale) in zip(drawn, document.placed, strict=True):
        move = Transformation().scale(scale).translate(72 * x, 72 * y)
        writer.pages[page].merge_transformed_page(figure, move)
    for sheet in writer.pages:
        sheet.compress_content_streams()
    with write_beside(out, overwrite) as new:
        writer.write(new)
    return out


class _Document(FPDF):
    """The pages with room for the figures, which are drawn into a file of their own.

    `placed` has for each figure its page, its lower left corner in inches and its scale: fpdf2
    embeds no PDF pages, and its SVG import loses text and images.
    """

    def __init__(self, figures: PdfPages, bar: "tqdm[Any]") -> None:
        super().__init__(unit="in", format="A4")
        self.figures, self.bar = figures, bar
        self.placed: list[tuple[int, float, float, float]] = []
        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.add_font(FONT, fname=fonts / "DejaVuSans.ttf")
        self.add_font(FONT, "B", fname=fonts / "DejaVuSans-Bold.ttf")
        margin = (self.w - WIDTH) / 2
        self.set_margins(margin, 0.65)
        self.set_auto_page_break(True, 0.75)
        self.c_margin = 0
        self.set_draw_color(GRID)
        self.add_page()

    def footer(self) -> None:
        """Write the page number."""
        self.set_y(-0.45)
        self._font(7.5, MUTED)
        self.cell(0, text=f"{self.page_no()} / {{nb}}", align="R")

    def chapter(self, chapter: Chapter) -> None:
        """Write a heading and the blocks under it."""
        first = self.page == 1 and self.y <= self.t_margin
        if not first:
            # A chapter starts on a new page where little room is left on this one.
            needed = 6.5 if isinstance(chapter.blocks[0], RunFigure) else 3.0
            self._make_room(self.h if chapter.new_page else needed)
            self._skip(0.25)
        self.start_section(chapter.title)
        self._text(chapter.title, 20.0 if first else 14.0, bold=True)
        self._skip(0.12)
        for block in chapter.blocks:
            self._block(block)

    def _block(self, block: Block) -> None:
        match block:
            case str():
                self._text(block)
                self._skip(0.07)
            case Note():
                self._text(block.text, colour=MUTED)
                self._skip(0.07)
            case list():
                for line in block:
                    self._font(BODY)
                    self.cell(0.16, 1.38 * BODY / 72, "•")
                    self._text(line)
                    self._skip(0.07)
            case Table():
                self._table(block)
            case RunFigure():
                self._figure(block)

    def _font(self, size: float, colour: str = INK, bold: bool = False) -> None:
        self.set_font(FONT, "B" if bold else "", size)
        self.set_text_color(colour)

    def _text(self, text: str, size: float = BODY, colour: str = INK, bold: bool = False) -> None:
        self._font(size, colour, bold)
        self.multi_cell(
            0, 1.38 * size / 72, " ".join(text.split()), align="L", new_x="LMARGIN", new_y="NEXT"
        )

    def _make_room(self, height: float) -> None:
        """Start a new page if so much does not fit on this one, unless it is empty."""
        if self.will_page_break(height) and self.y > self.t_margin:
            self.add_page()

    def _skip(self, height: float) -> None:
        if self.y > self.t_margin:
            self.ln(height)

    def _table(self, table: Table) -> None:
        header, *body = [["\n".join(filter(None, pair)) for pair in line] for line in table.lines()]
        self._make_room(1.3)
        self._skip(0.08)
        self._text(table.title, 10, bold=True)
        columns = list(zip(header, *body, strict=True))
        natural = [self._column_width(*column) for column in columns]
        needed = sum(min(width, LONG) for width in natural)
        size = max(SMALLEST, CELL * min(1.0, WIDTH / needed))
        self._font(size)
        with self.table(
            (header, *body),
            col_widths=_fitted([width * size / CELL for width in natural]),
            text_align=[_side(column[1:]) for column in columns],
            v_align="TOP",
            borders_layout="HORIZONTAL_LINES",
            headings_style=FontFace(emphasis="BOLD"),
            line_height=1.38 * size / 72,
            padding=(0.04, GAP / 2 - 0.02),
        ):
            pass
        self._skip(0.15)

    def _column_width(self, header: str, *cells: str) -> float:
        """The width at which no line of a column is broken, in the font size `CELL`."""
        self._font(CELL)
        widths = [self.get_string_width(line) for cell in cells for line in cell.splitlines()]
        self._font(CELL, bold=True)
        widths += [self.get_string_width(line) for line in header.splitlines()]
        return max(widths, default=0) + GAP

    def _figure(self, wanted: RunFigure) -> None:
        figure, reason = wanted.draw_or_reason()
        self.bar.update()
        if figure is None:
            self._text(f"Left out: {reason}.", colour=MUTED)
            return
        width, height = (float(side) for side in figure.get_size_inches())
        scale = min(1.0, WIDTH / width, (TALLEST if width < 6 else 8.5) / height)
        self._font(8.5, MUTED)
        lines = cast(
            list[str], self.multi_cell(0, text=wanted.caption, dry_run=True, output="LINES")
        )
        self._make_room(scale * height + 0.45 + 0.17 * len(lines))
        self._skip(0.1)
        self._text(wanted.title, 10, bold=True)
        if wanted.caption:
            self._text(wanted.caption, 8.5, MUTED)
        self._skip(0.08)
        self.figures.savefig(figure, dpi=DPI, facecolor="none")  # type: ignore[no-untyped-call]
        left, bottom = (self.w - scale * width) / 2, self.h - self.y - scale * height
        self.placed.append((self.page - 1, left, bottom, scale))
        self.set_y(self.y + scale * height)
        self._skip(0.15)


def _side(cells: Sequence[str]) -> str:
    known = [cell for cell in cells if cell not in ("", DASH)]
    return "RIGHT" if known and all(cell[0] in "0123456789−-+." for cell in known) else "LEFT"


def _fitted(natural: Sequence[float]) -> list[float]:
    """Widths that sum to `WIDTH`: all are stretched, or the widest are cut."""
    spare = WIDTH - sum(natural)
    if spare >= 0:
        return [width + spare / len(natural) for width in natural]
    left, widths = WIDTH, [0.0] * len(natural)
    for place, (i, width) in enumerate(sorted(enumerate(natural), key=lambda pair: pair[1])):
        widths[i] = min(width, left / (len(natural) - place))
        left -= widths[i]
    return widths
