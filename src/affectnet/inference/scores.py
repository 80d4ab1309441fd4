"""What a model must tell and do to predict, and what it returns; with or without torch."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Scores(NamedTuple):
    """Predictions of n faces."""

    probabilities: Floats
    """(n, K), each row adding up to 1."""
    valence: Floats
    """(n,), in [-1, 1]."""
    arousal: Floats
    """(n,), in [-1, 1]."""


class ClassifierLike(Protocol):
    """A model with its preprocessing; `classifier.Classifier` and `onnx.OnnxClassifier` are such.

    Attributes:
        classes: expressions that it tells apart.
        size: side of its faces in pixels.
        margin: share of the face box added on each side; None where it does not say.
        alignment: how its faces are turned; None where they are not.
        interpolation: how its faces are resized.
    """

    classes: tuple[str, ...]
    size: int
    margin: float | None
    alignment: str | None
    interpolation: str

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
