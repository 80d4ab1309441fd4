from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.samplers import EvalBatches, TrainBatches, current_place
from affectnet.data.splits import sample_weights
from affectnet.errors import ConfigError, DataError

N = st.integers(1, 300)


def train(n: int, batch_size: int, epoch: int = 0, **settings) -> TrainBatches:
    batches = TrainBatches(np.arange(n), batch_size, **settings)
    batches.set_epoch(epoch)
    return batches


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def test_alone():
    assert current_place() == (0, 1)


@given(n=N, batch_size=st.integers(1, 64), seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
def test_order_is_a_function_of_seed_and_epoch(n, batch_size, seed, epoch):
    first = list(train(n, batch_size, epoch, seed=seed))
    used = train(n, batch_size, epoch + 1, seed=seed)
    list(used)
    used.set_epoch(epoch)
    assert list(used) == first
    assert sorted(set(flat(first))) == list(range(n))


def test_epochs_and_seeds_differ():
    orders = {
        tuple(train(100, 10, epoch, seed=seed).order(epoch))
        for epoch in range(5)
        for seed in (0, 1)
    }
    assert len(orders) == 10
    assert all(sorted(order) == list(range(100)) for order in orders)


@settings(max_examples=50)
@given(
    n=N,
    part=st.integers(1, 16),
    processes=st.integers(1, 5),
    weighted=st.booleans(),
)
def test_parts_of_all_processes_are_the_batches_of_one(n, part, processes, weighted):
    weights = np.arange(1.0, n + 1) if weighted else None
    batch_size = part * processes
    parts = [
        list(train(n, batch_size, 3, weights=weights, place=(rank, processes)))
        for rank in range(processes)
    ]
    assert {len(batches) for batches in parts} == {len(parts[0])}
    assert len({len(batch) for batches in parts for batch in batches}) == 1
    joined = [flat(step) for step in zip(*parts, strict=True)]
    alone = list(train(n, batch_size, 3, weights=weights, place=(0, 1)))
    if n >= batch_size:
        assert joined == alone
    else:  # rounded up so that all processes have as many
        (only,), (one,) = joined, alone
        assert only[:n] == one
        assert len(only) < n + processes


def test_length_is_known_before_the_pass():
    for n, batch_size, steps in ((100, 10, 10), (101, 10, 11), (3, 10, 1), (10, 1, 10)):
        batches = train(n, batch_size)
        assert len(batches) == len(list(batches)) == steps


def test_last_batch_is_filled_from_the_start():
    batches = list(train(10, 4))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert batches[2][2:] == batches[0][:2]


def test_batch_that_cannot_be_shared():
    with pytest.raises(ConfigError, match="multiple of 3, such as 63"):
        list(train(100, 64, place=(0, 3)))


@pytest.mark.parametrize(
    ("mode", "shares"),
    [("balanced", [1 / 3, 1 / 3, 1 / 3]), ("sqrt", [4 / 7, 2 / 7, 1 / 7])],
)
def test_frequencies_of_weighted_sampling(mode, shares):
    labels = np.repeat([0, 3, 7], [16 * 64, 4 * 64, 64])
    weights = sample_weights(labels, mode)
    sampler = TrainBatches(np.arange(len(labels)), 32, weights=weights)
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(30)])
    assert len(drawn) == 30 * len(labels)
    found = [np.mean(labels[drawn] == label) for label in (0, 3, 7)]
    np.testing.assert_allclose(found, shares, atol=0.01)
    # Within a class all rows come alike, the last row too.
    rare = np.bincount(drawn, minlength=len(labels))[labels == 7]
    assert rare.min() > 0.5 * rare.mean()
    assert rare.max() < 1.5 * rare.mean()


def test_row_of_weight_zero_is_never_drawn():
    sampler = TrainBatches(np.arange(4), 2, weights=np.array([0.0, 1.0, 1.0, 0.0]))
    drawn = np.concatenate([sampler.order(epoch) for epoch in range(500)])
    assert set(drawn) == {1, 2}


@settings(max_examples=200)
@given(n=N, batch_size=st.integers(1, 64), processes=st.integers(1, 7))
def test_evaluation_takes_each_row_once(n, batch_size, processes):
    rows = np.arange(1000, 1000 + n)
    ranks = [EvalBatches(rows, batch_size, place=(rank, processes)) for rank in range(processes)]
    if n < processes:
        with pytest.raises(DataError, match=f"at most {n} devices"):
            list(ranks[0])
        return
    parts = [list(rank) for rank in ranks]
    assert [len(part) for part in parts] == [len(rank) for rank in ranks]
    assert len({len(part) for part in parts}) == 1
    sizes = [len(batch) for part in parts for batch in part]
    assert min(sizes) >= 1
    assert max(sizes) <= max(1, batch_size // processes) or batch_size < 2 * processes
    assert flat(flat(step) for step in zip(*parts, strict=True)) == rows.tolist()


def test_evaluation_alone_has_full_batches():
    sizes = [len(batch) for batch in EvalBatches(np.arange(65), 32)]
    assert sizes == [32, 32, 1]
