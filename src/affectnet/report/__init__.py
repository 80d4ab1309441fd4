"""Reports on evaluated runs, their figures, and model cards.

Works on run folders and arrays, so also in a notebook: `write_report` writes HTML, PDF or
Markdown, `save_run_figures` all figures of a run, `write_card` its model card. Single figures are
in `affectnet.figures`.
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
