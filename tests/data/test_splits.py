from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from affectnet.data.splits import cap_per_class, class_weights, sample_weights, stratified_split
from affectnet.errors import ConfigError

labellings = st.lists(st.integers(-1, 7), max_size=200).map(lambda x: np.array(x, np.int8))


@settings(deadline=None)
@given(labellings, st.floats(0, 0.99), st.integers(-5, 5))
def test_split_follows_its_definition(labels, fraction, seed):
    ids = [f"id{i}" for i in range(len(labels))]
    expected = set()
    for label in set(labels.tolist()):
        rows = [i for i, x in zip(ids, labels, strict=True) if x == label]
        rows.sort(key=lambda i: sha256(f"{seed}:{i}".encode()).hexdigest())
        expected |= set(rows[: round(len(rows) * fraction)])
    chosen = stratified_split(ids, labels, fraction, seed)
    assert chosen.dtype == bool
    assert {i for i, c in zip(ids, chosen, strict=True) if c} == expected


@settings(deadline=None)
@given(labellings, st.randoms())
def test_split_does_not_depend_on_the_order(labels, random):
    ids = [str(i) for i in range(len(labels))]
    order = list(range(len(labels)))
    random.shuffle(order)
    chosen = stratified_split(ids, labels, 0.3, 42)
    shuffled = stratified_split([ids[i] for i in order], labels[order], 0.3, 42)
    np.testing.assert_array_equal(chosen[order], shuffled)


def test_split_is_the_same_everywhere():
    ids = [str(i) for i in range(40)]
    chosen = stratified_split(ids, np.arange(40) % 4, 0.2, 42)
    assert np.flatnonzero(chosen).tolist() == [1, 6, 11, 13, 14, 20, 36, 39]


def test_seeds_differ():
    ids = [str(i) for i in range(200)]
    labels = np.zeros(200, int)
    assert (stratified_split(ids, labels, 0.5, 1) != stratified_split(ids, labels, 0.5, 2)).any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 20, float("nan")])
def test_split_refuses_impossible_fractions(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        stratified_split(["a"], np.array([0]), fraction, 0)


@settings(deadline=None)
@given(labellings, st.floats(0, 0.99), st.integers(-5, 5))
def test_groups_of_one_change_nothing(labels, fraction, seed):
    ids = [f"id{i}" for i in range(len(labels))]
    alone = np.random.default_rng(0).permutation(len(ids)) * 3
    np.testing.assert_array_equal(
        stratified_split(ids, labels, fraction, seed, alone),
        stratified_split(ids, labels, fraction, seed),
    )


@settings(deadline=None)
@given(labellings, st.randoms())
def test_groups_stay_together_in_any_order(labels, random):
    ids = [str(i) for i in range(len(labels))]
    groups = np.array([random.randrange(60) for _ in ids], int)
    try:
        chosen = stratified_split(ids, labels, 0.3, 42, groups)
    except ConfigError:
        assert len(ids) < 40
        return
    for group in set(groups.tolist()):
        assert len(set(chosen[groups == group].tolist())) == 1
    order = list(range(len(labels)))
    random.shuffle(order)
    renamed = np.random.default_rng(len(ids)).permutation(60)[groups[order]]
    shuffled = stratified_split([ids[i] for i in order], labels[order], 0.3, 42, renamed)
    np.testing.assert_array_equal(chosen[order], shuffled)


def test_the_fractions_of_the_classes_hold_with_groups():
    rng = np.random.default_rng(3)
    labels = rng.choice(8, 4000, p=np.array([26, 47, 9, 5, 2, 1.5, 8, 1.5]) / 100)
    ids = [str(i) for i in range(4000)]
    groups = np.where(rng.random(4000) < 0.1, rng.integers(0, 150, 4000), 1000 + np.arange(4000))
    chosen = stratified_split(ids, labels, 0.2, 42, groups)
    wanted = np.round(np.bincount(labels) * 0.2)
    assert np.abs(np.bincount(labels[chosen]) - wanted).max() <= 1


def test_groups_that_are_too_large_are_refused():
    labels = np.zeros(10, int)
    with pytest.raises(ConfigError, match=r"each of the 2 groups .* 20%; give a larger"):
        stratified_split(list("abcdefghij"), labels, 0.2, 0, np.arange(10) % 2)


@settings(deadline=None)
@given(labellings, st.integers(1, 60), st.integers(0, 60))
def test_cap_keeps_at_most_so_many_and_nests(labels, cap, more):
    ids = [str(i) for i in range(len(labels))]
    chosen = cap_per_class(ids, labels, cap, 42)
    for label in np.unique(labels):
        assert chosen[labels == label].sum() == min(cap, (labels == label).sum())
    assert (cap_per_class(ids, labels, cap + more, 42) >= chosen).all()


def test_no_cap_keeps_all_and_zero_is_refused():
    assert cap_per_class(["a", "b"], np.array([0, 0]), None, 0).all()
    with pytest.raises(ConfigError, match="at least 1"):
        cap_per_class(["a"], np.array([0]), 0, 0)


def test_capping_does_not_eat_the_validation_rows_first():
    ids = [str(i) for i in range(1000)]
    labels = np.zeros(1000, int)
    chosen = cap_per_class(ids, labels, 500, 42)
    validation = stratified_split(ids, labels, 0.2, 42)
    assert 60 < (chosen & validation).sum() < 140


@settings(deadline=None)
@given(labellings)
def test_class_weights_equal_sklearn(labels):
    known = labels[labels >= 0]
    weights = class_weights(np.bincount(known, minlength=8))
    present = np.unique(known)
    expected = np.zeros(8)
    if len(known):
        expected[present] = compute_class_weight("balanced", classes=present, y=known)
        assert weights[known].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights, expected)


@settings(deadline=None)
@given(labellings, st.sampled_from(["natural", "balanced", "sqrt"]))
def test_sample_weights(labels, mode):
    weights = sample_weights(labels, mode)
    assert weights.shape == labels.shape
    if len(labels):
        assert weights.mean() == pytest.approx(1)
    known = labels >= 0
    assert (weights[~known] == 1).all()
    counts = {c: (labels == c).sum() for c in np.unique(labels[known])}
    power = {"natural": 1, "balanced": 0, "sqrt": 0.5}[mode]
    total = sum(n**power for n in counts.values())
    for label, n in counts.items():
        assert weights[labels == label].sum() / known.sum() == pytest.approx(n**power / total)


def test_sample_weights_name_the_modes():
    with pytest.raises(ConfigError, match=r"did you mean 'balanced'.*natural, balanced, sqrt"):
        sample_weights(np.array([0]), "balance")
