"""The torchmetrics classes equal the plain metrics of all faces together."""

import numpy as np
import pytest
import torch

from affectnet.evaluation import metrics as of_confusion
from affectnet.evaluation.metric_vectors import LABEL_METRICS
from affectnet.evaluation.metrics import (
    AFFECT_METRICS,
    ZERO_RULES,
    affect_metrics,
    confusion_matrix,
)
from affectnet.evaluation.torchmetrics import AffectMetrics, ExpressionMetrics


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(300, seed=61)


def test_expression_over_batches(faces):
    metric = ExpressionMetrics()
    y, p = torch.tensor(faces.expression), torch.tensor(faces.probabilities)
    y[3] = -1
    for rows in torch.arange(300).split(64):
        metric.update(p[rows].log(), y[rows])
    found = metric.compute()
    known = y >= 0
    assert tuple(found) == LABEL_METRICS
    matrix = confusion_matrix(y[known], p.argmax(dim=1)[known], 8)
    for name in LABEL_METRICS:
        expected = getattr(of_confusion, name)(matrix)
        assert found[name].item() == pytest.approx(expected, abs=1e-12)
    metric.reset()
    metric.update(torch.tensor([1]), torch.tensor([1]))
    assert metric.compute()["cohen_kappa"].isnan()


@pytest.mark.parametrize("zero_rule", ZERO_RULES)
def test_affect_over_batches(faces, zero_rule):
    metric = AffectMetrics(zero_rule)
    x, y = torch.tensor(faces.valence), torch.tensor(faces.valence_pred)
    x[7] = float("nan")
    for rows in torch.arange(300).split(64):
        metric.update(y[rows], x[rows])
    found = metric.compute()
    known = ~x.isnan()
    expected = affect_metrics(x[known], y[known], zero_rule)
    for name in AFFECT_METRICS:
        assert found[name].item() == pytest.approx(expected[name], abs=1e-9)


def test_a_constant_prediction():
    metric = AffectMetrics()
    metric.update(torch.full((50,), 0.3), torch.linspace(-1, 1, 50))
    found = metric.compute()
    assert found["ccc"].item() == 0
    assert found["corr"].isnan()


def test_states_of_two_processes_are_summed(faces):
    x, y = torch.tensor(faces.arousal), torch.tensor(faces.arousal_pred)
    whole, *parts = (AffectMetrics() for _ in range(3))
    whole.update(y, x)
    for part, rows in zip(parts, torch.arange(300).split(150), strict=True):
        part.update(y[rows], x[rows])
    assert whole._reductions["sums"] is not None
    together = whole._reductions["sums"](torch.stack([part.sums for part in parts]))
    assert together == pytest.approx(whole.sums, rel=1e-12)


def test_wrong_zero_rule():
    with pytest.raises(ValueError, match="sign, positive, drop"):
        AffectMetrics("never")


def test_gradients_and_single_precision_do_not_matter(faces):
    metric = AffectMetrics()
    y = torch.tensor(faces.valence_pred, dtype=torch.float32, requires_grad=True)
    metric.update(y, torch.tensor(faces.valence, dtype=torch.float32))
    single = faces.valence.astype(np.float32), faces.valence_pred.astype(np.float32)
    expected = affect_metrics(*single)["ccc"]
    assert metric.compute()["ccc"].item() == pytest.approx(expected, abs=1e-9)
