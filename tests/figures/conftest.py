"""Arrays like those of a model, and the comparison of a figure with its stored image."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from numpy.typing import NDArray

from affectnet.figures import save_figure
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

BASELINES = Path(__file__).parent / "baseline"
TOLERANCE = 6.0
"""Root of the mean squared difference of pixels, 0-255; another seed differs by 15 and more."""


@dataclass(frozen=True)
class Scored:
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    preds: NDArray[np.int64]
    affect: NDArray[np.float64]
    affect_pred: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        return self.probabilities.max(axis=1)


def draw_scored(n: int, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    centres = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    truth = rng.choice(8, n, p=[0.28, 0.3, 0.12, 0.1, 0.06, 0.04, 0.08, 0.02])
    affect = np.clip(centres[truth] + rng.normal(0, 0.15, (n, 2)), -1, 1)
    affect_pred = np.clip(0.8 * affect + rng.normal(0, 0.15, (n, 2)), -1, 1)
    logits = rng.normal(0, 1, (n, 8))
    logits[np.arange(n), truth] += 1.8
    probabilities = np.exp(1.5 * logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Scored(truth, probabilities, probabilities.argmax(axis=1), affect, affect_pred)


@pytest.fixture(scope="session")
def scored() -> Scored:
    return draw_scored(600, seed=3)


@pytest.fixture
def same_as_stored(tmp_path: Path) -> Callable[[Figure, str], None]:
    """Compare with `baseline/NAME.png`; AFFECTNET_STORE_BASELINES=1 stores it anew instead."""

    def compare(figure: Figure, name: str) -> None:
        (drawn,) = save_figure(figure, tmp_path, name, dpi=50)
        stored = BASELINES / drawn.name
        if os.environ.get("AFFECTNET_STORE_BASELINES"):
            stored.write_bytes(drawn.read_bytes())
        assert stored.stat().st_size < 40_000
        difference = compare_images(str(stored), str(drawn), tol=TOLERANCE)
        assert difference is None, difference

    return compare
