"""Write reports and the figures of a run to disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, cast, get_args

from tqdm import tqdm

from affectnet import figures
from affectnet.errors import ConfigError, suggest
from affectnet.report.contents import contents_of
from affectnet.report.model_figures import model_figures_for_report
from affectnet.report.page import page_of
from affectnet.report.run_figures import (
    annotation_figure,
    figures_of_run,
    gallery_figures,
    history_figure,
    sample_figure,
)
from affectnet.report.runs import read_run, read_runs
from affectnet.report.samples import FaceSource, datasets_of
from affectnet.run import refuse_existing, write_beside

Format = Literal["html", "pdf", "md"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)


def save_run_figures(
    run_folder: Path | str,
    split: str = "test",
    datasets: Sequence[Path] = (),
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
    datasets: Sequence[Path] = (),
    *,
    format: Format | None = None,
    explain: bool = True,
) -> Path:
    """Write the report over these run folders to `out`; return `out`.

    Args:
        runs: evaluated run folders.
        out: the file. Figures of a Markdown report are written to `NAME_figures/` next to it.
        split: the evaluated split.
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
    refuse_existing(out, overwrite)
    if kind == "md":
        from affectnet.report.markdown import figures_folder, write_markdown

        refuse_existing(figures_folder(out), overwrite)
        return write_markdown(contents_of(read_runs(runs, split), datasets, explain), out)
    contents = contents_of(read_runs(runs, split), datasets, explain)
    if kind == "pdf":
        from affectnet.report.pdf import write_pdf

        return write_pdf(contents, out)
    with write_beside(out) as new:
        new.write_text(page_of(contents), encoding="utf-8")
    return out
