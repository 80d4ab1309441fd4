"""A run folder filled with its figures as files.

A report written to disk: an HTML page, a PDF, or Markdown beside a folder of figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, cast, get_args

from tqdm import tqdm

from affectnet import figures
from affectnet.errors import ConfigError, suggest
from affectnet.report.contents import draw_or_say, gather
from affectnet.report.model_figures import explaining_drawings
from affectnet.report.page import page_of
from affectnet.report.run_figures import (
    gallery_drawings,
    history_drawing,
    run_drawings,
    truth_drawing,
)
from affectnet.report.runs import read_run, read_runs
from affectnet.report.samples import FaceSource, datasets_of
from affectnet.run import refuse_existing, write_beside


def save_run_figures(
    run_folder: Path | str,
    split: str = "test",
    datasets: Sequence[Path] = (),
    formats: Sequence[str] = ("png",),
    dpi: int = 300,
    explain: bool = True,
) -> list[Path]:
    """Fill `evaluation/SPLIT/figures/` of an evaluated run; return the files.

    An earlier folder of figures stays whole until the new one is complete. Galleries are drawn
    where the dataset is found, Grad-CAM and the map of features where the model is there too, and
    figures without data are left out.

    Args:
        datasets: where the images are; what the run's files name, where not given.
        formats: of `png`, `pdf` and `svg`.
        dpi: of PNG.
        explain: with the figures that need the trained model.

    Raises:
        RunError: the run has no evaluation of the split.
    """
    run = read_run(Path(run_folder), split)
    source = FaceSource(datasets or datasets_of(run), split)
    drawings = [*run_drawings(run), truth_drawing(run), history_drawing([run])]
    drawings += gallery_drawings(run, source)
    if explain:
        drawings += explaining_drawings(run, source.datasets)
    target = run.folder.evaluation(split) / "figures"
    names: list[str] = []
    with write_beside(target) as new:
        new.mkdir()
        for drawing in tqdm(drawings, desc="figures", unit="figure", leave=False, disable=None):
            figure, _ = draw_or_say(drawing)
            if figure is not None:
                saved = figures.save_figure(figure, new, drawing.name, formats, dpi)
                names += [path.name for path in saved]
    return [target / name for name in names]


Format = Literal["html", "pdf", "md"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)


def format_of(out: Path) -> Format:
    """The format that the suffix of `out` asks for.

    Raises:
        ConfigError: it is none of `.html`, `.pdf` and `.md`.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(
            f"--out {out} ends in none of .html, .pdf and .md; name the file so, or say which with "
            "--format"
        )
    return cast(Format, kind)


def write_report(
    runs: Sequence[Path | str],
    out: Path | str,
    split: str = "test",
    overwrite: bool = False,
    datasets: Sequence[Path] = (),
    *,
    format: Format | None = None,
    explain: bool = True,
) -> Path:
    """Write the report over these run folders to `out`; return `out`.

    Args:
        runs: evaluated run folders.
        out: the file. Markdown has its figures beside it, in `NAME_figures/`.
        split: whose evaluation is shown.
        overwrite: replace the file, and the figures of Markdown.
        datasets: where the images are; what the runs' files name, where not given.
        format: `html`, `pdf` or `md`; as the suffix of `out` says where not given.
        explain: with Grad-CAM and the map of features, which need the trained model and some
            seconds.

    Raises:
        ConfigError: no such format.
        RunError: a run is missing or not evaluated on `split`, or `out` exists and `overwrite` was
            not asked for.
    """
    out = Path(out)
    kind = format or format_of(out)
    if kind not in FORMATS:
        raise ConfigError(
            f"format {kind!r}{suggest(kind, FORMATS)}; it is one of {', '.join(FORMATS)}"
        )
    refuse_existing(out, overwrite)
    if kind == "md":
        from affectnet.report.markdown import figures_folder, write_markdown

        refuse_existing(figures_folder(out), overwrite)
    contents = gather(read_runs(runs, split), datasets, explain)
    if kind == "md":
        return write_markdown(contents, out)
    if kind == "pdf":
        from affectnet.report.pdf import write_pdf

        return write_pdf(contents, out)
    with write_beside(out) as new:
        new.write_text(page_of(contents), encoding="utf-8")
    return out
