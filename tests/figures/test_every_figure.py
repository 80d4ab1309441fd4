"""All public figures with poor input: each draws what is given, or states what is missing."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from affectnet import figures

BASELINES = Path(__file__).parent / "baseline"


@dataclass(frozen=True)
class Arrays:
    """Predictions of n faces, as the figures take them."""

    truth: NDArray[Any]
    preds: NDArray[Any]
    probabilities: NDArray[Any]
    affect: NDArray[Any]
    affect_pred: NDArray[Any]
    history: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def images(self) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(0, 256, (len(self.truth), 12, 12, 3), np.uint8)

    @property
    def maps(self) -> NDArray[Any]:
        return np.random.default_rng(1).random((len(self.truth), 12, 12))

    @property
    def confidence(self) -> NDArray[Any]:
        return self.probabilities.max(axis=1) if len(self.truth) else np.zeros(0)


def faces(n: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 8, n)
    probabilities = rng.dirichlet(np.ones(8), n)
    affect, affect_pred = rng.uniform(-1, 1, (2, 2, n))
    epochs = np.arange(3.0)
    history = {"epoch": epochs, "train_loss": 2 - epochs / 4, "val_loss": 2 - epochs / 5}
    return Arrays(truth, probabilities.argmax(axis=1), probabilities, affect, affect_pred, history)


def nothing(like: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(like, np.nan)


TEN = faces(10)
MANY = faces(60)
POOR = {
    "no row": faces(0),
    "one row": faces(1),
    "ten rows": TEN,
    "one class, the others empty": replace(MANY, truth=np.zeros(60, int)),
    "one class, always right": replace(
        MANY,
        truth=np.full(60, 3),
        preds=np.full(60, 3),
        probabilities=np.tile(np.eye(8)[3], (60, 1)),
    ),
    "valence NaN": replace(MANY, affect=np.stack([nothing(MANY.affect[0]), MANY.affect[1]])),
    "no affect": replace(MANY, affect=nothing(MANY.affect), affect_pred=nothing(MANY.affect)),
    "some affect and no epoch": replace(
        MANY,
        affect=np.where(np.arange(60) % 9, np.nan, MANY.affect),
        history={"epoch": np.arange(2.0), "val_loss": np.full(2, np.nan)},
    ),
    "affect all the same": replace(
        MANY, affect=np.zeros((2, 60)), affect_pred=np.full((2, 60), 0.3)
    ),
    "affect predicted beyond 1": replace(MANY, affect_pred=3 * MANY.affect_pred),
    "unlabelled": replace(MANY, truth=np.full(60, -1)),
    "no probabilities": replace(MANY, probabilities=nothing(MANY.probabilities)),
}


def over_time(a: Arrays) -> Figure:
    line = figures.Line("face 1", np.arange(len(a.truth)) / 25, *a.affect_pred, a.preds, 1 / 25)
    return figures.affect_over_time([line] if len(a.truth) else [], len(a.truth) / 25)


DRAW: dict[str, Callable[[Arrays], Figure]] = {
    "affect_over_time": over_time,
    "affect_density": lambda a: figures.affect_density(*a.affect, a.truth),
    "affect_scatter": lambda a: figures.affect_scatter(a.truth, *a.affect, *a.affect_pred),
    "attention_overlays": lambda a: figures.attention_overlays(a.images[:4], a.maps[:4]),
    "class_distribution": lambda a: figures.class_distribution(
        {"test": np.bincount(a.truth[a.truth >= 0], minlength=8)}
    ),
    "confusion_matrix": lambda a: figures.confusion_matrix(
        figures.confusion_counts(a.truth, a.preds)
    ),
    "error_by_region": lambda a: figures.error_by_region(*a.affect, *a.affect_pred),
    "feature_map": lambda a: figures.feature_map(a.affect_pred.T, a.truth, a.truth == a.preds),
    "gallery": lambda a: figures.gallery(
        list(a.images[:5]), a.truth[:5], a.preds[:5], a.confidence[:5], a.affect.T[:5]
    ),
    "learning_curves": lambda a: figures.learning_curves({"run": a.history}),
    "mean_attention": lambda a: figures.mean_attention(a.images, a.maps, a.truth),
    "precision_recall_curves": lambda a: figures.precision_recall_curves(a.truth, a.probabilities),
    "predicted_against_true": lambda a: figures.predicted_against_true(*a.affect, *a.affect_pred),
    "reliability_diagram": lambda a: figures.reliability_diagram(a.confidence, a.truth == a.preds),
    "residual_arrows": lambda a: figures.residual_arrows(*a.affect, *a.affect_pred),
    "roc_curves": lambda a: figures.roc_curves(a.truth, a.probabilities),
    "sample_grid": lambda a: figures.sample_grid(
        [list(a.images[a.truth == c][:3]) for c in range(8)]
    ),
    "training_batch": lambda a: figures.training_batch(
        list(a.images), [f"label {c}\nV+0.10 A-0.20" for c in a.truth]
    ),
}


def returns_a_figure(name: str) -> bool:
    function = getattr(figures, name)
    result = getattr(inspect.unwrap(function), "__annotations__", {}).get("return")
    return inspect.isfunction(function) and result in (Figure, "Figure")


def test_every_public_figure_is_tested() -> None:
    assert {name for name in figures.__all__ if returns_a_figure(name)} == set(DRAW)


@pytest.mark.parametrize("case", POOR)
def test_poor_input_gives_data_or_a_message(case: str) -> None:
    for name, draw in DRAW.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = draw(POOR[case])
            figure.set_dpi(30)
            figure.canvas.draw()
        words = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
        assert any(word.strip() for word in words) or figure.findobj(lambda a: a.get_gid()), name
        assert not any("mathdefault" in word or "nan" in word.split() for word in words), name


@pytest.mark.parametrize(("n", "marks"), [(1, ["1"]), (4000, None)])
def test_the_bar_of_the_density_counts_faces_in_plain_numbers(n: int, marks: Any) -> None:
    a = faces(n)
    figure = figures.affect_density(*a.affect * 0.4, a.truth)
    bar = figure.axes[1]
    figure.canvas.draw()
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels == marks if marks else len(labels) >= 3
    assert [int(label.replace(",", "")) for label in labels] == pytest.approx(bar.get_yticks())
    assert not [label for label in bar.get_yticklabels(minor=True) if label.get_text()]


def test_mean_attention_matches_the_stored_image(
    same_as_stored: Callable[[Figure, str], None],
) -> None:
    y, x = np.mgrid[:24, :24]
    labels = np.arange(16) % 8
    images = np.full((16, 24, 24), 120, np.uint8)
    maps = np.stack([np.exp(-(np.hypot(x - 3 * c, y - 12) ** 2) / 30) for c in labels])
    maps[labels == 5] = 0
    same_as_stored(figures.mean_attention(images, maps, labels), "mean-attention")


def test_affect_over_time_matches_the_stored_image(
    same_as_stored: Callable[[Figure, str], None],
) -> None:
    time = np.arange(80) / 25
    lines = [
        figures.Line(
            f"face {i}", time, np.sin(time + i), np.cos(time * i), (time * 3).astype(int) % 8, 0.04
        )
        for i in (1, 2)
    ]
    same_as_stored(figures.affect_over_time(lines, 3.2), "over-time")


def test_every_figure_has_a_stored_image() -> None:
    stored = {path.stem for path in BASELINES.glob("*.png")}
    names = {
        "affect_density": "density",
        "affect_over_time": "over-time",
        "affect_scatter": "scatter",
        "attention_overlays": "attention",
        "class_distribution": "distribution",
        "confusion_matrix": "confusion",
        "error_by_region": "regions",
        "feature_map": "features",
        "gallery": "gallery",
        "learning_curves": "curves",
        "mean_attention": "mean-attention",
        "precision_recall_curves": "pr",
        "predicted_against_true": "against",
        "reliability_diagram": "reliability",
        "residual_arrows": "residuals",
        "roc_curves": "roc",
        "sample_grid": "samples",
        "training_batch": "batch",
    }
    assert set(names) == set(DRAW)
    assert set(names.values()) <= stored
