"""The most likely wrong labels, by confident learning."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import DataError

FLAT = 1e-6
"""Slack of the comparison with a class's threshold, against rounding."""


@dataclass(frozen=True, slots=True)
class WrongLabels:
    """What confident learning says of n labelled rows over K classes.

    Args:
        rows: positions of the likely wrong labels, the most likely first.
        suggested: the class that each of them more likely is.
        margin: probability of the given class less that of the likeliest other, in [-1, 1]; the
            order of `rows`, lowest first.
        confident_joint: int (K, K), given by true class: rows that are confidently of a class.
        joint: float (K, K), estimated joint distribution of given and true class, sum 1.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    margin: NDArray[np.float64]
    confident_joint: NDArray[np.int64]
    joint: NDArray[np.float64]

    @property
    def estimated_share(self) -> float:
        """Estimated share of labels that are wrong, in [0, 1]: the joint off its diagonal."""
        return float(self.joint.sum() - np.trace(self.joint))


def find_wrong_labels(labels: NDArray[np.int64], probs: NDArray[np.float64]) -> WrongLabels:
    """Find labels that a model's out-of-sample probabilities confidently contradict.

    A class's threshold is the mean probability that rows of this label get for it. A row counts for
    the class that reaches its threshold, the most probable where several do (Northcutt, Jiang and
    Chuang 2021, "Confident learning", equation 1); rows off the diagonal of that confident joint
    are the candidates, ranked by normalised margin. The joint is the confident joint with each row
    scaled to the number of its labels (equation 3).

    Args:
        labels: int (n,), 0 to K - 1.
        probs: float (n, K), rows summing to 1.

    Raises:
        DataError: shapes differ, a label is out of range, or a probability is not finite.
    """
    labels = np.asarray(labels, np.int64)
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or len(probs) != len(labels):
        raise DataError(
            f"labels are {labels.shape} and probabilities {probs.shape}; a row of probabilities is "
            "needed for each label"
        )
    k = probs.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < k):
        raise DataError(f"labels lie in {labels.min()} to {labels.max()}, not in 0 to {k - 1}")
    if not np.isfinite(probs).all():
        raise DataError("some probabilities are not finite numbers; predict these faces again")
    every = np.arange(len(labels))
    own = probs[every, labels]
    count = np.bincount(labels, minlength=k)
    total = np.bincount(labels, weights=own, minlength=k)
    # A class without labels has no threshold that anything reaches.
    threshold = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    reached = probs >= threshold - FLAT
    confident = reached.any(axis=1)
    true = np.where(reached, probs, -1.0).argmax(axis=1)
    joint = np.zeros((k, k), np.int64)
    np.add.at(joint, (labels[confident], true[confident]), 1)

    rows = np.flatnonzero(confident & (true != labels))
    others = probs.copy()
    others[every, labels] = -np.inf
    margin = own - (others.max(axis=1) if k > 1 else 0)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return WrongLabels(rows, true[rows], margin[rows], joint, _calibrated(joint, count))


def _calibrated(joint: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    known = joint.astype(np.float64)
    # A label of which no row is confident is taken at its word.
    empty = known.sum(axis=1) == 0
    known[empty, empty] = 1.0
    scaled: NDArray[np.float64] = known / known.sum(axis=1, keepdims=True) * count[:, None]
    result: NDArray[np.float64] = scaled / max(count.sum(), 1)
    return result
