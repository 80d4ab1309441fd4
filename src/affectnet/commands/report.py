"""`affectnet report`: evaluated runs, one self-contained HTML page."""

from pathlib import Path

from affectnet.config import ReportConfig
from affectnet.report import write_report


def report(config: ReportConfig) -> Path:
    """Write the page over `config.runs` to `config.out`; return where it is.

    Raises:
        RunError: a run is missing or not evaluated, or the page exists and --overwrite was not
            given.
    """
    page = write_report(config.runs, config.out, config.split, config.overwrite, config.data)
    size = page.stat().st_size / 1e6
    print(f"report: {page} ({size:.1f} MB, opens in any browser, offline)")
    return page
