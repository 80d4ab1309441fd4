"""AUC-ROC and average precision of one class against the rest, for many weightings at once."""

import numpy as np
from scipy.sparse import csr_array

from affectnet.evaluation.arrays import Bools, Floats, Ints, ratio


class Ranking:
    """One class against the rest, sorted once, so that each weighting costs only sums.

    Faces are sorted by falling score and cut into segments: one for each score that some face of
    the class has (with every face tied to it), one for each run of other faces in between. Both
    areas then need the weight of each segment, and of the faces of the class in it; a weighting
    is a column of `weights`, so a sparse product gives the segments of all of them together.

    Args:
        scores: (n,), any real numbers; higher means "more likely this class".
        positive: (n,), True for the faces of the class.
    """

    def __init__(self, scores: Floats, positive: Bools) -> None:
        n = len(scores)
        order = np.argsort(-scores, kind="stable")
        ranked, hit = scores[order], positive[order]
        new_score = np.ones(n, dtype=bool)
        new_score[1:] = ranked[1:] != ranked[:-1]
        tie_group = np.cumsum(new_score) - 1
        group_has_hit = np.bincount(tie_group, weights=hit, minlength=1) > 0
        starts = group_has_hit.copy()
        starts[1:] |= group_has_hit[:-1]
        starts[:1] = True
        segment = (np.cumsum(starts) - 1)[tie_group]
        n_segments = int(segment[-1]) + 1 if n else 0
        self._all = _sums_by(segment, order, n_segments, n)
        self._hit_segments: Ints = np.unique(segment[hit])
        rank_of_segment = np.searchsorted(self._hit_segments, segment[hit])
        self._hits = _sums_by(rank_of_segment, order[hit], len(self._hit_segments), n)
        # Without a tie between a face of the class and another, the segments of the class hold its
        # faces alone, and the second product falls away.
        self._tied = len(self._hit_segments) > 0 and bool(
            (np.bincount(segment)[self._hit_segments] != np.bincount(rank_of_segment)).any()
        )

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return (AUC-ROC, average precision), each (B,), for `weights` of shape (n, B).

        AUC: the weighted share of (face of the class, other face) pairs in the right order, a tie
        counting one half; undefined without either kind. Average precision: the sum over scores,
        falling, of precision times the step in recall; undefined without a face of the class.
        """
        columns = weights.shape[1]
        if len(self._hit_segments) == 0:
            return np.full(columns, np.nan), np.full(columns, np.nan)
        # Turned over, because running sums are several times as fast along a row.
        in_segment = np.ascontiguousarray((self._all @ weights).T)
        hits = in_segment[:, self._hit_segments]
        tied_others = None
        if self._tied:
            together, hits = hits, np.ascontiguousarray((self._hits @ weights).T)
            tied_others = together - hits
        np.cumsum(in_segment, axis=1, out=in_segment)
        total = in_segment[:, -1].copy()
        above = in_segment[:, self._hit_segments]
        hits_above = np.cumsum(hits, axis=1)
        all_hits = hits_above[:, -1].copy()
        others = total - all_hits

        others_above = np.subtract(above, hits_above, out=in_segment[:, : above.shape[1]])
        right = others * all_hits - np.einsum("bs,bs->b", hits, others_above)
        if tied_others is not None:
            right += 0.5 * np.einsum("bs,bs->b", hits, tied_others)
        auc = ratio(right, others * all_hits)

        # Above the first drawn face of the class both sums are zero, and so is the step.
        np.maximum(above, np.finfo(np.float64).tiny, out=above)
        np.divide(hits_above, above, out=hits_above)
        average_precision = ratio(np.einsum("bs,bs->b", hits, hits_above), all_hits)
        return auc, average_precision


def _sums_by(group: Ints, members: Ints, n_groups: int, n: int) -> csr_array:
    """The (n_groups, n) matrix that sums rows `members` by their ascending `group`."""
    sizes = np.bincount(group, minlength=n_groups)
    indptr = np.concatenate(([0], np.cumsum(sizes)))
    # Half-width indices: the product is bound by memory.
    narrow = np.int32 if n < np.iinfo(np.int32).max else np.int64
    return csr_array(
        (np.ones(len(members)), members.astype(narrow), indptr.astype(narrow)), shape=(n_groups, n)
    )
