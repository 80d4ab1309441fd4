"""A report written to disk: an HTML page, a PDF, or Markdown beside a folder of figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, cast, get_args

from affectnet.errors import ConfigError, suggest
from affectnet.report.contents import gather
from affectnet.report.page import page_of
from affectnet.report.runs import read_runs
from affectnet.run import refuse_existing, write_beside

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
