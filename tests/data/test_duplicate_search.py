"""The search for duplicates against brute force, SciPy and NumPy, and that it is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from affectnet.data.duplicate_search import (
    RADIUS,
    are_plain,
    distance,
    duplicate_sets,
    elsewhere,
    hashes,
    likeness,
    near_pairs,
)


def test_likeness_is_one_for_equals_and_ignores_light() -> None:
    rng = np.random.default_rng(0)
    some = rng.integers(0, 200, (5, 32, 32), dtype=np.uint8)
    assert likeness(some, some) == pytest.approx(np.ones(5), abs=1e-5)
    assert likeness(some, some + 40) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.abs(likeness(some, some[::-1])[[0, 1, 3, 4]]).max() < 0.2


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
def test_the_search_finds_all_pairs_within_the_radius_and_no_others(radius: int) -> None:
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
def test_the_search_accepts_equal_few_and_no_hashes(values: list[int]) -> None:
    given_ = np.array(values, np.uint64)
    assert found(given_) == all_pairs(given_, RADIUS)


def test_a_radius_that_the_search_does_not_cover_is_refused() -> None:
    with pytest.raises(ValueError, match="complete up to 7"):
        next(near_pairs(np.zeros(2, np.uint64), 8))


def test_hashes_ignore_brightness_and_distinguish_images() -> None:
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


def smooth(n: int, seed: int) -> np.ndarray:
    """Thumbnails like faces: smooth noise, uint8 (n, 32, 32)."""
    noise = np.random.default_rng(seed).normal(128, 400, (n, 32, 32))
    return np.clip(uniform_filter(noise, (0, 7, 7)), 0, 255).astype(np.uint8)


def test_the_hash_is_of_the_cosine_transform() -> None:
    """Against SciPy's transform, but for coefficients that are within rounding of the median."""
    faces = smooth(1200, 1)
    places = sorted(
        ((r, c) for r in range(16) for c in range(16) if r + c), key=lambda p: (sum(p), p[0])
    )[:64]
    wanted = dctn(faces.astype(float), axes=(1, 2))[:, *np.array(places).T]
    wanted -= np.median(wanted, axis=0)
    order = np.argsort(np.arange(64) % 4, kind="stable")
    bits = np.unpackbits(hashes(faces).view(np.uint8).reshape(-1, 8), axis=1).astype(bool)
    clear = np.abs(wanted) > 30
    assert clear.mean() > 0.9
    assert (bits == (wanted > 0)[:, order])[clear[:, order]].all()


def test_likeness_is_the_correlation_of_what_the_neighbourhood_leaves() -> None:
    left, right = smooth(40, 2), smooth(40, 3)
    right[:20] = left[:20] // 2 + 40 + smooth(20, 4) // 16
    fine = [x - uniform_filter(x.astype(float), (0, 9, 9)) for x in (left, right)]
    wanted = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*fine, strict=True)]
    np.testing.assert_allclose(likeness(left, right), wanted, atol=1e-9)


def test_plain_is_a_standard_deviation_below_three() -> None:
    spread = np.linspace(0, 6, 41)
    noise = np.random.default_rng(0).normal(size=(41, 32, 32))
    faces = np.round(128 + noise * spread[:, None, None]).astype(np.uint8)
    np.testing.assert_array_equal(are_plain(faces), faces.std(axis=(1, 2)) < 3)
    assert 5 < are_plain(faces).sum() < 36


def test_sets_are_the_connected_near_faces_in_any_order() -> None:
    faces = smooth(300, 5)
    for copy, of in ((10, 200), (11, 200), (12, 30)):
        faces[copy] = faces[of] + (faces[of] < 250)
    faces[50] = faces[51] = faces[31]
    faces[60] = faces[61] = 77  # plain
    sets = duplicate_sets(faces)
    found = {frozenset(np.flatnonzero(sets == s).tolist()) for s in sets}
    assert {s for s in found if len(s) > 1} == {
        frozenset({10, 11, 200}), frozenset({12, 30}), frozenset({31, 50, 51})
    }  # fmt: skip
    order = np.random.default_rng(1).permutation(300)
    shuffled = duplicate_sets(faces[order])
    assert {frozenset(order[shuffled == s].tolist()) for s in shuffled} == found


def test_elsewhere_lists_the_other_splits() -> None:
    sets = np.array([0, 0, 1, 2, 2, 2, 3, 3])
    split = np.array([0, 2, 0, 0, 1, 2, 1, 1])
    assert elsewhere(sets, split).tolist() == [4, 1, 0, 6, 5, 3, 0, 0]
