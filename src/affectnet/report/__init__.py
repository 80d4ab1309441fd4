"""Figures, tables and the self-contained page over evaluated runs.

Works on run folders and arrays alone, so also in a notebook: `write_report` makes the page,
`save_run_figures` fills a run with figures, `affectnet.report.figures` has each figure by itself.
"""

from affectnet.report.drawings import save_run_figures
from affectnet.report.page import write_report
from affectnet.report.runs import EvaluatedRun, ScoredFaces, read_run, read_runs

__all__ = [
    "EvaluatedRun",
    "ScoredFaces",
    "read_run",
    "read_runs",
    "save_run_figures",
    "write_report",
]
