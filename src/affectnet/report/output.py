"""Write reports and the figures of a run to disk; the report as Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import quote

from tqdm import tqdm

from affectnet import figures
from affectnet.errors import ConfigError, suggest
from affectnet.report.contents import Block, Contents, Note, chapters_of, contents_of
from affectnet.report.model_figures import model_figures_for_report
from affectnet.report.page import page_of
from affectnet.report.run_figures import (
    RunFigure,
    annotation_figure,
    figures_of_run,
    gallery_figures,
    history_figure,
    sample_figure,
)
from affectnet.report.runs import read_run, read_runs
from affectnet.report.samples import FaceSource, datasets_of
from affectnet.report.tables import Table, md_table, md_text
from affectnet.run import refuse_existing, write_beside

Format = Literal["html", "pdf", "md"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
MARKDOWN_DPI: Final = 130


def save_run_figures(
    run_folder: Path | str,
    split: str = "test",
    datasets: Sequence[Path | str] = (),
    formats: Sequence[str] = ("png",),
    dpi: int = 300,
    explain: bool = True,
) -> list[Path]:
    """Write all figures of an evaluated run to `evaluation/SPLIT/figures/`; return the files.

    An earlier folder of figures is replaced once the new one is complete. Galleries need the
    dataset, Grad-CAM and the map of features also the model; figures without data are left out.

    Args:
        datasets: folders of the images; those named in the run's files if not given.
        formats: any of `png`, `pdf` and `svg`.
        dpi: resolution of PNG.
        explain: whether to draw the figures that need the trained model.

    Raises:
        RunError: the run has no evaluation of the split.
    """
    run = read_run(Path(run_folder), split)
    source = FaceSource(datasets or datasets_of(run), split)
    wanted = [
        *figures_of_run(run),
        annotation_figure(run),
        history_figure([run]),
        *gallery_figures(run, source),
        sample_figure(run, source),
    ]
    if explain:
        wanted += model_figures_for_report(run, source.datasets)
    target = run.folder.evaluation(split) / "figures"
    names: list[str] = []
    with write_beside(target) as new:
        new.mkdir()
        for one in tqdm(wanted, desc="figures", unit="figure", leave=False, disable=None):
            figure, _ = one.draw_or_reason()
            if figure is not None:
                saved = figures.save_figure(figure, new, one.name, formats, dpi)
                names += [path.name for path in saved]
    return [target / name for name in names]


def format_of(out: Path) -> Format:
    """The format given by the suffix of `out`.

    Raises:
        ConfigError: the suffix is not `.html`, `.pdf` or `.md`.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(
            f"--out {out} does not end in .html, .pdf or .md; change the name, or choose the "
            "format with --format"
        )
    return cast(Format, kind)


def write_report(
    runs: Sequence[Path | str],
    out: Path | str,
    split: str = "test",
    overwrite: bool = False,
    datasets: Sequence[Path | str] = (),
    *,
    format: Format | None = None,
    explain: bool = True,
) -> Path:
    """Write the report over these run folders to `out`; return `out`.

    Args:
        out: the file. Figures of a Markdown report are written to `NAME_figures/` next to it.
        overwrite: replace the file, and the figures of a Markdown report.
        datasets: folders of the images; those named in the runs' files if not given.
        format: `html`, `pdf` or `md`; given by the suffix of `out` if None.
        explain: whether to add Grad-CAM and the map of features, which need the trained model and
            take a few seconds.

    Raises:
        ConfigError: unknown format.
        RunError: a run is missing or not evaluated on `split`, or `out` exists and `overwrite` is
            not set.
    """
    out = Path(out)
    kind = format or format_of(out)
    if kind not in FORMATS:
        raise ConfigError(
            f"format {kind!r}{suggest(kind, FORMATS)}; choose one of {', '.join(FORMATS)}"
        )
    refuse_existing_report(out, kind, overwrite)
    contents = contents_of(read_runs(runs, split), datasets, explain)
    if kind == "md":
        return write_markdown(contents, out, overwrite)
    if kind == "pdf":
        from affectnet.report.pdf import write_pdf

        return write_pdf(contents, out, overwrite)
    with write_beside(out, overwrite) as new:
        new.write_text(page_of(contents), encoding="utf-8")
    return out


def refuse_existing_report(out: Path, kind: str, overwrite: bool) -> None:
    """Raise `RunError` if the report, or the figures of one in Markdown, must not be replaced."""
    refuse_existing(out, overwrite)
    if kind == "md":
        refuse_existing(figures_folder(out), overwrite)


def figures_folder(out: Path) -> Path:
    """The folder `NAME_figures/` for the figures of the Markdown file `out`."""
    return out.with_name(f"{out.stem}_figures")


def write_markdown(contents: Contents, out: Path, overwrite: bool = True) -> Path:
    """Write `out` and the folder of its figures, each atomically; return `out`."""
    folder = figures_folder(out)
    chapters = chapters_of(contents)
    n = sum(isinstance(block, RunFigure) for chapter in chapters for block in chapter.blocks)
    lines: list[str] = []
    with (
        write_beside(folder, overwrite) as new,
        tqdm(total=n, desc="report", unit="figure", leave=False, disable=None) as bar,
    ):
        new.mkdir()
        for level, chapter in enumerate(chapters):
            lines.append(f"{'#' if level == 0 else '##'} {md_text(chapter.title)}")
            for block in chapter.blocks:
                lines += _md_block(block, new, folder.name, bar)
    with write_beside(out, overwrite) as page:
        page.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return out


def _md_block(block: Block, new: Path, folder: str, bar: "tqdm[Any]") -> list[str]:
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
    (path,) = figures.save_figure(figure, new, block.name, ("png",), MARKDOWN_DPI)
    caption = [md_text(block.caption)] if block.caption else []
    image = f"![{md_text(block.alt)}]({quote(folder)}/{path.name})"
    return [f"### {md_text(block.title)}", *caption, image]
