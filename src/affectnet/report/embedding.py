"""The features of a model on a split, and their map in two dimensions."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from affectnet.errors import ConfigError, suggest

if TYPE_CHECKING:
    from affectnet.data.store import Split
    from affectnet.models.affect_model import AffectModel

Method = Literal["tsne", "umap", "pca"]
METHODS: Final[dict[Method, str]] = {
    "tsne": "t-SNE of the backbone's features; distances between groups are not meaningful",
    "umap": "UMAP of the backbone's features; distances between groups are not meaningful",
    "pca": "the first two principal components of the backbone's features",
}
"""Method of a map -> its caption."""
MOST_FACES: Final = 2000  # in a map: t-SNE of as many takes about ten seconds on one core
COMPONENTS: Final = 50  # input of t-SNE and UMAP (van der Maaten and Hinton 2008 use 30)
PERPLEXITY: Final = 30.0

Floats = NDArray[np.float64]


def split_features(
    model: "AffectModel", split: "Split", rows: NDArray[np.integer[Any]], batch_size: int = 64
) -> NDArray[np.float32]:
    """The backbone's features of some faces, the input of the heads: float32 (n, num_features).

    Raises:
        DataError: an image cannot be decoded.
    """
    import torch

    from affectnet.data.augment import normalise, to_float
    from affectnet.data.dataset import FaceDataset

    preprocessing = model.preprocessing
    faces = FaceDataset(split, preprocessing.size, interpolation=preprocessing.interpolation)
    device = next(model.parameters()).device
    features = np.empty((len(rows), model.num_features), np.float32)
    starts = range(0, len(rows), batch_size)
    with evaluating(model), torch.inference_mode():
        for start in tqdm(starts, desc="features", unit="batch", leave=False, disable=None):
            batch_rows = slice(start, start + batch_size)
            images = to_float(faces.images(np.asarray(rows[batch_rows], np.int64)).to(device))
            batch = normalise(images, preprocessing.mean, preprocessing.std, inplace=True)
            features[batch_rows] = model.features(batch).float().cpu().numpy()
    return features


@contextmanager
def evaluating(model: "AffectModel") -> Iterator[None]:
    """Set the model to evaluation mode, and back to its earlier mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def principal_components(features: NDArray[Any], k: int) -> Floats:
    """Project features (n, f) onto their first k principal components, float64 (n, min(k, f)).

    The largest loading of each component is positive, which makes its sign reproducible.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:k]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return np.asarray(centred @ (directions * signs[:, None]).T)


def embed(features: NDArray[Any], method: Method = "tsne", seed: int = 0) -> Floats:
    """Embed features (n, f) in two dimensions, (n, 2).

    At most 50 principal components are the input of t-SNE (van der Maaten and Hinton 2008,
    perplexity 30, lower with few faces) or UMAP (McInnes et al. 2018; needs the package
    `umap-learn`). The same features and seed give the same map on the same machine. With fewer
    than six faces, the first two principal components are returned for every method.

    Raises:
        ConfigError: an unknown method, or UMAP without its package.
    """
    if method not in METHODS:
        raise ConfigError(
            f"method {method!r}{suggest(method, METHODS)}; choose one of {', '.join(METHODS)}"
        )
    n = len(features)
    reduced = principal_components(features, COMPONENTS) if n else np.zeros((0, 2))
    first_two = np.zeros((n, 2))
    first_two[:, : reduced.shape[1]] = reduced[:, :2]
    if method == "pca" or n < 6:
        return first_two
    if method == "umap":
        return _umap(reduced, seed)
    from sklearn.manifold import TSNE

    start = first_two / max(float(reduced[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (n - 1) / 3)
    layout = TSNE(init=start.astype(np.float32), perplexity=perplexity, random_state=seed)
    return np.asarray(layout.fit_transform(reduced), np.float64)


def _umap(reduced: Floats, seed: int) -> Floats:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise ConfigError(
            "method 'umap' needs the package umap-learn; install it, or use method 'tsne'"
        ) from error
    with warnings.catch_warnings():
        # It warns that a seed implies a single thread, which is wanted here.
        warnings.filterwarnings("ignore", message="n_jobs value")
        layout = umap.UMAP(n_neighbors=min(15, len(reduced) - 1), random_state=seed)
        return np.asarray(layout.fit_transform(reduced), np.float64)
