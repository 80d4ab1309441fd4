"""Figures of face images: grids, galleries of right and wrong predictions, images with results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.figures.circumplex import draw_plane
from affectnet.figures.style import (
    FULL_WIDTH,
    INK,
    MUTED,
    RUN_COLOURS,
    message_figure,
    new_figure,
    one_axes,
    rgb,
    styled,
    write_message,
)
from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS, UNKNOWN_COLOUR

Image = NDArray[np.uint8]
Floats = NDArray[Any]


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
    figure = new_figure(max(2.4, cell * columns), (cell + 0.42) * rows + 0.3, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, (axes, image) in enumerate(zip(grid, images, strict=False)):
        right = truth[i] == preds[i]
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        colour, dash = (RUN_COLOURS[0], "-") if right else (RUN_COLOURS[1], "--")
        axes.spines[:].set(visible=True, color=colour, linestyle=dash, linewidth=1.6)
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


@styled
def training_batch(images: Sequence[Image], labels: Sequence[str], columns: int = 8) -> Figure:
    """Faces as a network sees them in training, with their labels below.

    Args:
        images: n images, uint8 (h, w, 3).
        labels: of each, up to three lines.
        columns: faces per row.
    """
    if len(images) == 0:
        return message_figure("no face to show")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = FULL_WIDTH / 8
    figure, axes = one_axes(cell * columns, cell * 1.36 * rows)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = i % columns, 1.36 * (i // columns)
        _show(axes, image, extent=(x, x + 0.96, y + 0.96, y))
        axes.text(x + 0.48, y + 0.98, label, ha="center", va="top", fontsize=5, linespacing=1.1)
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(1.36 * rows, 0)
    return figure


def _show(
    axes: Axes, image: Image | None, extent: tuple[float, float, float, float] | None = None
) -> None:
    if image is None:
        axes.set_aspect("equal")
        axes.text(0.5, 0.5, "no image", ha="center", va="center", color=MUTED, size=6.5)
        return
    axes.imshow(rgb(image), interpolation="lanczos", extent=extent)


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


def face_prediction(
    crop: Image, classes: Sequence[str], probabilities: Floats, affect: Floats
) -> Figure:
    """Draw the crop of one face, its probabilities as bars, and its point on the circumplex.

    Args:
        crop: RGB (size, size, 3).
        classes: names of the K expressions.
        probabilities: (K,), adding up to 1, or all NaN where not predicted.
        affect: valence and arousal, (2,) in [-1, 1], NaN where not predicted.
    """
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    image, bars, plane = figure.subplots(1, 3, width_ratios=(1, 1.25, 1.1))
    image.imshow(crop)
    image.set_axis_off()
    (best,) = _most_probable(classes, probabilities[None])
    title = f"{best} {probabilities.max():.0%}" if best else "face"
    figure.suptitle(title, fontsize=10, weight="bold")
    _draw_bars(bars, classes, probabilities)
    _draw_points(plane, [best], affect[None])
    return figure


def image_prediction(
    annotated: Image, classes: Sequence[str], probabilities: Floats, affect: Floats
) -> Figure:
    """Draw an annotated image, the bars of its first face, and all faces on the circumplex.

    Args:
        annotated: RGB (height, width, 3), the boxes drawn in.
        classes: names of the K expressions.
        probabilities: (n, K), one row per face, NaN where not predicted.
        affect: (n, 2), valence and arousal of each face, NaN where not predicted.
    """
    if len(probabilities) == 0:
        return images_prediction([annotated], [0])
    height, width = annotated.shape[:2]
    figure = Figure(figsize=(9.0, min(max(5.0 * height / width, 3.0), 6.0)), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    image = figure.add_subplot(grid[:, 0])
    image.imshow(annotated)
    image.set_axis_off()
    bars = figure.add_subplot(grid[0, 1])
    _draw_bars(bars, classes, probabilities[0])
    if len(probabilities) > 1:
        bars.set_title("face 1, the largest", fontsize=9, loc="left")
    _draw_points(figure.add_subplot(grid[1, 1]), _most_probable(classes, probabilities), affect)
    return figure


def images_prediction(annotated: Sequence[Image], n_faces: Sequence[int]) -> Figure:
    """Draw several annotated images, four in a row; `n_faces` counts the faces of each."""
    columns = min(4, max(1, len(annotated)))
    rows = max(1, -(-len(annotated) // columns))
    figure = Figure(figsize=(2.9 * columns, 3.0 * rows), layout="constrained")
    for axes in np.ravel(figure.subplots(rows, columns)):
        axes.set_axis_off()
    for axes, pixels, count in zip(figure.axes, annotated, n_faces, strict=False):
        axes.imshow(pixels)
        if count == 0:
            axes.set_title("no face", fontsize=9, color=MUTED)
    return figure


def _most_probable(classes: Sequence[str], probabilities: Floats) -> list[str | None]:
    """The name of the most probable class of each row; None where there are no probabilities."""
    return [None if np.isnan(row).any() else classes[int(row.argmax())] for row in probabilities]


def _draw_bars(axes: Axes, classes: Sequence[str], probabilities: Floats) -> None:
    if np.isnan(probabilities).any():
        write_message(axes, "the model does not predict expressions")
        return
    names, values = classes[::-1], probabilities[::-1]
    axes.barh(names, values, color=[COLOURS[name] for name in names], height=0.72)
    axes.set_xlim(0, 1.14)
    axes.set_xticks([])
    for row, value in enumerate(values):
        axes.text(value + 0.02, row, f"{value:.0%}", va="center", fontsize=8, color=MUTED)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)


def _draw_points(axes: Axes, expressions: Sequence[str | None], affect: Floats) -> None:
    placed = np.flatnonzero(np.isfinite(affect).all(axis=1)).tolist()
    if not placed:
        write_message(axes, "the model does not predict\nvalence and arousal")
        return
    draw_plane(axes)
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axes.tick_params(labelsize=7, colors=MUTED, length=2)
    axes.set_xlabel("valence", fontsize=8.5)
    axes.set_ylabel("arousal", fontsize=8.5)
    for name, point in CIRCUMPLEX.items():
        axes.plot(*point, "o", color=COLOURS[name], markersize=3, alpha=0.55)
    several = len(affect) > 1
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": "white"}
    for i in reversed(placed):
        valence, arousal = map(float, affect[i])
        size, colour = 13 if several else 9, COLOURS.get(expressions[i] or "", UNKNOWN_COLOUR)
        axes.plot(valence, arousal, "o", color=colour, markersize=size, mec="white", zorder=4)
        if several:
            axes.text(valence, arousal, str(i + 1), zorder=4, **style)
