"""Every metric of every resample equals the reference packages on the resampled faces, to 1e-9."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from affectnet.evaluation.bootstrap import draw_counts, point
from affectnet.evaluation.metric_vectors import AffectVector, ExpressionVector
from affectnet.evaluation.metrics import AFFECT_METRICS, ZERO_RULES
from affectnet.labels import EXPRESSIONS

TOLERANCE = 1e-9


def assert_same(names, values, expected):
    for name, value in zip(names, values, strict=True):
        if name not in expected or np.isinf(expected[name]):
            continue
        want = expected[name]
        assert np.isnan(value) == np.isnan(want), f"{name}: {value} instead of {want}"
        if not np.isnan(want):
            assert abs(value - want) <= TOLERANCE, f"{name}: {value} instead of {want}"


def check(y, p, reference, resamples=4):
    vector = ExpressionVector(y, p.argmax(axis=1), p, EXPRESSIONS)
    assert_same(vector.names, point(vector, len(y)), reference(y, p.argmax(axis=1), p))
    weights = np.concatenate(list(draw_counts(len(y), resamples, seed=1)), axis=1)
    values = vector(weights)
    for r in range(resamples):
        rows = np.repeat(np.arange(len(y)), weights[:, r].astype(int))
        expected = reference(y[rows], p[rows].argmax(axis=1), p[rows])
        assert_same(vector.names, values[:, r], expected)


@pytest.mark.parametrize("places", [None, 2, 1])
def test_realistic_predictions(make_faces, reference_expression, places):
    faces = make_faces(600, seed=3, places=places)
    check(faces.expression, faces.probabilities, reference_expression)


def test_equal_classes(make_faces, reference_expression):
    faces = make_faces(400, seed=5, skewed=False)
    check(faces.expression, faces.probabilities, reference_expression)


def test_class_absent_from_the_truth(make_faces, reference_expression):
    faces = make_faces(200, seed=4)
    check(np.minimum(faces.expression, 5), faces.probabilities, reference_expression)


def test_constant_prediction(make_faces, reference_expression):
    y = make_faces(100, seed=6).expression
    check(y, np.tile([0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], (100, 1)), reference_expression)


def test_all_of_one_class(reference_expression):
    y = np.full(20, 3)
    check(y, np.tile(np.eye(8)[3], (20, 1)), reference_expression)


def test_one_face(reference_expression):
    check(np.array([2]), np.full((1, 8), 0.125), reference_expression, resamples=1)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_wild_predictions(reference_expression, data):
    n = data.draw(st.integers(1, 30))
    y = data.draw(arrays(np.int64, n, elements=st.integers(0, 7)))
    # A coarse grid, so that ties between faces and between classes are the rule.
    p = data.draw(arrays(np.int64, (n, 8), elements=st.integers(1, 4))).astype(float)
    p /= p.sum(axis=1, keepdims=True)
    check(y, p, reference_expression, resamples=2)


@pytest.mark.parametrize("zero_rule", ZERO_RULES)
def test_affect_of_every_resample(make_faces, reference_affect, zero_rule):
    faces = make_faces(500, seed=7)
    x, y = faces.valence, faces.valence_pred
    vector = AffectVector(x, y, "valence", zero_rule)
    weights = np.concatenate(list(draw_counts(500, 20, seed=2)), axis=1)
    values = vector(weights)
    for r in range(20):
        rows = np.repeat(np.arange(500), weights[:, r].astype(int))
        assert_same(AFFECT_METRICS, values[:, r], reference_affect(x[rows], y[rows], zero_rule))


AFFECT_VALUES = st.one_of(
    st.floats(-1, 1, width=32, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6),
    st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]),
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_wild_affect(reference_affect, data):
    n = data.draw(st.integers(1, 12))
    x = data.draw(arrays(np.float64, n, elements=AFFECT_VALUES))
    y = data.draw(arrays(np.float64, n, elements=AFFECT_VALUES))
    zero_rule = data.draw(st.sampled_from(ZERO_RULES))
    vector = AffectVector(x, y, "valence", zero_rule)
    weights = np.concatenate([np.ones((n, 1)), *draw_counts(n, 4, seed=3)], axis=1)
    values = vector(weights)
    for r in range(weights.shape[1]):
        rows = np.repeat(np.arange(n), weights[:, r].astype(int))
        expected = reference_affect(x[rows], y[rows], zero_rule)
        # Where values differ only in their last digits no two formulas agree on a correlation.
        if 0 < np.ptp(x[rows]) < 1e-4 or 0 < np.ptp(y[rows]) < 1e-4:
            continue
        assert_same(AFFECT_METRICS, values[:, r], expected)


def test_a_resample_without_the_one_face_that_differs(reference_affect):
    """A lone outlier: resamples without it are constant, and rounding must not hide that."""
    y = np.full(50, 0.1)
    y[7] = 0.9
    x = np.linspace(-1, 1, 50)
    vector = AffectVector(x, y, "arousal")
    weights = np.concatenate(list(draw_counts(50, 30, seed=4)), axis=1)
    values = vector(weights)
    assert np.isnan(values[2]).any()
    assert not np.isnan(values[2]).all()
    for r in range(30):
        rows = np.repeat(np.arange(50), weights[:, r].astype(int))
        assert_same(AFFECT_METRICS, values[:, r], reference_affect(x[rows], y[rows]))


def test_seven_classes_equal_the_reference(make_faces, reference_expression):
    faces = make_faces(300, seed=8)
    kept = faces.expression != 7
    p = faces.probabilities[kept, :7]
    p = p / p.sum(axis=1, keepdims=True)
    y = faces.expression[kept]
    vector = ExpressionVector(y, p.argmax(axis=1), p, EXPRESSIONS[:7])
    expected = reference_expression(y, p.argmax(axis=1), p, EXPRESSIONS[:7])
    assert_same(vector.names, point(vector, len(y)), expected)
