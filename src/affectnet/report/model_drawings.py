"""The figures that need the trained model itself, not only its predictions."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.data.store import decode_image, open_split
from affectnet.errors import RunError
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.report.choice import fair_sample, most_confident
from affectnet.report.drawings import Drawing
from affectnet.report.figures.attention import attention_overlays, mean_attention
from affectnet.report.figures.faces import class_name
from affectnet.report.figures.feature_map import feature_map
from affectnet.report.runs import EvaluatedRun, read_run

if TYPE_CHECKING:
    from affectnet.models.affect_model import AffectModel
    from affectnet.report.embedding import Method

OVERLAYS = 12
EACH = 24
"""Faces of each expression in a mean map."""


def model_drawings(
    run: EvaluatedRun | Path | str,
    dataset: Path | str,
    split: str = "test",
    *,
    method: "Method" = "tsne",
    most: int | None = None,
    seed: int = 0,
) -> list[Drawing]:
    """Where the model looks, rightly and wrongly and on average, and the map of its features.

    Nothing is computed before a drawing is drawn.

    Args:
        run: an evaluated run with its `model/`.
        dataset: the folder that it was evaluated on.
        split: of the dataset; that of `run` where it is read already.
        method: of the feature map, `tsne`, `umap` or `pca`.
        most: faces in the feature map, at most; 2,000 where None.
        seed: of the feature map, and of the faces in it.

    Raises:
        RunError: the run is not evaluated on this split, or its model is gone.
        DataError: no such dataset or split.
    """
    known = run if isinstance(run, EvaluatedRun) else read_run(Path(run), split)
    if not (known.folder.model / "config.json").is_file():
        raise RunError(
            f"{known.folder.path} holds no trained model, which these figures need; train the run "
            "again, or leave them out"
        )
    view = _View(known, Path(dataset))
    p = known.predictions
    average = _average_rows(view)
    return [
        _overlays(view, "wrong", "What it looked at when surely wrong"),
        _overlays(view, "right", "What it looked at when surely right"),
        Drawing(
            "attention-mean",
            "Where it looks for each expression",
            f"Grad-CAM for the annotated expression, mean of up to {EACH} faces, over the mean of "
            "these faces.",
            "Mean Grad-CAM map of each expression over its mean face.",
            lambda: _mean(view, average),
            "" if len(average) else "no face in the dataset has an annotated expression",
            wide=True,
        ),
        Drawing(
            "feature-map",
            "Which faces are alike to it",
            "Each mark is a face, coloured by annotated expression; hollow: predicted wrongly. "
            "Groups that run into one another are expressions that it cannot tell apart.",
            f"Map of the features of faces, by {method}, coloured by annotated expression.",
            lambda: _feature_map(view, method, most, seed),
            "" if len(p) else "there is no face",
            wide=True,
        ),
    ]


class _View:
    """A run beside the images of its faces; the model is loaded when it is first asked for."""

    def __init__(self, run: EvaluatedRun, dataset: Path) -> None:
        self.run = run
        self.split = open_split(dataset, run.split)
        places = {face: row for row, face in enumerate(self.split.ids)}
        self.rows = np.array([places.get(face, -1) for face in run.predictions.ids], np.int64)
        """Row in the split of each predicted face, -1 where it is not there."""
        self.model: Callable[[], AffectModel] = cache(self._load)

    def _load(self) -> "AffectModel":
        from affectnet.models.affect_model import AffectModel

        return AffectModel.from_pretrained(self.run.folder.model)

    def there(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those rows of the predictions whose image is in the dataset."""
        return rows[self.rows[rows] >= 0]

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The faces as the model takes them, uint8 (n, S, S, 3)."""
        prep = self.model().preprocessing
        size = prep.size
        images = np.empty((len(rows), size, size, 3), np.uint8)
        for i, row in enumerate(self.rows[rows].tolist()):
            images[i] = decode_image(self.split.image_bytes(row), size, prep.interpolation)
        return images


def _overlays(view: _View, kind: str, title: str) -> Drawing:
    p = view.run.predictions
    surest = most_confident(p, "wrong" if kind == "wrong" else "right", len(p))
    rows = _in_turn(view.there(surest), p.expression)[:OVERLAYS]

    def draw() -> Figure:
        from affectnet.report.explain import grad_cam

        images = view.images(rows)
        says = [EXPRESSIONS[c] for c in p.expression_pred[rows]]
        captions = [
            name if kind == "right" else f"{name}\nis {class_name(truth)}"
            for name, truth in zip(says, p.expression[rows], strict=True)
        ]
        return attention_overlays(images, grad_cam(view.model(), images, says), captions)

    return Drawing(
        f"attention-{kind}",
        title,
        "Grad-CAM for the predicted expression: the brighter, the more that part of the face "
        "spoke for it. Each expression gives in turn its surest.",
        f"Grad-CAM maps over {len(rows)} faces of each expression that the model is most "
        f"confidently {kind} about.",
        draw,
        "" if len(rows) else f"no face in the dataset is predicted {kind}",
        wide=True,
    )


def _in_turn(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in another order: the first of each class, then the second of each, and so on."""
    rank = np.empty(len(rows), np.int64)
    for c in np.unique(labels[rows]):
        own = labels[rows] == c
        rank[own] = np.arange(own.sum())
    return rows[np.argsort(rank, kind="stable")]


def _average_rows(view: _View) -> NDArray[np.int64]:
    """Some faces of each expression that the model tells apart, chosen by id."""
    p = view.run.predictions
    order = view.there(fair_sample(p, len(p)))
    return np.concatenate([order[p.expression[order] == c][:EACH] for c in range(N_EXPRESSIONS)])


def _mean(view: _View, rows: NDArray[np.int64]) -> Figure:
    from affectnet.report.explain import grad_cam

    p, model = view.run.predictions, view.model()
    known = np.array([EXPRESSIONS[c] in model.classes for c in p.expression[rows]])
    rows = rows[known]
    images = view.images(rows)
    targets = [EXPRESSIONS[c] for c in p.expression[rows]]
    return mean_attention(images, grad_cam(model, images, targets), p.expression[rows])


def _feature_map(view: _View, method: Any, most: int | None, seed: int) -> Figure:
    from affectnet.report.embedding import MOST_FACES, embed, method_words, split_features
    from affectnet.report.figures.style import thin

    p = view.run.predictions
    every = view.there(np.arange(len(p)))
    rows = every[thin(len(every), MOST_FACES if most is None else most, seed)]
    points = embed(split_features(view.model(), view.split, view.rows[rows]), method, seed)
    right = p.right[rows] if p.labelled[rows].any() else None
    return feature_map(points, p.expression[rows], right, method_words(method), len(every))
