"""Scoring without torch: `evaluate(truth, preds)` computes every AffectNet metric."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affectnet.evaluation.comparison import Comparison as Comparison
    from affectnet.evaluation.comparison import compare as compare
    from affectnet.evaluation.prediction_files import predictions_table as predictions_table
    from affectnet.evaluation.prediction_files import read_predictions as read_predictions
    from affectnet.evaluation.prediction_files import read_truth as read_truth
    from affectnet.evaluation.prediction_files import write_predictions as write_predictions
    from affectnet.evaluation.predictions import Predictions as Predictions
    from affectnet.evaluation.predictions import Truth as Truth
    from affectnet.evaluation.scores import Scores as Scores
    from affectnet.evaluation.scores import evaluate as evaluate

_HOME = {
    "Comparison": "comparison",
    "Predictions": "predictions",
    "Scores": "scores",
    "Truth": "predictions",
    "compare": "comparison",
    "evaluate": "scores",
    "predictions_table": "prediction_files",
    "read_predictions": "prediction_files",
    "read_truth": "prediction_files",
    "write_predictions": "prediction_files",
}
__all__ = [
    "Comparison",
    "Predictions",
    "Scores",
    "Truth",
    "compare",
    "evaluate",
    "predictions_table",
    "read_predictions",
    "read_truth",
    "write_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
