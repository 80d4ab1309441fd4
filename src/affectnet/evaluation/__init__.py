"""Scoring without torch: `evaluate(truth, preds)` computes every AffectNet metric."""

from typing import TYPE_CHECKING

from affectnet.lazy import lazy_names

if TYPE_CHECKING:
    from affectnet.evaluation.comparison import Comparison as Comparison
    from affectnet.evaluation.comparison import compare as compare
    from affectnet.evaluation.prediction_files import read_predictions as read_predictions
    from affectnet.evaluation.prediction_files import read_truth as read_truth
    from affectnet.evaluation.prediction_files import write_predictions as write_predictions
    from affectnet.evaluation.predictions import Predictions as Predictions
    from affectnet.evaluation.predictions import Truth as Truth
    from affectnet.evaluation.predictions import predictions_table as predictions_table
    from affectnet.evaluation.scores import Scores as Scores
    from affectnet.evaluation.scores import evaluate as evaluate
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
