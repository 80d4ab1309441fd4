"""`affectnet report`: a report on evaluated runs as HTML, PDF or Markdown."""

import io
from contextlib import redirect_stdout
from pathlib import Path

from affectnet.commands.evaluate import evaluate
from affectnet.config import EvaluateConfig, ReportConfig, settings_of
from affectnet.errors import ConfigError, megabytes
from affectnet.report import write_report
from affectnet.report.output import FORMATS, format_of, refuse_existing_report
from affectnet.run import locked, temporary_folder

_NOTES = {
    "html": "opens in any browser, offline",
    "pdf": "A4",
    "md": "figures in a folder next to it",
}


def report(config: ReportConfig) -> Path:
    """Write the report on `config.runs` and `config.predictions` to `config.out`; return its path.

    Raises:
        ConfigError: `out` and `format` contradict each other, or neither specifies the format.
        DataError: the predictions cannot be scored.
        RunError: a run is missing or not evaluated, or the report exists and --overwrite is not
            given.
    """
    out = config.out or Path(f"report.{config.format or 'html'}")
    ending = out.suffix.lower().removeprefix(".")
    if config.format and ending in FORMATS and ending != config.format:
        raise ConfigError(
            f"--out {out} has the suffix of another format than --format {config.format}; give "
            "only one of the two, or make them agree"
        )
    kind = config.format or format_of(out)
    runs, data = list(config.runs), list(config.data)
    with locked(out), temporary_folder("report") as folder:
        refuse_existing_report(out, kind, config.overwrite)  # before the predictions are scored
        if config.predictions is not None:
            runs.append(_scored(config, folder / config.predictions.stem))
            if config.truth is not None and config.truth.is_dir():
                data.append(config.truth)
        write_report(
            runs, out, config.split, config.overwrite, data, format=kind, explain=config.explain
        )
    print(f"report: {out} ({megabytes(out.stat().st_size)}, {_NOTES[kind]})")
    return out


def _scored(config: ReportConfig, folder: Path) -> Path:
    """Score the predictions of `config` in a new folder that is laid out like a run."""
    given = settings_of(
        config, "predictions", "truth", "columns", "classes", "out_of_range", "split"
    )
    # The report has the tables, and the folder is temporary.
    with redirect_stdout(io.StringIO()):
        evaluate(EvaluateConfig(out=folder, figures=False, card=False, **given))
    return folder
