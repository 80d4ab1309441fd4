"""`affectnet report`: a report on evaluated runs as HTML, PDF or Markdown."""

from pathlib import Path

from affectnet.config import ReportConfig
from affectnet.errors import ConfigError, megabytes
from affectnet.report import write_report
from affectnet.report.output import FORMATS, format_of
from affectnet.run import locked

_NOTES = {
    "html": "opens in any browser, offline",
    "pdf": "A4",
    "md": "figures in a folder next to it",
}


def report(config: ReportConfig) -> Path:
    """Write the report on `config.runs` to `config.out`; return its path.

    Raises:
        ConfigError: `out` and `format` contradict each other, or neither specifies the format.
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
    with locked(out):
        write_report(
            config.runs,
            out,
            config.split,
            config.overwrite,
            config.data,
            format=kind,
            explain=config.explain,
        )
    print(f"report: {out} ({megabytes(out.stat().st_size)}, {_NOTES[kind]})")
    return out
