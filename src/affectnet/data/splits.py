"""Validation splits, caps per class, and weights of classes and rows."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, check_choice
from affectnet.labels import N_EXPRESSIONS

Sampling = Literal["natural", "balanced", "sqrt"]


def stratified_split(
    ids: Sequence[str],
    labels: NDArray[np.integer],
    fraction: float,
    seed: int,
    groups: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """Choose the validation rows, the same fraction of every class, whole groups at a time.

    Of the n rows of a class, round(n * fraction) are wanted (Python's `round`: halves go to the
    even number). The groups are sorted by the smallest sha256("SEED:ID") of their rows; each is
    taken if that brings the numbers of rows, summed over the classes, closer to those wanted. So
    rows without a group are the first of their class. The result depends only on the seed, the ids,
    the labels and the groups, not on a random generator or the order of the rows.

    Args:
        ids: n unique ids.
        labels: integer (n,); every value is a stratum, including -1 (missing).
        fraction: of validation rows, in [0, 1).
        seed: any integer.
        groups: integer (n,), equal for rows that stay together; None where each row is its own.

    Returns:
        bool (n,), True where the row is for validation.

    Raises:
        ConfigError: the fraction is not in [0, 1), or every group is too large for it.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"the validation fraction is {fraction}; it must be at least 0 and below 1"
        )
    if groups is None:
        return _first_of_each_class(ids, labels, seed, lambda n: round(n * fraction))
    labels = np.asarray(labels)
    classes, label = np.unique(labels, return_inverse=True)
    wanted = [round(n * fraction) for n in np.bincount(label, minlength=len(classes)).tolist()]
    any_wanted = any(wanted)
    order = _hash_order(ids, seed)
    _, first, group = np.unique(groups[order], return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[group]  # groups by their first row in this order
    order = order[np.lexsort((label[order], place))]
    place = np.sort(place)
    # Runs of rows with one group and one class.
    starts = np.flatnonzero(
        np.diff(place, prepend=-1).astype(bool) | np.diff(label[order], prepend=-1).astype(bool)
    )
    runs = zip(
        place[starts].tolist(),
        label[order][starts].tolist(),
        np.diff(starts, append=len(order)).tolist(),
        strict=True,
    )
    taken = np.zeros(len(first), bool)
    for number, parts in groupby(runs, key=itemgetter(0)):
        counts = [(c, n) for _, c, n in parts]
        if sum(abs(wanted[c] - n) - abs(wanted[c]) for c, n in counts) < 0:
            taken[number] = True
            for c, n in counts:
                wanted[c] -= n
    if any_wanted and not taken.any():
        raise ConfigError(
            f"each of the {len(first):,} groups is too large for a validation split of "
            f"{fraction:.0%}; give a larger --val-fraction, or another --group"
        )
    chosen = np.zeros(len(ids), bool)
    chosen[order] = taken[place]
    return chosen


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
    order = _hash_order(ids, prefix)
    chosen = np.zeros(len(ids), bool)
    for label in np.unique(labels):
        stratum = order[labels[order] == label]
        chosen[stratum[: take(len(stratum))]] = True
    return chosen


def _hash_order(ids: Sequence[str], prefix: int | str) -> NDArray[np.int64]:
    """Return the rows sorted by sha256("PREFIX:ID")."""
    # 16 of the 32 bytes: enough that no two of a million ids share them.
    keys = b"".join(sha256(f"{prefix}:{i}".encode()).digest()[:16] for i in ids)
    words = np.frombuffer(keys, ">u8").reshape(len(ids), 2)
    return np.lexsort((words[:, 1], words[:, 0]))


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
