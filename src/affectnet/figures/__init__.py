"""Figures for the paper, each a pure function from arrays to a matplotlib Figure.

All share one look (`style`): the colours of `labels.COLOURS`, readable in print and by
colour-blind readers. What is missing from the arrays is said in the figure; nothing raises for
being too little.
"""

from affectnet.figures.affect_error import error_by_region, predicted_against_true
from affectnet.figures.circumplex import affect_density, affect_scatter, residual_arrows
from affectnet.figures.curves import learning_curves
from affectnet.figures.expression import class_distribution, confusion_counts, confusion_matrix
from affectnet.figures.faces import gallery, sample_grid
from affectnet.figures.probability import precision_recall_curves, reliability_diagram, roc_curves
from affectnet.figures.style import known, save_figure

__all__ = [
    "affect_density",
    "affect_scatter",
    "class_distribution",
    "confusion_counts",
    "confusion_matrix",
    "error_by_region",
    "gallery",
    "known",
    "learning_curves",
    "precision_recall_curves",
    "predicted_against_true",
    "reliability_diagram",
    "residual_arrows",
    "roc_curves",
    "sample_grid",
    "save_figure",
]
