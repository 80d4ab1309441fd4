"""Metrics of all faces: docstring examples, torchmetrics as second reference, undefined ones."""

import doctest

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
import torchmetrics.functional.classification as tmc

import affectnet.evaluation.calibration
import affectnet.evaluation.scores
from affectnet.evaluation import metrics
from affectnet.evaluation.bootstrap import point
from affectnet.evaluation.metric_vectors import ExpressionVector
from affectnet.evaluation.metrics import Calibration, affect_metrics, nearest_expression
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

# torchmetrics counts in single precision.
SINGLE = 1e-6


@pytest.mark.parametrize(
    "module", [metrics, affectnet.evaluation.calibration, affectnet.evaluation.scores]
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(800, seed=11)


def expression_metrics(truth, preds, probabilities=None, classes=EXPRESSIONS):
    p = None if probabilities is None else np.asarray(probabilities, float)
    vector = ExpressionVector(np.array(truth, int), np.array(preds, int), p, classes)
    return dict(zip(vector.names, point(vector, len(truth)), strict=True))


def test_expression_equals_torchmetrics(faces):
    y, p = torch.tensor(faces.expression), torch.tensor(faces.probabilities)
    preds, given = p.argmax(dim=1), {"num_classes": 8}
    found = expression_metrics(faces.expression, faces.preds, faces.probabilities)
    for name, values in {
        "f1": tmc.multiclass_f1_score(preds, y, average=None, **given),
        "auc_roc": tmc.multiclass_auroc(p, y, average=None, **given),
        "auc_pr": tmc.multiclass_average_precision(p, y, average=None, **given),
    }.items():
        ours = [found[f"per_class/{c}/{name}"] for c in EXPRESSIONS]
        assert ours == pytest.approx(values.tolist(), abs=SINGLE)
    expected = {
        "accuracy": tmc.multiclass_accuracy(preds, y, average="micro", **given),
        "balanced_accuracy": tmc.multiclass_accuracy(preds, y, average="macro", **given),
        "top2_accuracy": tmc.multiclass_accuracy(p, y, average="micro", top_k=2, **given),
        "cohen_kappa": tmc.multiclass_cohen_kappa(preds, y, **given),
        "ece": tmc.multiclass_calibration_error(p, y, n_bins=15, norm="l1", **given),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), abs=SINGLE), name


def test_affect_equals_torchmetrics(faces):
    x, y = torch.tensor(faces.arousal), torch.tensor(faces.arousal_pred)
    found = affect_metrics(faces.arousal, faces.arousal_pred)
    assert found["rmse"] == pytest.approx(tm.mean_squared_error(y, x, squared=False).item())
    assert found["mae"] == pytest.approx(tm.mean_absolute_error(y, x).item(), abs=1e-9)
    assert found["corr"] == pytest.approx(tm.pearson_corrcoef(y, x).item(), abs=1e-9)
    # torchmetrics divides by n - 1 in the variances but not in the gap of the means.
    n = len(x)
    gap = float((x.mean() - y.mean()) ** 2)
    spread = float(x.var() + y.var())
    theirs = tm.concordance_corrcoef(y, x).item() * (spread + gap) / (spread + gap * n / (n - 1))
    assert found["ccc"] == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "truth", "probabilities"),
    [
        ("cohen_kappa", [1, 1], [[0, 1], [0, 1]]),
        ("krippendorff_alpha", [1], [[0, 1]]),
        ("auc_roc_macro", [0], [[0.5, 0.5]]),
        ("accuracy", [], np.empty((0, 2))),
        ("log_loss", [], np.empty((0, 2))),
        ("auc_pr_macro", [], np.empty((0, 2))),
        ("ece", [], np.empty((0, 2))),
    ],
)
def test_undefined_metrics_of_expression_are_nan(name, truth, probabilities):
    preds = np.argmax(probabilities, axis=1)
    assert np.isnan(expression_metrics(truth, preds, probabilities, ("a", "b"))[name])


@pytest.mark.parametrize(
    ("name", "truth", "preds"),
    [
        ("corr", [0.1, 0.2], [0.3, 0.3]),
        ("corr", [0.1], [0.3]),
        ("ccc", [0.2, 0.2], [0.2, 0.2]),
        ("rmse", [], []),
    ],
)
def test_undefined_metrics_of_affect_are_none(name, truth, preds):
    assert affect_metrics(truth, preds)[name] is None


def test_ccc_is_zero_where_only_one_varies():
    assert affect_metrics([0.1, 0.5], [0.3, 0.3])["ccc"] == 0.0


def test_zero_rules_on_zeros():
    truth, preds = [0.0, 0.0, 0.4, -0.4], [0.0, 0.2, 0.0, -0.1]
    for rule, expected in {"sign": 0.5, "positive": 1.0, "drop": 0.5}.items():
        assert affect_metrics(truth, preds, rule)["sagr"] == expected
    assert affect_metrics([0.0], [0.3], "drop")["sagr"] is None


def test_confusion_matrix_counts_true_rows_and_predicted_columns():
    assert metrics.confusion_matrix([0, 2, 2], [1, 2, 0], 3).tolist() == [
        [0, 1, 0],
        [0, 0, 0],
        [1, 0, 1],
    ]


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    probabilities = np.array([[0.8, 0.2], [0.81, 0.19], [1.0, 0.0]])
    curve = Calibration(np.zeros(3, int), probabilities, bins=5).curve()
    assert [row["n"] for row in curve] == [0, 0, 0, 1, 2]
    assert curve[3]["confidence"] == pytest.approx(0.8)
    assert curve[0]["confidence"] is None


def test_nearest_expression_of_the_points_themselves():
    points = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    assert nearest_expression(points[:, 0], points[:, 1]).tolist() == list(range(8))
    happiness = np.array([0.8]), np.array([0.5])
    assert EXPRESSIONS[nearest_expression(*happiness)[0]] == "happiness"
