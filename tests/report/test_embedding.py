import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from affectnet.data.store import open_split
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel
from affectnet.report.embedding import (
    METHODS,
    embed,
    principal_components,
    split_features,
)


def groups(n: int = 30, width: int = 20) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features of three groups that are separate."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), n)
    return rng.normal(0, 1, (3, width))[labels] * 6 + rng.normal(0, 1, (3 * n, width)), labels


def test_principal_components_are_scikit_learns() -> None:
    features, _ = groups()
    expected = PCA(5).fit_transform(features)
    found = principal_components(features, 5)
    # The sign of a direction is a convention.
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_keeps_neighbours_and_groups(method: str) -> None:
    features, labels = groups()
    points = embed(features, method)
    assert points.shape == (90, 2)
    assert trustworthiness(features, points, n_neighbors=5) > 0.75
    nearest = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(nearest, np.inf)
    assert (labels[nearest.argmin(axis=1)] == labels).mean() > 0.95


def test_the_same_seed_gives_the_same_map() -> None:
    features, _ = groups(12)
    first, again, other = (embed(features, "tsne", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(other).all()


@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 7])
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_few_faces(n: int, method: str) -> None:
    points = embed(np.random.default_rng(0).normal(size=(n, 4)), method)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("features", [np.ones((8, 3)), np.arange(8.0)[:, None]])
def test_features_without_spread(features: NDArray[np.float64], method: str) -> None:
    points = embed(features, method)
    assert points.shape == (8, 2)
    assert np.isfinite(points).all()


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tsne'"):
        embed(np.zeros((9, 3)), "tnse")
    assert all("feature" in caption for caption in METHODS.values())


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap is installed")
def test_umap_without_its_package_names_what_to_install() -> None:
    with pytest.raises(ConfigError, match="umap-learn"):
        embed(groups()[0], "umap")


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap is not installed")
def test_umap_keeps_neighbours() -> None:
    features, _ = groups()
    points = embed(features, "umap")
    assert trustworthiness(features, points, n_neighbors=5) > 0.75


def test_features_are_what_the_heads_see(faces: Path) -> None:
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48).train()
    split = open_split(faces, "test")
    rows = np.array([5, 0, 17, 17, 80])
    found = split_features(model, split, rows, batch_size=2)
    assert found.shape == (5, model.num_features)
    assert model.training
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)  # one face, in two batches
    image = torch.from_numpy(np.array(_pixels(split, 17))).permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std)
    )
    with torch.no_grad():
        expected = model.eval().features((image - mean) / std)[0].numpy()
    np.testing.assert_allclose(found[2], expected, atol=1e-5)


def _pixels(split, row: int) -> NDArray[np.uint8]:
    from affectnet.data.images import decode_image

    return decode_image(split.image_bytes(row), 48)
