"""Pages of text, tables and figures, set from top to bottom; all lengths in inches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

HEIGHT: Final = 11.69
"""Of A4."""
LEFT: Final = 0.535
WIDTH: Final = 7.2
"""Between the margins: that of the widest figures."""
TOP: Final = 0.65
BOTTOM: Final = 0.75
BODY: Final = 9.0
"""Points of running text."""
CELL: Final = 8.0
SMALL: Final = 6.5
GAP: Final = 0.14
"""Between two columns of a table."""

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Text:
    """A line of text; its baseline begins, or ends where `align` is right, at (x, y)."""

    x: float
    y: float
    text: str
    size: float
    weight: str = "normal"
    colour: str | None = None
    align: Align = "left"


@dataclass(frozen=True)
class Placed:
    """A figure, by its number, its lower left corner at (x, y)."""

    figure: int
    x: float
    y: float
    scale: float


@dataclass
class Sheet:
    """What one page holds."""

    texts: list[Text] = field(default_factory=list)
    rules: list[float] = field(default_factory=list)
    figures: list[Placed] = field(default_factory=list)


@dataclass(frozen=True)
class TableRow:
    """A row laid out: where each column begins, its width, its side, its lines and their sizes."""

    cells: list[tuple[float, float, Align, list[tuple[str, float]]]]
    height: float


class Sheets:
    """Pages filled one after the other, with a cursor that goes down."""

    def __init__(self) -> None:
        self.pages = [Sheet()]
        self.marks: list[tuple[str, int]] = []
        """Headings and the pages, from 0, on which they stand."""
        self._y = HEIGHT - TOP

    def has_room(self, height: float) -> bool:
        """Whether so much fits on the rest of this page."""
        return self._y - height >= BOTTOM

    def make_room(self, height: float) -> None:
        """Turn the page where so much does not fit on the rest of it."""
        if not self.has_room(height) and self._y < HEIGHT - TOP:
            self.turn()

    def turn(self) -> None:
        """Begin a new page."""
        self.pages.append(Sheet())
        self._y = HEIGHT - TOP

    def skip(self, height: float) -> None:
        """Leave room, though none at the head of a page."""
        if self._y < HEIGHT - TOP:
            self._y -= height

    def mark(self, title: str) -> None:
        """Note a heading for the outline."""
        self.marks.append((title, len(self.pages) - 1))

    def write(
        self,
        line: str,
        size: float = BODY,
        *,
        x: float = LEFT,
        weight: str = "normal",
        colour: str | None = None,
    ) -> None:
        """Write one line and go below it."""
        self.make_room(_leading(size))
        self._y -= _leading(size)
        baseline = self._y + 0.3 * size / 72
        self.pages[-1].texts.append(Text(x, baseline, line, size, weight, colour))

    def paragraph(
        self, text: str, *, colour: str | None = None, indent: float = 0.0, bullet: str = ""
    ) -> None:
        """Write sentences, broken into lines, and leave a little room below."""
        for i, line in enumerate(lines_of(text, BODY, WIDTH - indent)):
            self.write(line, x=LEFT + indent, colour=colour)
            if bullet and i == 0:
                last = self.pages[-1].texts[-1]
                self.pages[-1].texts.append(Text(LEFT, last.y, bullet, BODY, colour=colour))
        self.skip(0.07)

    def row(self, row: TableRow, weight: str = "normal") -> None:
        """Write a row of a table and a thin line below it."""
        for x, width, align, lines in row.cells:
            y = self._y - 0.05
            for line, size in lines:
                y -= _leading(size)
                at = LEFT + x if align == "left" else LEFT + x + width
                baseline = y + 0.3 * size / 72
                self.pages[-1].texts.append(Text(at, baseline, line, size, weight, None, align))
        self._y -= row.height
        self.pages[-1].rules.append(self._y)

    def place(self, figure: int, x: float, height: float, scale: float) -> None:
        """Place a figure of this height and go below it."""
        self._y -= height
        self.pages[-1].figures.append(Placed(figure, x, self._y, scale))


def _leading(size: float) -> float:
    """From one baseline to the next."""
    return 1.38 * size / 72


@lru_cache(maxsize=20_000)
def width_of(text: str, size: float, weight: str = "normal") -> float:
    """How long a line of text is."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def lines_of(text: str, size: float, width: float, weight: str = "normal") -> list[str]:
    """Break text into lines no longer than `width`, inside a word only where one is too long."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width_of(longer, size, weight) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while width_of(word, size, weight) > width and len(word) > 1:
            n = len(word) - 1
            while n > 1 and width_of(word[:n], size, weight) > width:
                n -= 1
            lines.append(word[:n])
            word = word[n:]
        line = word
    return [*lines, line] if line else lines


def table_rows(rows: Sequence[Sequence[str]]) -> list[TableRow]:
    """Lay out a table over the whole width: the first row is its head, set in bold.

    A cell's second line is small. Columns of numbers stand on their right edge. A column is as wide
    as it must be, and where a text is too long for its column it is broken.
    """
    sides = [_side([row[column] for row in rows[1:]]) for column in range(len(rows[0]))]
    sized = [[_sized(cell) for cell in row] for row in rows]
    natural = [
        max(
            width_of(line, size, "bold" if i == 0 else "normal")
            for i, row in enumerate(sized)
            for line, size in row[column]
        )
        for column in range(len(rows[0]))
    ]
    widths = _fitted(natural, WIDTH - GAP * (len(natural) - 1))
    laid = []
    for i, row in enumerate(sized):
        x, cells = 0.0, []
        for width, side, cell in zip(widths, sides, row, strict=True):
            weight = "bold" if i == 0 else "normal"
            lines = [
                (part, size)
                for line, size in cell
                for part in lines_of(line, size, width + 1e-6, weight)
            ]
            cells.append((x, width, side, lines))
            x += width + GAP
        tallest = max(sum(_leading(size) for _, size in lines) for *_, lines in cells)
        laid.append(TableRow(cells, tallest + 0.1))
    return laid


def _side(cells: Sequence[str]) -> Align:
    known = [cell for cell in cells if cell not in ("", "–")]
    return "right" if known and all(cell[0] in "0123456789−-+." for cell in known) else "left"


def _sized(cell: str) -> list[tuple[str, float]]:
    first, _, second = cell.partition("\n")
    second = " ".join(second.split())
    return [(first, CELL), (second, SMALL)] if second else [(first, CELL)]


def _fitted(natural: Sequence[float], room: float) -> list[float]:
    """Widths that fill the room: the widest are cut where all do not fit, else all stretched."""
    spare = room - sum(natural)
    if spare >= 0:
        return [width + spare / len(natural) for width in natural]
    left, widths = room, dict.fromkeys(range(len(natural)), 0.0)
    for place, (i, width) in enumerate(sorted(enumerate(natural), key=lambda pair: pair[1])):
        widths[i] = min(width, left / (len(natural) - place))
        left -= widths[i]
    return [widths[i] for i in range(len(natural))]
