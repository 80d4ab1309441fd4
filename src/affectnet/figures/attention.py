"""Figures of where a model looks: maps over single faces, and their mean over each expression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.figures.style import (
    FULL_WIDTH,
    INK,
    MUTED,
    PAPER,
    message_figure,
    new_figure,
    say,
    styled,
)
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

Floats = NDArray[np.floating[Any]]


def heat() -> ListedColormap:
    """From clear over violet and orange to pale yellow: lightness rises with the value."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](np.linspace(0.25, 0.97, 256))
    colours[:, 3] = 0.85 * np.linspace(0, 1, 256) ** 1.2
    return ListedColormap(colours, name="heat")


@styled
def attention_overlays(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    maps: Floats,
    captions: Sequence[str] = (),
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Faces, and under each the same face with its map over it.

    Args:
        images: n images, uint8 (h, w) or (h, w, 3).
        maps: (n, S, S) in [0, 1], stretched over the image.
        captions: n lines under the pairs.
        columns: faces a row.
        title: above them.
    """
    if len(images) == 0:
        return message_figure(f"{title}: no face to explain" if title else "no face to explain")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = FULL_WIDTH / 6.6
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    height = (2 * cell + 0.14 * lines + 0.08) * rows + (0.3 if title else 0.1)
    figure = new_figure(max(2.6, cell * columns + 0.6), height)
    figure.set_layout_engine("constrained", h_pad=0.015, w_pad=0.03, hspace=0)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9.5)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        above.imshow(_rgb(image), interpolation="lanczos")
        _overlay(below, image, maps[i])
        if captions:
            below.text(
                0.5,
                -0.04,
                captions[i],
                transform=below.transAxes,
                ha="center",
                va="top",
                fontsize=6.5,
                linespacing=1.2,
            )
    _scale(figure, grid)
    return figure


@styled
def mean_attention(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    maps: Floats,
    labels: NDArray[Any],
    title: str = "",
    classes: Sequence[str] = EXPRESSIONS,
) -> Figure:
    """The mean map of each expression over its mean face, with the number of faces.

    The colours reach up to the greatest of the eight means.

    Args:
        images: n images of one size, uint8 (S, S) or (S, S, 3).
        maps: (n, S, S) in [0, 1].
        labels: (n,) classes 0-7, -1 for a face that is left out.
        title: above them.
        classes: the first of the eight that the model knows; the others have no place.
    """
    if not (labels >= 0).any():
        return message_figure("no face with an expression to explain")
    figure = new_figure(FULL_WIDTH, 4.1 if title else 3.9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9.5)
    grid = figure.subplots(2, N_EXPRESSIONS // 2, squeeze=False)
    means = {c: maps[labels == c].mean(axis=0) for c in np.unique(labels[labels >= 0]).tolist()}
    top = max(float(mean.max()) for mean in means.values()) or 1.0
    for c, axes in enumerate(grid.ravel()):
        own = np.flatnonzero(labels == c)
        axes.set_axis_off()
        if c >= len(classes):
            continue
        axes.set_title(f"{EXPRESSIONS[c]}, {len(own):,}", fontsize=8.5)
        if len(own) == 0:
            say(axes, "no face")
            axes.set_aspect("equal")
            continue
        face = np.mean([_rgb(images[i]).astype(np.float64) for i in own.tolist()], axis=0)
        _overlay(axes, face.astype(np.uint8), means[c] / top)
        if not means[c].any():
            axes.text(
                0.5,
                0.04,
                "nothing in these faces speaks for it",
                transform=axes.transAxes,
                ha="center",
                fontsize=6,
                color=INK,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
            )
    _scale(figure, grid)
    return figure


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.stack([image] * 3, axis=2)


def _overlay(axes: Axes, image: NDArray[np.uint8], weight: Floats) -> None:
    """A map over the face in grey, so that colour means the map alone."""
    grey = _rgb(image).astype(np.float64) @ (0.299, 0.587, 0.114)
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
    axes.imshow(weight, cmap=heat(), vmin=0, vmax=1, interpolation="bilinear", extent=extent)


def _scale(figure: Figure, grid: NDArray[Any]) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), heat()),
        ax=grid,
        shrink=0.5,
        aspect=26,
        pad=0.015,
        ticks=[0, 1],
    )
    bar.ax.set_yticklabels(["none", "most"], color=MUTED, fontsize=7)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


__all__ = ["attention_overlays", "mean_attention"]
