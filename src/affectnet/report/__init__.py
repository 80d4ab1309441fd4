"""Figures, tables and the report over evaluated runs.

Works on run folders and arrays alone, so also in a notebook: `write_report` makes the page, the PDF
or the Markdown, `save_run_figures` fills a run with figures, `write_card` writes its model card,
`affectnet.figures` has each figure by itself.
"""

from affectnet.report.card import model_card, write_card
from affectnet.report.output import save_run_figures, write_report
from affectnet.report.runs import EvaluatedRun, ScoredFaces, read_run, read_runs

__all__ = [
    "EvaluatedRun",
    "ScoredFaces",
    "model_card",
    "read_run",
    "read_runs",
    "save_run_figures",
    "write_card",
    "write_report",
]
