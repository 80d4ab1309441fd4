"""Pieces of Markdown as GitHub and Hugging Face read it.

The report as Markdown that GitHub shows, its figures as PNG files in a folder beside it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tqdm import tqdm

from affectnet.figures import save_figure
from affectnet.report.blocks import Block, Grid, Paragraph, Picture, Points, sections_of
from affectnet.report.contents import Contents, draw_or_say
from affectnet.run import write_beside


def md_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, numbers flush right."""
    rule = ["---", *(["---:"] * (len(columns) - 1))]
    lines = [[md_text(cell) for cell in row] for row in (columns, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))


def md_text(text: object) -> str:
    """Text as it is, nothing of it read as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>#|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))


DPI: Final = 130


def figures_folder(out: Path) -> Path:
    """Where the figures of the Markdown file `out` lie: `NAME_figures/` beside it."""
    return out.with_name(f"{out.stem}_figures")


def write_markdown(contents: Contents, out: Path) -> Path:
    """Write `out` and the folder of its figures, each whole or not at all; return `out`."""
    folder = figures_folder(out)
    sections = sections_of(contents)
    n = sum(isinstance(block, Picture) for section in sections for block in section.blocks)
    lines: list[str] = []
    with (
        write_beside(folder) as new,
        tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar,
    ):
        new.mkdir()
        for level, section in enumerate(sections):
            lines.append(f"{'#' if level == 0 else '##'} {md_text(section.title)}")
            for block in section.blocks:
                lines += _block(block, new, folder.name, bar)
    with write_beside(out) as page:
        page.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return out


def _block(block: Block, new: Path, folder: str, bar: "tqdm[Any]") -> list[str]:
    """The paragraphs of one block; a figure is saved into `new`, which will be called `folder`."""
    match block:
        case Paragraph(text, note):
            return [f"> {md_text(text)}" if note else md_text(text)]
        case Points(points):
            return ["\n".join(f"- {md_text(point)}" for point in points)]
        case Grid(title, columns, rows):
            return [f"**{md_text(title)}**", _table(columns, rows)]
        case Picture(name, drawing):
            figure, why = draw_or_say(drawing)
            bar.update()
            if figure is None:
                return [f"> Left out: {md_text(why)}."]
            (path,) = save_figure(figure, new, name, ("png",), DPI)
            alt = md_text(drawing.alt).replace("\n", " ")
            shown = f"![{alt}]({quote(folder)}/{path.name})"
            caption = [md_text(drawing.caption)] if drawing.caption else []
            return [f"### {md_text(drawing.title)}", *caption, shown]


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """A table; the second line of a cell follows the first in brackets."""

    def one(cell: str) -> str:
        first, _, second = cell.partition("\n")
        return f"{first} ({second})" if second else first

    return md_table(columns, [[one(cell) for cell in row] for row in rows])
