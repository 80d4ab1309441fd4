"""Point figures: examples of the docstrings, torchmetrics, and what is undefined."""

import doctest

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
import torchmetrics.functional.classification as tmc

import affectnet.evaluation.calibration
import affectnet.evaluation.metrics
import affectnet.evaluation.scores
from affectnet.evaluation import point_metrics as metrics
from affectnet.evaluation.metrics import ZERO_RULES
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

# torchmetrics counts in single precision.
SINGLE = 1e-6


@pytest.mark.parametrize(
    "module",
    [
        metrics,
        affectnet.evaluation.metrics,
        affectnet.evaluation.calibration,
        affectnet.evaluation.scores,
    ],
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(800, seed=11)


def test_functions_equal_the_reference(faces, reference_expression, reference_affect):
    y, p = faces.expression, faces.probabilities
    want = reference_expression(y, faces.preds, p)
    for name in (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_weighted",
        "cohen_kappa",
        "krippendorff_alpha",
    ):
        assert getattr(metrics, name)(y, faces.preds) == pytest.approx(want[name], abs=1e-12)
    for name in ("auc_roc_macro", "auc_pr_macro", "log_loss"):
        assert getattr(metrics, name)(y, p) == pytest.approx(want[name], abs=1e-12)
    assert metrics.top_k_accuracy(y, p) == pytest.approx(want["top2_accuracy"], abs=1e-12)
    assert metrics.expected_calibration_error(y, p) == pytest.approx(want["ece"], abs=1e-12)
    for zero_rule in ZERO_RULES:
        assert metrics.sagr(faces.valence, faces.valence_pred, zero_rule) == pytest.approx(
            reference_affect(faces.valence, faces.valence_pred, zero_rule)["sagr"], abs=1e-12
        )
    skew = metrics.skew_normalised(y, faces.preds, p)
    assert len(skew) == 6
    for name, value in skew.items():
        if name != "krippendorff_alpha":
            assert value == pytest.approx(want[f"skew_normalised/{name}"], abs=1e-12)


def test_per_class_figures_equal_the_reference(faces, reference_expression):
    y, p = faces.expression, faces.probabilities
    want = reference_expression(y, faces.preds, p)
    found = {
        "precision": metrics.precision_per_class(y, faces.preds),
        "recall": metrics.recall_per_class(y, faces.preds),
        "f1": metrics.f1_per_class(y, faces.preds),
        "auc_roc": metrics.auc_roc_per_class(y, p),
        "auc_pr": metrics.auc_pr_per_class(y, p),
    }
    for figure, values in found.items():
        expected = [want[f"per_class/{name}/{figure}"] for name in EXPRESSIONS]
        assert values == pytest.approx(expected, abs=1e-12)


def test_expression_equals_torchmetrics(faces):
    y, p = torch.tensor(faces.expression), torch.tensor(faces.probabilities)
    preds, given = p.argmax(dim=1), {"num_classes": 8}
    f1s = tmc.multiclass_f1_score(preds, y, average=None, **given).tolist()
    aucs = tmc.multiclass_auroc(p, y, average=None, **given).tolist()
    aps = tmc.multiclass_average_precision(p, y, average=None, **given).tolist()
    assert metrics.f1_per_class(y, preds) == pytest.approx(f1s, abs=SINGLE)
    assert metrics.auc_roc_per_class(y, p) == pytest.approx(aucs, abs=SINGLE)
    assert metrics.auc_pr_per_class(y, p) == pytest.approx(aps, abs=SINGLE)
    assert metrics.accuracy(y, preds) == pytest.approx(
        tmc.multiclass_accuracy(preds, y, average="micro", **given).item(), abs=SINGLE
    )
    assert metrics.balanced_accuracy(y, preds) == pytest.approx(
        tmc.multiclass_accuracy(preds, y, average="macro", **given).item(), abs=SINGLE
    )
    assert metrics.top_k_accuracy(y, p) == pytest.approx(
        tmc.multiclass_accuracy(p, y, average="micro", top_k=2, **given).item(), abs=SINGLE
    )
    assert metrics.cohen_kappa(y, preds) == pytest.approx(
        tmc.multiclass_cohen_kappa(preds, y, **given).item(), abs=SINGLE
    )
    assert metrics.expected_calibration_error(y, p) == pytest.approx(
        tmc.multiclass_calibration_error(p, y, n_bins=15, norm="l1", **given).item(), abs=SINGLE
    )


def test_affect_equals_torchmetrics(faces):
    x, y = torch.tensor(faces.arousal), torch.tensor(faces.arousal_pred)
    assert metrics.rmse(x, y) == pytest.approx(tm.mean_squared_error(y, x, squared=False).item())
    assert metrics.mae(x, y) == pytest.approx(tm.mean_absolute_error(y, x).item(), abs=1e-9)
    assert metrics.corr(x, y) == pytest.approx(tm.pearson_corrcoef(y, x).item(), abs=1e-9)
    # torchmetrics divides by n - 1 in the variances but not in the gap of the means.
    n = len(x)
    gap = float((x.mean() - y.mean()) ** 2)
    spread = float(x.var() + y.var())
    theirs = tm.concordance_corrcoef(y, x).item() * (spread + gap) / (spread + gap * n / (n - 1))
    assert metrics.ccc(x, y) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("figure", "truth", "preds"),
    [
        (metrics.cohen_kappa, [1, 1], [1, 1]),
        (metrics.krippendorff_alpha, [1], [1]),
        (metrics.auc_roc_macro, [0], [[0.5, 0.5]]),
        (metrics.corr, [0.1, 0.2], [0.3, 0.3]),
        (metrics.corr, [0.1], [0.3]),
        (metrics.ccc, [0.2, 0.2], [0.2, 0.2]),
        (metrics.accuracy, [], []),
        (metrics.rmse, [], []),
        (metrics.log_loss, [], np.empty((0, 8))),
        (metrics.auc_pr_macro, [], np.empty((0, 8))),
        (metrics.expected_calibration_error, [], np.empty((0, 8))),
    ],
)
def test_undefined_is_none(figure, truth, preds):
    assert figure(truth, preds) is None


def test_ccc_is_zero_where_only_one_varies():
    assert metrics.ccc([0.1, 0.5], [0.3, 0.3]) == 0.0


def test_zero_rules_on_zeros():
    truth, preds = [0.0, 0.0, 0.4, -0.4], [0.0, 0.2, 0.0, -0.1]
    assert metrics.sagr(truth, preds, "sign") == 0.5
    assert metrics.sagr(truth, preds, "positive") == 1.0
    assert metrics.sagr(truth, preds, "drop") == 0.5
    assert metrics.sagr([0.0], [0.3], "drop") is None


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    curve = metrics.reliability_curve([0, 0, 0], [[0.8, 0.2], [0.81, 0.19], [1.0, 0.0]], bins=5)
    assert [row["n"] for row in curve] == [0, 0, 0, 1, 2]
    assert curve[3]["confidence"] == pytest.approx(0.8)
    assert curve[0]["confidence"] is None


def test_agreement_of_prototypes_with_themselves():
    points = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    assert metrics.expression_affect_agreement(range(8), points[:, 0], points[:, 1]) == 1.0
    assert metrics.expression_affect_agreement([2], [0.81], [0.51]) == 0.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="same faces"):
        metrics.accuracy([0, 1], [0])
    with pytest.raises(ValueError, match=r"\(n, K\)"):
        metrics.log_loss([0, 1], [0.5, 0.5])
