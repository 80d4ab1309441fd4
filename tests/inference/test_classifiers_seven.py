"""A model of eight classes that answers in seven."""

import numpy as np
import pytest

from affectnet.inference.classifiers import ModelOutput, WithoutContempt
from affectnet.labels import EXPRESSIONS
from affectnet.models.model_config import TARGETS
from affectnet.seven import SEVEN


class Fixed:
    """A classifier with known answers."""

    classes = EXPRESSIONS
    size, margin, alignment, interpolation, face_size = 8, 0.1, None, "bilinear", None
    targets = TARGETS

    def __init__(self, probabilities):
        self.probabilities = np.array(probabilities, np.float32)

    def __call__(self, crops):
        n = len(crops)
        return ModelOutput(
            self.probabilities[:n], np.full(n, 0.5, np.float32), np.zeros(n, np.float32)
        )


def test_contempt_is_dropped_and_the_rest_add_to_one():
    rows = np.random.default_rng(0).dirichlet(np.ones(8), 20)
    rows[0] = np.eye(8)[7]
    model = WithoutContempt(Fixed(rows))
    assert model.classes == SEVEN
    assert (model.size, model.margin, model.interpolation) == (8, 0.1, "bilinear")
    scores = model(np.zeros((20, 8, 8, 3), np.uint8))
    assert scores.probabilities.shape == (20, 7)
    assert scores.probabilities.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-6)
    expected = rows[1:, :7] / rows[1:, :7].sum(axis=1, keepdims=True)
    assert np.allclose(scores.probabilities[1:], expected, atol=1e-6)
    assert np.allclose(scores.probabilities[0], 1 / 7)
    assert (scores.valence == 0.5).all()
