"""The seven-class mode: which classes apply, and scaling to seven."""

import numpy as np
import pytest

from affectnet.labels import EXPRESSIONS
from affectnet.seven import SEVEN, classes_for, lacks_contempt, seven_probabilities, seven_votes


def test_classes():
    assert classes_for(without_contempt=True) == SEVEN == EXPRESSIONS[:7]
    assert classes_for(without_contempt=False) == EXPRESSIONS
    assert lacks_contempt(SEVEN)
    assert not lacks_contempt(EXPRESSIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_scaled_to_sum_to_one(dtype):
    rows = np.random.default_rng(0).dirichlet(np.ones(8), 20).astype(dtype)
    rows[0], rows[1] = np.eye(8)[7], np.nan
    seven, votes = seven_probabilities(rows), seven_votes(rows)
    assert seven.dtype == votes.dtype == dtype
    assert (seven.shape, votes.shape) == ((20, 7), (20, 8))
    expected = rows[2:, :7] / rows[2:, :7].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seven[2:], expected, rtol=1e-6)
    np.testing.assert_allclose(votes[2:, :7], expected, rtol=1e-6)
    assert not votes[2:, 7].any()
    assert np.allclose(seven[0], 1 / 7)
    assert np.isnan(votes[:2]).all()
    assert np.isnan(seven[1]).all()
