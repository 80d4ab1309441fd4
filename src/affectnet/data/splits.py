"""Validation splits, caps per class, and weights of classes and rows."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, check_choice
from affectnet.labels import N_EXPRESSIONS

Sampling = Literal["natural", "balanced", "sqrt"]


def stratified_split(
    ids: Sequence[str], labels: NDArray[np.integer], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose the validation rows, the same fraction of every class.

    The n rows of a class are sorted by sha256("SEED:ID") and the first round(n * fraction) are
    taken (Python's `round`: halves go to the even number). The result depends only on the seed, the
    ids and the labels, not on a random generator or the order of the rows.

    Args:
        ids: n unique ids.
        labels: integer (n,); every value is a stratum, including -1 (missing).
        fraction: of validation rows, in [0, 1).
        seed: any integer.

    Returns:
        bool (n,), True where the row is for validation.

    Raises:
        ConfigError: the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"the validation fraction is {fraction}; it must be at least 0 and below 1"
        )
    return _first_of_each_class(ids, labels, seed, lambda n: round(n * fraction))


def cap_per_class(
    ids: Sequence[str], labels: NDArray[np.integer], cap: int | None, seed: int
) -> NDArray[np.bool_]:
    """Choose at most `cap` rows of each class, by the hash order of `stratified_split`.

    A larger cap with the same seed includes all rows of a smaller one. Rows without a label (-1)
    count as one class.

    Returns:
        bool (n,), True for the chosen rows.

    Raises:
        ConfigError: the cap is below 1.
    """
    if cap is None:
        return np.ones(len(ids), bool)
    if cap < 1:
        raise ConfigError(f"the cap is {cap} images per class; it must be at least 1")
    # Not the split's prefix, or the validation rows would be chosen first.
    return _first_of_each_class(ids, labels, f"cap:{seed}", lambda n: min(n, cap))


def _first_of_each_class(
    ids: Sequence[str],
    labels: NDArray[np.integer],
    prefix: int | str,
    take: Callable[[int], int],
) -> NDArray[np.bool_]:
    labels = np.asarray(labels)
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} ids but {len(labels)} labels")
    # 16 of the 32 bytes: enough that no two of a million ids share them.
    keys = b"".join(sha256(f"{prefix}:{i}".encode()).digest()[:16] for i in ids)
    words = np.frombuffer(keys, ">u8").reshape(len(ids), 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    chosen = np.zeros(len(ids), bool)
    for label in np.unique(labels):
        stratum = order[labels[order] == label]
        chosen[stratum[: take(len(stratum))]] = True
    return chosen


def class_weights(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return class weights inverse to the class frequencies, for a weighted loss.

    A class of n_c among n labelled rows and k present classes gets n / (k * n_c), so that the
    mean weight over the rows is 1; an absent class gets 0.

    Args:
        counts: rows of each class, or the sum of their vote shares, (K,).

    Returns:
        float64 (K,).
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    weights = np.zeros(len(counts))
    if present.any():
        weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def sample_weights(labels: NDArray[np.integer], mode: Sampling | str) -> NDArray[np.float64]:
    """Return the weight of each row for drawing with replacement.

    'natural' draws all rows equally often, 'balanced' all classes, and 'sqrt' a class of n rows in
    proportion to sqrt(n). The mean weight is 1. Rows without a label (-1) have weight 1, so their
    fraction of the draws is their fraction of the rows.

    Returns:
        float64 (n,).

    Raises:
        ConfigError: the mode is not one of the three.
    """
    labels = np.asarray(labels)
    check_choice("sampler", mode, get_args(Sampling))
    weights = np.ones(len(labels))
    labelled = labels >= 0
    if mode == "natural" or not labelled.any():
        return weights
    counts = np.bincount(labels[labelled], minlength=N_EXPRESSIONS).astype(np.float64)
    drawn = 1 / counts[labels[labelled]] if mode == "balanced" else counts[labels[labelled]] ** -0.5
    weights[labelled] = drawn / drawn.mean()
    return weights
