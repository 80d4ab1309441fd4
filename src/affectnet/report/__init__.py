"""Reports on evaluated runs, their figures, and model cards.

Works on run folders and arrays, so also in a notebook: `write_report` writes HTML, PDF or Markdown,
`save_run_figures` all figures of a run, `write_card` its model card. `grad_cam` and `embed` need a
model. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from affectnet.lazy import lazy_names

if TYPE_CHECKING:
    from affectnet.report.card import model_card as model_card
    from affectnet.report.card import write_card as write_card
    from affectnet.report.embedding import embed as embed
    from affectnet.report.embedding import principal_components as principal_components
    from affectnet.report.embedding import split_features as split_features
    from affectnet.report.gradcam import grad_cam as grad_cam
    from affectnet.report.gradcam import mean_maps as mean_maps
    from affectnet.report.model_figures import figures_of_model as figures_of_model
    from affectnet.report.output import save_run_figures as save_run_figures
    from affectnet.report.output import write_report as write_report
    from affectnet.report.run_figures import RunFigure as RunFigure
    from affectnet.report.run_figures import figures_of_run as figures_of_run
    from affectnet.report.runs import EvaluatedRun as EvaluatedRun
    from affectnet.report.runs import ScoredFaces as ScoredFaces
    from affectnet.report.runs import read_run as read_run
    from affectnet.report.runs import read_runs as read_runs
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
