"""Which of a run's faces a report shows: the telling ones, and a fair sample of all."""

from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from affectnet.report.runs import ScoredFaces

Rows = NDArray[np.int64]


def most_confident(preds: ScoredFaces, kind: Literal["right", "wrong"], most: int) -> Rows:
    """The rows of the most confident right or wrong answers, surest first.

    Faces without a true expression are neither. Without probabilities the order is that of the
    ids.
    """
    wanted = preds.right if kind == "right" else preds.labelled & ~preds.right
    return _first(np.flatnonzero(wanted), -preds.confidence, preds.ids, most)


def least_confident(preds: ScoredFaces, most: int) -> Rows:
    """The rows that the model was least sure of, least sure first."""
    usable = np.flatnonzero(preds.labelled & np.isfinite(preds.confidence))
    return _first(usable, preds.confidence, preds.ids, most)


def largest_affect_errors(preds: ScoredFaces, most: int) -> Rows:
    """The rows whose predicted point lies farthest from the annotated one, farthest first."""
    usable = np.flatnonzero(np.isfinite(preds.affect_error))
    return _first(usable, -preds.affect_error, preds.ids, most)


def fair_sample(preds: ScoredFaces, most: int) -> Rows:
    """Rows that stand for all of them: those whose ids come first by their checksum.

    The choice depends on the ids alone, so runs over the same faces show the same ones.
    """
    keys = np.array([crc32(face.encode()) for face in preds.ids], dtype=np.int64)
    return np.argsort(keys, kind="stable")[:most]


def for_gallery(preds: ScoredFaces, most: int) -> Rows:
    """At most `most` different rows of every telling kind, for people to sort and filter.

    About a third confidently wrong, a fifth each confidently right, unsure, and far off in
    valence and arousal; among the wrong and the right every true class has its share.
    """
    chosen: dict[int, None] = {}
    wrong = _by_class(preds, "wrong", most // 3)
    right = _by_class(preds, "right", most // 5)
    for rows in (
        wrong,
        right,
        least_confident(preds, most // 5),
        largest_affect_errors(preds, most // 5),
        most_confident(preds, "wrong", most),
    ):
        for row in rows:
            if len(chosen) < most:
                chosen.setdefault(int(row))
    return np.fromiter(chosen, dtype=np.int64)


def _by_class(preds: ScoredFaces, kind: Literal["right", "wrong"], most: int) -> Rows:
    """The most confident rows, each true class giving in turn its surest."""
    rows = most_confident(preds, kind, len(preds))
    rank = np.empty(len(rows), dtype=np.int64)
    for c in np.unique(preds.expression[rows]):
        own = preds.expression[rows] == c
        rank[own] = np.arange(own.sum())
    return rows[np.argsort(rank, kind="stable")][:most]


def _first(rows: Rows, key: NDArray[Any], ids: list[str], most: int) -> Rows:
    """The `most` rows of the smallest key; ties by id, so that no order of the file matters."""
    keys = np.nan_to_num(key[rows], nan=np.inf)
    if len(rows) > most:
        # Sorting 300,000 ids for the sake of a dozen is wasted: cut at the key that decides.
        limit = np.partition(keys, most - 1)[most - 1] if most else -np.inf
        rows, keys = rows[keys <= limit], keys[keys <= limit]
    order = sorted(range(len(rows)), key=lambda i: (keys[i], ids[rows[i]]))
    return rows[order[:most]]
