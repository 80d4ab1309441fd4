"""The simulation of AffectNet's protocol: class fractions of its parts, and its settings."""

from types import SimpleNamespace

import numpy as np
import pytest
from protocol import AFFECTNET, BETTER, METHODS, TEST_FACES, equal_rows, rows_like_affectnet

from affectnet.cli import parse
from affectnet.commands.train_settings import check

FERPLUS = [6986, 5827, 2418, 2509, 429, 93, 1678, 96]


@pytest.fixture(scope="module")
def split() -> SimpleNamespace:
    labels = np.append(np.repeat(np.arange(8), FERPLUS), -1)
    return SimpleNamespace(expression=np.random.default_rng(1).permutation(labels))


def test_training_faces_have_affectnets_fractions(split: SimpleNamespace) -> None:
    rows = rows_like_affectnet(split)
    assert len(rows) == len(set(rows.tolist()))
    found = np.bincount(split.expression[rows], minlength=8)
    np.testing.assert_allclose(found / len(rows), AFFECTNET / AFFECTNET.sum(), atol=1 / len(rows))
    # As many as there can be: all faces of the class that limits them.
    assert (found == FERPLUS).any()
    assert (found <= FERPLUS).all()


def test_test_faces_have_equal_classes(split: SimpleNamespace) -> None:
    rows = equal_rows(split)
    assert (np.bincount(split.expression[rows], minlength=8) == TEST_FACES).all()
    # Every face of a rare class is used, and none much more often than another.
    for label, count in enumerate(FERPLUS):
        repeats = np.unique(rows[split.expression[rows] == label], return_counts=True)[1]
        assert len(repeats) == min(count, TEST_FACES)
        assert np.ptp(repeats) <= 1


def test_every_method_passes_the_checks_of_train() -> None:
    configs = {
        name: parse("train", ["--data", "D", *flags.split()]) for name, flags in METHODS.items()
    }
    for config in configs.values():
        check(config)
        assert (config.weights, config.freeze) == (configs[BETTER].weights, "backbone")
    assert configs[BETTER].loss == "logit_adjusted"
    assert configs[BETTER].monitor == "val_balanced_accuracy"
