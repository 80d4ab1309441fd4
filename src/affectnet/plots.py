"""Every figure by its name: `from affectnet import plots; plots.confusion_matrix(...)`.

Each takes arrays (in the words of `predictions.parquet`) and returns a matplotlib Figure, which a
notebook shows and `save_figure` writes as PNG, PDF or SVG. What belongs to them is here as well:
`grad_cam` and `mean_maps`, `embed`, `principal_components` and `split_features`, and
`figures_of_model`, which draws all that needs the trained model. A part is loaded when it is asked
for: no torch for a confusion matrix.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from affectnet.figures import (
        affect_density,
        affect_scatter,
        class_distribution,
        confusion_counts,
        confusion_matrix,
        error_by_region,
        gallery,
        known,
        learning_curves,
        precision_recall_curves,
        predicted_against_true,
        reliability_diagram,
        residual_arrows,
        roc_curves,
        sample_grid,
        save_figure,
    )
    from affectnet.figures.curves import Line, affect_over_time
    from affectnet.figures.explanations import attention_overlays, feature_map, mean_attention
    from affectnet.report.embedding import embed, principal_components, split_features
    from affectnet.report.gradcam import grad_cam, mean_maps
    from affectnet.report.model_figures import figures_of_model
    from affectnet.report.output import save_run_figures
    from affectnet.report.run_figures import RunFigure, figures_of_run

_HOMES: Final = {
    "affectnet.figures": (
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
    ),
    "affectnet.figures.explanations": ("attention_overlays", "feature_map", "mean_attention"),
    "affectnet.figures.curves": ("Line", "affect_over_time"),
    "affectnet.report.gradcam": ("grad_cam", "mean_maps"),
    "affectnet.report.embedding": ("embed", "principal_components", "split_features"),
    "affectnet.report.run_figures": ("RunFigure", "figures_of_run"),
    "affectnet.report.model_figures": ("figures_of_model",),
    "affectnet.report.output": ("save_run_figures",),
}
_HOME: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Line",
    "RunFigure",
    "affect_density",
    "affect_over_time",
    "affect_scatter",
    "attention_overlays",
    "class_distribution",
    "confusion_counts",
    "confusion_matrix",
    "embed",
    "error_by_region",
    "feature_map",
    "figures_of_model",
    "figures_of_run",
    "gallery",
    "grad_cam",
    "known",
    "learning_curves",
    "mean_attention",
    "mean_maps",
    "precision_recall_curves",
    "predicted_against_true",
    "principal_components",
    "reliability_diagram",
    "residual_arrows",
    "roc_curves",
    "sample_grid",
    "save_figure",
    "save_run_figures",
    "split_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'affectnet.plots' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
