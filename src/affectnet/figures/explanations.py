"""Figures that explain a model: attention maps over faces, their means, and a map of features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from affectnet.figures.style import (
    CLASS_COLOURS,
    COLUMN_WIDTH,
    FULL_WIDTH,
    INK,
    MUTED,
    PAPER,
    message_figure,
    new_figure,
    one_axes,
    rgb,
    styled,
    write_message,
)
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

Floats = NDArray[np.floating[Any]]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Classes differ in their marker too, not only in colour."""
UNLABELLED = "#b8c0c8"


def heat() -> ListedColormap:
    """From transparent through violet and orange to pale yellow: lightness rises with the value."""
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
        maps: (n, S, S) in [0, 1], scaled to the size of the image.
        captions: n texts under the pairs.
        columns: faces per row.
        title: above the faces.
    """
    if len(images) == 0:
        return message_figure(f"{title}: no face to explain" if title else "no face to explain")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = FULL_WIDTH / 6.6
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    height = (2 * cell + 0.14 * lines + 0.08) * rows + (0.3 if title else 0.1)
    figure = new_figure(max(2.6, cell * columns + 0.6), height, title)
    figure.set_layout_engine("constrained", h_pad=0.015, w_pad=0.03, hspace=0)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        above.imshow(rgb(image), interpolation="lanczos")
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

    The colour scale ends at the largest value of the eight means.

    Args:
        images: n images of one size, uint8 (S, S) or (S, S, 3).
        maps: (n, S, S) in [0, 1].
        labels: (n,) classes 0-7, -1 for a face that is left out.
        title: above the faces.
        classes: of the model, the first of the eight; the others get no panel.
    """
    if not (labels >= 0).any():
        return message_figure("no face with an expression to explain")
    figure = new_figure(FULL_WIDTH, 4.1 if title else 3.9, title)
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
            write_message(axes, "no face")
            axes.set_aspect("equal")
            continue
        face = np.mean([rgb(images[i]).astype(np.float64) for i in own.tolist()], axis=0)
        _overlay(axes, face.astype(np.uint8), means[c] / top)
        if not means[c].any():
            axes.text(
                0.5,
                0.04,
                "no region supports this expression",
                transform=axes.transAxes,
                ha="center",
                fontsize=6,
                color=INK,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
            )
    _scale(figure, grid)
    return figure


def _overlay(axes: Axes, image: NDArray[np.uint8], weight: Floats) -> None:
    """Draw a map over the face in grey, so that only the map has colour."""
    grey = rgb(image).astype(np.float64) @ (0.299, 0.587, 0.114)
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


@styled
def feature_map(
    points: NDArray[Any],
    expression: NDArray[Any],
    right: NDArray[np.bool_] | None = None,
    method: str = "",
    of: int | None = None,
) -> Figure:
    """Features in two dimensions, coloured by expression.

    Args:
        points: (n, 2), of `report.embedding.embed`.
        expression: (n,) classes 0-7, -1 where missing.
        right: (n,) whether each face is predicted correctly; wrong ones are drawn hollow.
        method: how the points were computed, for the caption.
        of: how many faces there are, where `points` are a sample of them.
    """
    if len(points) == 0:
        return message_figure("no face to map")
    figure, axes = one_axes(COLUMN_WIDTH + 1.3, COLUMN_WIDTH)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    filled = np.ones(len(points), bool) if right is None else right
    size = float(np.clip(6000 / len(points), 7, 30))
    handles = []
    classes = zip(EXPRESSIONS, CLASS_COLOURS, MARKERS, strict=True)
    for c, (name, colour, marker) in enumerate((("unlabelled", UNLABELLED, "o"), *classes), -1):
        own = expression == c
        if not own.any():
            continue
        for solid in (True, False):
            some = own & (filled == solid)
            axes.scatter(
                points[some, 0],
                points[some, 1],
                s=size,
                marker=marker,
                facecolors=colour if solid else "none",
                edgecolors=PAPER if solid else colour,
                linewidths=0.3 if solid else 0.8,
                alpha=0.85,
                rasterized=True,
                gid=f"{name}-{'right' if solid else 'wrong'}",
            )
        handles.append(_key(f"{name} ({int(own.sum()):,})", marker, colour, colour))
    if right is not None and not right.all():
        handles.append(_key("predicted wrongly", "o", "none", MUTED))
    figure.legend(handles=handles, loc="outside right upper")
    n = len(points)
    faces = f"{n:,} faces" if of is None or of == n else f"{n:,} of {of:,} faces"
    caption = "\n".join([faces, *method.split("; ")]) if method else faces
    axes.set_xlabel(caption, color=MUTED, fontsize=7.5)
    return figure


def _key(label: str, marker: str, face: str, edge: str) -> Line2D:
    return Line2D(
        [], [], ls="", marker=marker, mfc=face, mec=edge, mew=0.8, markersize=5.5, label=label
    )
