"""The module's schedule, seeds and epoch metrics."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, root_mean_squared_error

from affectnet.training.distributed import derived_seed
from affectnet.training.module import epoch_metrics
from affectnet.training.optimisation import Optimisation


def test_step_schedule_is_steplr() -> None:
    schedule = Optimisation(schedule="step", step_size=40, gamma=0.1, warmup_epochs=0)
    factors = [schedule.factor(epoch, 100) for epoch in (0, 39.9, 40, 79, 80)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    schedule = Optimisation(schedule="cosine", warmup_epochs=2)
    assert schedule.factor(0, 10) < 0.01
    assert schedule.factor(1, 10) == pytest.approx(0.5, abs=1e-3)
    assert schedule.factor(2, 10) == pytest.approx(1.0)
    assert schedule.factor(6, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0, abs=1e-12)
    whole = [schedule.factor(epoch / 10, 10) for epoch in range(20, 101)]
    assert all(a >= b for a, b in pairwise(whole))


def test_constant_schedule() -> None:
    schedule = Optimisation(schedule="constant", warmup_epochs=0)
    assert {schedule.factor(epoch, 10) for epoch in range(10)} == {1.0}


def test_derived_seeds_differ_and_repeat() -> None:
    seeds = {derived_seed(s, "augment", e, b) for s in range(3) for e in range(3) for b in range(3)}
    assert len(seeds) == 27
    assert derived_seed(0, "augment", 1, 2) == derived_seed(0, "augment", 1, 2)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_epoch_metrics_equal_the_references() -> None:
    rng = np.random.default_rng(0)
    n = 400
    rows = {
        "loss": rng.random(10) * 40,
        "rows": np.full(10, 40),
        "expression": rng.integers(-1, 8, n),
        "expression_pred": rng.integers(0, 8, n),
        "valence": rng.uniform(-1, 1, n),
        "arousal": rng.uniform(-1, 1, n),
        "valence_pred": rng.uniform(-1, 1, n),
        "arousal_pred": rng.uniform(-1, 1, n),
    }
    rows["valence"][::7] = np.nan
    metrics = epoch_metrics(rows)
    labelled = rows["expression"] >= 0
    truth, preds = rows["expression"][labelled], rows["expression_pred"][labelled]
    assert metrics["loss"] == pytest.approx(rows["loss"].sum() / 400)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, preds))
    assert metrics["f1_macro"] == pytest.approx(f1_score(truth, preds, average="macro"))
    known = ~np.isnan(rows["valence"])
    x, y = rows["valence"][known], rows["valence_pred"][known]
    assert metrics["valence_rmse"] == pytest.approx(root_mean_squared_error(x, y))
    ccc = 2 * pearsonr(x, y)[0] * x.std() * y.std() / (x.var() + y.var() + (x - y).mean() ** 2)
    assert metrics["valence_ccc"] == pytest.approx(ccc)


def test_epoch_metrics_leave_out_what_is_missing() -> None:
    nothing = np.full(4, np.nan)
    metrics = epoch_metrics(
        {
            "loss": np.array([2.0]),
            "rows": np.array([4]),
            "expression": np.full(4, -1),
            "expression_pred": np.zeros(4, int),
            "valence": nothing,
            "valence_pred": np.zeros(4),
            "arousal": nothing,
            "arousal_pred": np.zeros(4),
        }
    )
    assert metrics == {"loss": 0.5}
    assert not any(math.isnan(value) for value in metrics.values())
