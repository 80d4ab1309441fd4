"""Figures for the paper, each a pure function from arrays to a matplotlib Figure.

`from affectnet import figures; figures.confusion_matrix(...)`: each takes arrays (in the words of
`predictions.parquet`) and returns a Figure, which a notebook shows and `save_figure` writes as PNG,
PDF or SVG. All share one style: the colours of `labels.COLOURS`, readable in print and by
colour-blind readers. Where data are missing or too few, the figure states so; nothing is raised.
Figures that need the model or a run folder are in `affectnet.report`.
"""

from typing import TYPE_CHECKING

from affectnet.lazy import lazy_names

if TYPE_CHECKING:
    from affectnet.figures.affect_error import error_by_region as error_by_region
    from affectnet.figures.affect_error import predicted_against_true as predicted_against_true
    from affectnet.figures.circumplex import affect_density as affect_density
    from affectnet.figures.circumplex import affect_scatter as affect_scatter
    from affectnet.figures.circumplex import residual_arrows as residual_arrows
    from affectnet.figures.curves import Line as Line
    from affectnet.figures.curves import affect_over_time as affect_over_time
    from affectnet.figures.curves import learning_curves as learning_curves
    from affectnet.figures.explanations import attention_overlays as attention_overlays
    from affectnet.figures.explanations import feature_map as feature_map
    from affectnet.figures.explanations import mean_attention as mean_attention
    from affectnet.figures.expression import class_distribution as class_distribution
    from affectnet.figures.expression import confusion_counts as confusion_counts
    from affectnet.figures.expression import confusion_matrix as confusion_matrix
    from affectnet.figures.expression import precision_recall_curves as precision_recall_curves
    from affectnet.figures.expression import reliability_diagram as reliability_diagram
    from affectnet.figures.expression import roc_curves as roc_curves
    from affectnet.figures.faces import gallery as gallery
    from affectnet.figures.faces import sample_grid as sample_grid
    from affectnet.figures.faces import training_batch as training_batch
    from affectnet.figures.style import known as known
    from affectnet.figures.style import save_figure as save_figure
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
