"""Mixup and CutMix against numpy, face by face."""

import numpy as np
import pytest
import torch

from affectnet.data.augment import Mixing, mix

SIDE = 12


def batch_of(rng: np.random.Generator, n: int = 10) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    images = torch.from_numpy(rng.random((n, 3, SIDE, SIDE), np.float32))
    return images, {
        "expression": torch.from_numpy(rng.integers(0, 8, n)),
        "valence": torch.from_numpy(rng.uniform(-1, 1, n).astype(np.float32)),
        "arousal": torch.from_numpy(rng.uniform(-1, 1, n).astype(np.float32)),
        "soft": torch.from_numpy(rng.dirichlet(np.ones(8), n).astype(np.float32)),
    }


def own_share(mixed: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """The share of mixup by least squares over the pixels."""
    gap = (own - other).astype(np.float64)
    return float(((mixed - other) * gap).sum() / (gap * gap).sum())


@pytest.mark.parametrize("soft", [False, True])
def test_mixup_blends_pictures_and_targets_by_one_share(soft: bool) -> None:
    images, batch = batch_of(np.random.default_rng(0))
    mixed, labels = mix(images, batch, Mixing(mixup=1.0), np.random.default_rng(1), soft=soft)
    targets = batch["soft"].numpy() if soft else np.eye(8)[batch["expression"].numpy()]
    shares = []
    for i in range(len(images)):
        own, other = images[i].numpy(), images[i - 1].numpy()
        share = own_share(mixed[i].numpy(), own, other)
        shares.append(share)
        assert 0.5 <= share <= 1 + 1e-6
        np.testing.assert_allclose(mixed[i], share * own + (1 - share) * other, atol=1e-5)
        blended = share * targets[i] + (1 - share) * targets[i - 1]
        np.testing.assert_allclose(labels["soft"][i], blended, atol=1e-5)
        for name in ("valence", "arousal"):
            value = batch[name].numpy()
            expected = share * value[i] + (1 - share) * value[i - 1]
            assert float(labels[name][i]) == pytest.approx(expected, abs=1e-5)
    assert len({round(share, 4) for share in shares}) == len(shares)
    assert torch.equal(labels["expression"], batch["expression"])


def test_cutmix_pastes_one_rectangle_and_blends_by_its_area() -> None:
    images, batch = batch_of(np.random.default_rng(0), 40)
    mixed, labels = mix(images, batch, Mixing(cutmix=1.0), np.random.default_rng(1))
    pasted_somewhere = 0
    for i in range(len(images)):
        own, other = images[i].numpy(), images[i - 1].numpy()
        foreign = (mixed[i].numpy() != own).all(axis=0)
        np.testing.assert_array_equal(mixed[i], np.where(foreign, other, own))
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign.sum() == len(rows) * len(columns)  # one rectangle, without holes
        pasted_somewhere += bool(foreign.any())
        share = 1 - foreign.mean()
        value = batch["valence"].numpy()
        expected = share * value[i] + (1 - share) * value[i - 1]
        assert float(labels["valence"][i]) == pytest.approx(expected, abs=1e-5)
    assert pasted_somewhere > 20


def test_a_missing_target_poisons_no_partner() -> None:
    images, batch = batch_of(np.random.default_rng(0))
    batch["valence"][3] = torch.nan
    batch["expression"][6] = -1
    mixed, labels = mix(images, batch, Mixing(mixup=1.0), np.random.default_rng(1))
    assert torch.isnan(labels["valence"]).nonzero().flatten().tolist() == [3]
    unlabelled = torch.isnan(labels["soft"]).all(dim=1)
    assert unlabelled.nonzero().flatten().tolist() == [6]
    for i in (3, 4, 6, 7):  # neither the face itself nor the one that it would have been mixed into
        assert torch.equal(mixed[i], images[i])
        assert torch.equal(labels["arousal"][i], batch["arousal"][i])
    assert not torch.equal(mixed[5], images[5])


def test_alike_missing_targets_still_mix() -> None:
    images, batch = batch_of(np.random.default_rng(0))
    batch["valence"][:] = torch.nan
    mixed, labels = mix(images, batch, Mixing(mixup=1.0), np.random.default_rng(1))
    assert not torch.equal(mixed, images)
    assert torch.isnan(labels["valence"]).all()
    assert labels["arousal"].isfinite().all()


def test_share_of_the_faces_that_are_mixed() -> None:
    images, batch = batch_of(np.random.default_rng(0), 2000)
    mixed, _ = mix(images, batch, Mixing(mixup=1.0, fraction=0.25), np.random.default_rng(1))
    changed = (mixed != images).flatten(1).any(dim=1).float().mean()
    assert float(changed) == pytest.approx(0.25, abs=0.04)
    assert not Mixing(mixup=1.0, fraction=0.0)
    assert not Mixing()


def test_draws_do_not_depend_on_the_number_of_processes() -> None:
    images, batch = batch_of(np.random.default_rng(0), 8)
    whole, _ = mix(images, batch, Mixing(mixup=1.0), np.random.default_rng(1))
    part = {name: value[4:] for name, value in batch.items()}
    half, _ = mix(images[4:], part, Mixing(mixup=1.0), np.random.default_rng(1), first=4, of=8)
    # The first of a part has another partner; the others are what they are in the whole batch.
    assert torch.equal(half[1:], whole[5:])
    own = own_share(whole[4].numpy(), images[4].numpy(), images[3].numpy())
    again = own_share(half[0].numpy(), images[4].numpy(), images[7].numpy())
    assert own == pytest.approx(again, abs=1e-5)
