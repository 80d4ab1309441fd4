"""The report as Markdown for GitHub, with its figures as PNG files in a folder next to it."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tqdm import tqdm

from affectnet.figures import save_figure
from affectnet.report.contents import Block, Contents, Note, chapters_of
from affectnet.report.run_figures import RunFigure
from affectnet.report.tables import Table, md_table, md_text
from affectnet.run import write_beside

DPI: Final = 130


def figures_folder(out: Path) -> Path:
    """The folder `NAME_figures/` for the figures of the Markdown file `out`."""
    return out.with_name(f"{out.stem}_figures")


def write_markdown(contents: Contents, out: Path) -> Path:
    """Write `out` and the folder of its figures, each atomically; return `out`."""
    folder = figures_folder(out)
    chapters = chapters_of(contents)
    n = sum(isinstance(block, RunFigure) for chapter in chapters for block in chapter.blocks)
    lines: list[str] = []
    with (
        write_beside(folder) as new,
        tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar,
    ):
        new.mkdir()
        for level, chapter in enumerate(chapters):
            lines.append(f"{'#' if level == 0 else '##'} {md_text(chapter.title)}")
            for block in chapter.blocks:
                lines += _block(block, new, folder.name, bar)
    with write_beside(out) as page:
        page.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return out


def _block(block: Block, new: Path, folder: str, bar: "tqdm[Any]") -> list[str]:
    """The paragraphs of a block; a figure is saved into `new`, which will be named `folder`."""
    match block:
        case str():
            return [md_text(block)]
        case Note():
            return [f"> {md_text(block.text)}"]
        case list():
            return ["\n".join(f"- {md_text(line)}" for line in block)]
        case Table():
            return [f"**{md_text(block.title)}**", md_table(block)]
    figure, reason = block.draw_or_reason()
    bar.update()
    if figure is None:
        return [f"> Left out: {md_text(reason)}."]
    (path,) = save_figure(figure, new, block.name, ("png",), DPI)
    caption = [md_text(block.caption)] if block.caption else []
    image = f"![{md_text(block.alt)}]({quote(folder)}/{path.name})"
    return [f"### {md_text(block.title)}", *caption, image]
