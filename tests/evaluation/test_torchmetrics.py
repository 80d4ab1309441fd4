"""The torchmetrics classes equal the plain functions on all faces together."""

import numpy as np
import pytest
import torch

from affectnet.evaluation import point_metrics as metrics
from affectnet.evaluation.metric_vectors import LABEL_FIGURES
from affectnet.evaluation.metrics import AFFECT_FIGURES, ZERO_RULES
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
    assert tuple(found) == LABEL_FIGURES
    for name in LABEL_FIGURES:
        expected = getattr(metrics, name)(y[known], p.argmax(dim=1)[known])
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
    for name in AFFECT_FIGURES:
        settings = {"zero_rule": zero_rule} if name == "sagr" else {}
        expected = getattr(metrics, name)(x[known], y[known], **settings)
        assert found[name].item() == pytest.approx(expected, abs=1e-9)


def test_a_constant_prediction():
    metric = AffectMetrics()
    metric.update(torch.full((50,), 0.3), torch.linspace(-1, 1, 50))
    found = metric.compute()
    assert found["ccc"].item() == 0
    assert found["corr"].isnan()


def test_two_processes_add_up(faces):
    """What torchmetrics does between processes: the states are summed."""
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
    expected = metrics.ccc(faces.valence.astype(np.float32), faces.valence_pred.astype(np.float32))
    assert metric.compute()["ccc"].item() == pytest.approx(expected, abs=1e-9)
