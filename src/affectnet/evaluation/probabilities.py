"""Figures of class probabilities that are weighted means over faces: top-k, log loss, ECE."""

from typing import Final

import numpy as np
from scipy.sparse import csr_array

from affectnet.evaluation.arrays import Bools, Floats, Ints, ratio
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

ECE_BINS: Final = 15
PROBABILITY_FLOOR: Final = float(np.finfo(np.float64).eps)


def predicted_class(probabilities: Floats) -> Ints:
    """The most probable class of each face, (n,); the first in class order on a tie."""
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def in_top_k(truth: Ints, probabilities: Floats, k: int) -> Bools:
    """Whether the true class is among the k most probable, (n,).

    On ties the class that comes first in class order wins, as in `predicted_class`, so top-1
    equals accuracy.
    """
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)
    tied_before = (probabilities == own) & (np.arange(probabilities.shape[1]) < truth[:, None])
    return np.asarray(((probabilities > own) | tied_before).sum(axis=1) < k)


def surprise(truth: Ints, probabilities: Floats) -> Floats:
    """-ln p(true class) of each face, (n,); p is kept away from 0 and 1 by 2.2e-16."""
    own = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(own, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)))


def confidence_bin(confidence: Floats, bins: int = ECE_BINS) -> Ints:
    """The index of the equal-width bin ((b - 1) / bins, b / bins] of each confidence, (n,).

    A confidence on an edge belongs to the bin below it (Guo et al., 2017).
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.asarray(np.searchsorted(edges[1:-1], confidence, side="left"), dtype=np.int64)


class Calibration:
    """Expected calibration error: sum over bins of |accuracy - confidence| times the bin's share.

    Confidence is the highest probability of a face, accuracy whether that class is right
    (Naeini et al., 2015; Guo et al., 2017, equation 3).
    """

    def __init__(self, truth: Ints, probabilities: Floats, bins: int = ECE_BINS) -> None:
        self.confidence = probabilities.max(axis=1) if len(truth) else np.zeros(0)
        self.right = predicted_class(probabilities) == truth if len(truth) else np.zeros(0, bool)
        self.bin = confidence_bin(self.confidence, bins)
        self.bins = bins
        n = len(truth)
        self._gaps = csr_array((self.right - self.confidence, (self.bin, np.arange(n))), (bins, n))

    def __call__(self, weights: Floats) -> Floats:
        """Return the error (B,) for `weights` of shape (n, B)."""
        return ratio(np.abs(self._gaps @ weights).sum(axis=0), weights.sum(axis=0))

    def curve(self) -> list[dict[str, float | int | None]]:
        """The reliability curve: a row a bin with its bounds, faces, confidence and accuracy."""
        rows: list[dict[str, float | int | None]] = []
        for index in range(self.bins):
            inside = self.bin == index
            filled = bool(inside.any())
            rows.append(
                {
                    "from": index / self.bins,
                    "to": (index + 1) / self.bins,
                    "n": int(inside.sum()),
                    "confidence": float(self.confidence[inside].mean()) if filled else None,
                    "accuracy": float(self.right[inside].mean()) if filled else None,
                }
            )
        return rows


def nearest_expression(valence: Floats, arousal: Floats) -> Ints:
    """The class whose point in `labels.CIRCUMPLEX` is nearest to (valence, arousal), (n,).

    Euclidean distance; the first in class order on a tie.
    """
    points = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    distance = (valence[:, None] - points[:, 0]) ** 2 + (arousal[:, None] - points[:, 1]) ** 2
    return np.asarray(distance.argmin(axis=1), dtype=np.int64)
