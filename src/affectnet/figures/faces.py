"""Figures of face images: a grid by class, and galleries of right and wrong predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.figures.style import (
    FULL_WIDTH,
    INK,
    MUTED,
    RUN_COLOURS,
    message_figure,
    new_figure,
    one_axes,
    styled,
)
from affectnet.labels import EXPRESSIONS

Image = NDArray[np.uint8]


@styled
def sample_grid(samples: Sequence[Sequence[Image]], columns: int = 8) -> Figure:
    """One row of faces per expression.

    Args:
        samples: images of each of the eight classes, uint8 (h, w) or (h, w, 3); a class may have
            none.
        columns: at most this many faces per class.
    """
    if not any(len(row) for row in samples):
        return message_figure("no image to show")
    columns = min(columns, max(len(row) for row in samples))
    side = min(0.72, (FULL_WIDTH - 1) / columns)
    figure, axes = one_axes(1 + side * columns, side * len(samples))
    # One axes for all images: fifty axes would take a second to lay out.
    for c, images in enumerate(samples):
        for place, image in enumerate(images[:columns]):
            _show(axes, image, extent=(place, place + 0.94, c + 0.94, c))
        none = "" if len(images) else "\n(none)"
        axes.text(
            -0.12,
            c + 0.47,
            EXPRESSIONS[c] + none,
            ha="right",
            va="center",
            color=MUTED if none else INK,
        )
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(len(samples), 0)
    return figure


@styled
def gallery(
    images: Sequence[Image | None],
    truth: NDArray[Any],
    preds: NDArray[Any],
    confidence: NDArray[Any],
    affect: NDArray[Any] | None = None,
    affect_pred: NDArray[Any] | None = None,
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Faces with true and predicted expression, confidence, valence and arousal under each.

    The frame is blue and solid for right predictions, red and dashed for wrong ones.

    Args:
        images: n images, uint8 (h, w) or (h, w, 3); None where one could not be read.
        truth, preds: (n,) classes 0-7, -1 where missing.
        confidence: (n,) in [0, 1], NaN where missing.
        affect, affect_pred: (n, 2) valence and arousal, NaN where missing.
        columns: faces per row.
        title: above the faces.
    """
    if len(images) == 0:
        return message_figure(f"{title}: no such face" if title else "no face to show")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = FULL_WIDTH / 6
    figure = new_figure(max(2.4, cell * columns), (cell + 0.42) * rows + 0.3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, (axes, image) in enumerate(zip(grid, images, strict=False)):
        right = truth[i] == preds[i]
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(RUN_COLOURS[0] if right else RUN_COLOURS[1])
            spine.set_linestyle("-" if right else "--")
            spine.set_linewidth(1.6)
        _show(axes, image)
        axes.text(
            0.5,
            -0.04,
            _caption(i, truth, preds, confidence, affect, affect_pred),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=6,
            linespacing=1.25,
        )
    return figure


def _show(
    axes: Axes, image: Image | None, extent: tuple[float, float, float, float] | None = None
) -> None:
    if image is None:
        axes.set_aspect("equal")
        axes.text(0.5, 0.5, "no image", ha="center", va="center", color=MUTED, size=6.5)
        return
    colour = image if image.ndim == 3 else np.stack([image] * 3, axis=2)
    axes.imshow(colour, interpolation="lanczos", extent=extent)


def _caption(
    i: int,
    truth: NDArray[Any],
    preds: NDArray[Any],
    confidence: NDArray[Any],
    affect: NDArray[Any] | None,
    affect_pred: NDArray[Any] | None,
) -> str:
    predicted = class_name(preds[i])
    if np.isfinite(confidence[i]):
        predicted += f" {100 * confidence[i]:.0f}%"
    same = truth[i] == preds[i]
    lines = [predicted, "right" if same else f"is {class_name(truth[i])}"]
    if affect_pred is not None and np.isfinite(affect_pred[i]).all():
        line = f"V{affect_pred[i, 0]:+.2f} A{affect_pred[i, 1]:+.2f}"
        if affect is not None and np.isfinite(affect[i]).all():
            line += f"\nis V{affect[i, 0]:+.2f} A{affect[i, 1]:+.2f}"
        lines.append(line)
    return "\n".join(lines)


def class_name(label: int) -> str:
    """The name of a class index, `unlabelled` for -1."""
    return EXPRESSIONS[label] if label >= 0 else "unlabelled"
