"""Confident learning on planted label flips, against cleanlab and a count by hand."""

import numpy as np
import pytest

from affectnet.data.audit.mislabels import find_wrong_labels
from affectnet.errors import DataError


def planted(
    n: int = 2000, k: int = 8, flips: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which a share is flipped, a good model's probabilities, and which were flipped."""
    rng = np.random.default_rng(seed)
    true = rng.choice(k, n, p=np.arange(k, 0, -1) / (k * (k + 1) / 2))
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), true] += 6
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flipped = rng.random(n) < flips
    labels = np.where(flipped, (true + rng.integers(1, k, n)) % k, true)
    return labels, probs, flipped


def test_planted_flips_are_found_and_their_share_is_estimated() -> None:
    labels, probs, flipped = planted()
    found = find_wrong_labels(labels, probs)
    hits = flipped[found.rows]
    assert hits.sum() > 0.75 * flipped.sum()
    assert hits.mean() > 0.95
    assert hits[: flipped.sum() // 2].all()
    assert found.estimated_fraction == pytest.approx(flipped.mean(), abs=0.02)
    assert found.joint.sum() == pytest.approx(1)
    assert np.array_equal(np.sort(found.margin), found.margin)
    assert (found.suggested != labels[found.rows]).all()


def test_clean_labels_of_a_sure_model_are_left_alone() -> None:
    labels = np.arange(80) % 8
    probs = np.full((80, 8), 0.02)
    probs[np.arange(80), labels] = 0.86
    found = find_wrong_labels(labels, probs)
    assert len(found.rows) == 0
    assert found.estimated_fraction == 0
    assert np.array_equal(found.confident_joint, np.diag(np.full(8, 10)))


def test_a_small_case_by_hand() -> None:
    # Thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.7 + 0.5) / 2 = 0.6.
    labels = np.array([0, 0, 0, 1, 1])
    first = np.array([0.9, 0.8, 0.1, 0.3, 0.5])
    found = find_wrong_labels(labels, np.stack([first, 1 - first], axis=1))
    # Row 4 reaches neither threshold and is counted nowhere.
    assert found.confident_joint.tolist() == [[2, 1], [0, 1]]
    assert found.rows.tolist() == [2]
    assert found.suggested.tolist() == [1]
    assert found.margin == pytest.approx([-0.8])
    assert found.joint == pytest.approx(np.array([[0.4, 0.2], [0.0, 0.4]]))
    assert found.estimated_fraction == pytest.approx(0.2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_confident_joint_and_the_margins_equal_cleanlabs(seed: int) -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab is not installed")
    rank = pytest.importorskip("cleanlab.rank")
    labels, probs, _ = planted(seed=seed)
    joint, rows = count.compute_confident_joint(
        labels, probs, calibrate=False, return_indices_of_off_diagonals=True
    )
    found = find_wrong_labels(labels, probs)
    assert np.array_equal(found.confident_joint, joint)
    assert set(found.rows.tolist()) == set(rows)
    assert found.joint == pytest.approx(count.estimate_joint(labels, probs), abs=1e-3)
    # cleanlab maps the margin from [-1, 1] to [0, 1].
    quality = rank.get_normalized_margin_for_each_label(labels, probs)[found.rows]
    assert (found.margin + 1) / 2 == pytest.approx(quality)


def test_classes_without_labels_and_no_rows() -> None:
    labels, probs, _ = planted(n=300, k=3)
    wide = np.concatenate([probs, np.full((300, 1), 1e-9)], axis=1)
    assert np.array_equal(
        find_wrong_labels(labels, wide).rows, find_wrong_labels(labels, probs).rows
    )
    nothing = find_wrong_labels(np.zeros(0, int), np.zeros((0, 8)))
    assert len(nothing.rows) == 0
    assert nothing.estimated_fraction == 0


@pytest.mark.parametrize(
    ("labels", "probs", "says"),
    [
        ([0, 1], [[1.0, 0.0]], "one row of probabilities is needed per label"),
        ([0, 2], [[1.0, 0.0], [0.0, 1.0]], "labels lie in 0 to 2, not in 0 to 1"),
        ([0, 1], [[1.0, 0.0], [np.nan, 1.0]], "not finite"),
    ],
)
def test_mistakes_are_named(labels: list[int], probs: list[list[float]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        find_wrong_labels(np.array(labels), np.array(probs))
