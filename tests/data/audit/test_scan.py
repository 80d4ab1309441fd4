"""The perceptual hash, and the search for near hashes against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.data.audit.scan import RADIUS, distance, hashes, near_pairs


def all_pairs(values: np.ndarray, radius: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if bin(int(values[i]) ^ int(values[j])).count("1") <= radius
    }


def found(values: np.ndarray, radius: int = RADIUS) -> set[tuple[int, int]]:
    return {
        (min(i, j), max(i, j))
        for left, right in near_pairs(values, radius)
        for i, j in zip(left.tolist(), right.tolist(), strict=True)
    }


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(0, 2**64 - 1))
def test_distance_counts_the_bits_that_differ(values: list[int], other: int) -> None:
    given_ = np.array(values, np.uint64)
    expected = [bin(value ^ other).count("1") for value in values]
    assert distance(given_, np.full(len(values), other, np.uint64)).tolist() == expected


@pytest.mark.parametrize("radius", [0, 3, 7])
def test_the_search_finds_all_pairs_within_the_radius_and_no_other(radius: int) -> None:
    rng = np.random.default_rng(radius)
    seeds = rng.integers(0, 2**64, 60, dtype=np.uint64)
    values = [*seeds.tolist()]
    for seed in seeds.tolist():
        for flips in range(0, 11):
            bits = rng.choice(64, flips, replace=False)
            values.append(seed ^ sum(1 << int(bit) for bit in bits))
    shuffled = rng.permutation(np.array(values, np.uint64))
    expected = all_pairs(shuffled, radius)
    assert len(expected) >= 60
    assert found(shuffled, radius) == expected


@given(st.lists(st.sampled_from([0, 1, 3, 2**16, 2**63, 2**64 - 1, 2**64 - 2]), max_size=12))
def test_the_search_takes_equal_few_and_no_hashes(values: list[int]) -> None:
    given_ = np.array(values, np.uint64)
    assert found(given_) == all_pairs(given_, RADIUS)


def test_a_radius_that_the_search_does_not_cover_is_refused() -> None:
    with pytest.raises(ValueError, match="complete up to 7"):
        next(near_pairs(np.zeros(2, np.uint64), 8))


def test_hashes_ignore_brightness_and_tell_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (50, 6, 6))
    faces = np.kron(coarse, np.ones((6, 6), int))[:, 2:34, 2:34].astype(np.uint8)
    both = hashes(np.concatenate([faces, faces + 30]))
    assert distance(both[:50], both[50:]).max() <= 1
    apart = distance(np.repeat(both[:50], 50), np.tile(both[:50], 50)).reshape(50, 50)
    assert apart[~np.eye(50, dtype=bool)].min() > RADIUS


def test_each_bit_halves_a_large_dataset() -> None:
    rng = np.random.default_rng(1)
    pattern = rng.integers(0, 100, (32, 32))
    faces = (pattern + rng.integers(0, 100, (2000, 32, 32))).astype(np.uint8)
    values = hashes(faces)
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
