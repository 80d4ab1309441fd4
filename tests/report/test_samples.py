import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.report.runs import ScoredFaces
from affectnet.report.samples import (
    fair_sample,
    for_gallery,
    largest_affect_errors,
    least_confident,
    most_confident,
)


def scored_faces(n, seed, missing=0.2):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), n)
    probabilities[rng.random(n) < missing] = np.nan

    def values():
        return np.where(rng.random(n) < missing, np.nan, rng.uniform(-1, 1, n))

    return ScoredFaces(
        ids=[f"face{i:05d}" for i in rng.permutation(n)],
        expression=rng.integers(-1, 8, n),
        valence=values(),
        arousal=values(),
        probabilities=probabilities,
        expression_pred=rng.integers(-1, 8, n),
        valence_pred=values(),
        arousal_pred=values(),
    )


wild = st.builds(scored_faces, st.integers(0, 60), st.integers(0, 99), st.sampled_from([0, 0.5, 1]))
most = st.integers(0, 30)


@given(wild, most, st.sampled_from(["right", "wrong"]))
def test_most_confident_are_the_surest_of_their_kind(preds, most, kind):
    rows = most_confident(preds, kind, most)
    both = (preds.expression >= 0) & (preds.expression_pred >= 0)
    of_kind = both & ((preds.expression == preds.expression_pred) == (kind == "right"))
    assert len(rows) == min(most, of_kind.sum())
    assert of_kind[rows].all()
    sure = np.nan_to_num(preds.confidence, nan=-1.0)
    assert (np.diff(sure[rows]) <= 0).all()
    left = np.setdiff1d(np.flatnonzero(of_kind), rows)
    if len(left) and len(rows):
        assert sure[left].max() <= sure[rows].min()


@given(wild, most)
def test_least_confident_and_farthest_off(preds, most):
    unsure = least_confident(preds, most)
    assert (np.diff(preds.confidence[unsure]) >= 0).all()
    far = largest_affect_errors(preds, most)
    assert (np.diff(preds.affect_error[far]) <= 0).all()
    assert np.isfinite(preds.affect_error[far]).all()


@given(wild, most)
def test_gallery_has_no_face_twice_and_not_too_many(preds, most):
    rows = for_gallery(preds, most)
    assert len(set(rows.tolist())) == len(rows) <= most


def test_gallery_shows_mistakes_of_every_class():
    preds = scored_faces(4000, 0, missing=0)
    rows = for_gallery(preds, 240)
    wrong = rows[~preds.right[rows] & preds.labelled[rows]]
    assert set(preds.expression[wrong]) == set(range(8))
    assert preds.right[rows].sum() >= 40


@pytest.mark.parametrize("choose", [fair_sample, for_gallery, largest_affect_errors])
def test_the_order_of_the_file_does_not_matter(choose):
    preds = scored_faces(300, 1)
    turned = ScoredFaces(
        ids=preds.ids[::-1],
        **{
            name: getattr(preds, name)[::-1]
            for name in ScoredFaces.__dataclass_fields__
            if name != "ids"
        },
    )
    first = {preds.ids[row] for row in choose(preds, 40)}
    assert first == {turned.ids[row] for row in choose(turned, 40)}
    assert len(first) == 40


def test_fair_sample_is_like_the_whole():
    preds = scored_faces(20_000, 2, missing=0)
    sample = fair_sample(preds, 2000)
    share = np.bincount(preds.expression[sample] + 1, minlength=9) / 2000
    np.testing.assert_allclose(share, 1 / 9, atol=0.03)
