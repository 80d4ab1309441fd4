"""Temperature scaling and ensembles."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from affectnet.errors import DataError
from affectnet.evaluation.calibration import (
    apply_temperature,
    ensemble,
    fit_temperature,
    log_probabilities,
)
from affectnet.evaluation.metrics import Calibration
from affectnet.evaluation.predictions import Predictions


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_of_sampled_labels_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 8)) * 2
    draw = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(logits, draw) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_has_a_lower_log_loss(make_faces):
    faces = make_faces(1000, seed=51)
    logits = log_probabilities(faces.probabilities) * 2.5
    best = fit_temperature(logits, faces.expression)
    losses = {
        t: log_loss(faces.expression, softmax(logits / t, axis=1), labels=range(8))
        for t in (best, best * 0.98, best * 1.02, 1.0)
    }
    assert min(losses, key=losses.get) == best
    weights = np.ones((len(faces.expression), 1))
    before = Calibration(faces.expression, softmax(logits, axis=1))(weights)[0]
    after = Calibration(faces.expression, softmax(logits / best, axis=1))(weights)[0]
    assert after < before / 2


def test_probabilities_are_as_good_as_logits(make_faces):
    faces = make_faces(300, seed=52)
    logits = log_softmax(log_probabilities(faces.probabilities) * 2 + 5, axis=1)
    p = softmax(logits, axis=1)
    assert fit_temperature(log_probabilities(p), faces.expression) == pytest.approx(
        fit_temperature(logits, faces.expression), rel=1e-6
    )
    assert apply_temperature(p, 1.7) == pytest.approx(softmax(logits / 1.7, axis=1), abs=1e-12)
    assert (apply_temperature(p, 5.0).argmax(axis=1) == p.argmax(axis=1)).all()
    assert apply_temperature([[1.0, 0.0]], 1.0) == pytest.approx(np.array([[1.0, 0.0]]), abs=1e-12)


def test_faces_without_expression_do_not_count(make_faces):
    faces = make_faces(300, seed=53)
    y = faces.expression.copy()
    y[:100] = -1
    logits = log_probabilities(faces.probabilities)
    assert fit_temperature(logits, y) == fit_temperature(logits[100:], y[100:])
    with pytest.raises(DataError, match="there are none"):
        fit_temperature(logits, np.full(300, -1))


def member(faces, ids, **changes):
    fields = {
        "ids": ids,
        "expression": np.full(len(ids), -1),
        "valence": faces.valence_pred,
        "arousal": faces.arousal_pred,
        "probabilities": faces.probabilities,
    }
    return Predictions(**fields | changes)


def test_an_ensemble_is_the_mean_on_common_faces(make_faces):
    one, two = make_faces(30, seed=54), make_faces(30, seed=55)
    ids = [str(i) for i in range(30)]
    turned = ids[::-1][:25]
    mean = ensemble(
        [
            member(one, ids),
            member(two, ids).rows(np.array([int(i) for i in turned])),
        ]
    )
    assert sorted(mean.ids) == sorted(turned)
    rows = [int(i) for i in mean.ids]
    expected = (one.probabilities + two.probabilities)[rows] / 2
    assert mean.probabilities == pytest.approx(expected)
    assert (mean.expression == expected.argmax(axis=1)).all()
    assert mean.valence == pytest.approx((one.valence_pred + two.valence_pred)[rows] / 2)


def test_an_ensemble_of_one_is_itself(make_faces):
    faces = make_faces(10, seed=56)
    given = member(faces, [str(i) for i in range(10)])
    mean = ensemble([given])
    assert (mean.probabilities == given.probabilities).all()
    assert (mean.arousal == given.arousal).all()


def test_valence_and_arousal_alone_have_a_mean(make_faces):
    faces = make_faces(10, seed=57)
    given = member(faces, [str(i) for i in range(10)], probabilities=None)
    assert ensemble([given, given]).probabilities is None
    assert (ensemble([given, given]).valence == given.valence).all()


def test_ensembles_without_a_mean_are_refused(make_faces):
    faces = make_faces(10, seed=58)
    ids = [str(i) for i in range(10)]
    given = member(faces, ids)
    with pytest.raises(DataError, match="no id in common"):
        ensemble([given, member(faces, [f"x{i}" for i in range(10)])])
    with pytest.raises(DataError, match="not only labels"):
        ensemble([given, member(faces, ids, probabilities=None, expression=faces.expression)])
    with pytest.raises(DataError, match="different classes"):
        ensemble([given, member(faces, ids, uncovered=("contempt",))])
    with pytest.raises(DataError, match="at least one"):
        ensemble([])
