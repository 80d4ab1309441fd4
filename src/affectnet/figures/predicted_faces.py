"""Figures of single predictions: the image with its faces, the probabilities, the circumplex.

No pyplot: each function returns a figure object, which a notebook shows.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.figures.circumplex import draw_plane
from affectnet.labels import CIRCUMPLEX, COLOURS

_GREY: Final = "#5b6773"

Pixels = NDArray[np.uint8]
Floats = NDArray[Any]


def face_prediction(
    crop: Pixels, classes: Sequence[str], probabilities: Floats, affect: Floats
) -> Figure:
    """Draw the crop of one face, its probabilities as bars, and its point on the circumplex.

    Args:
        crop: RGB (size, size, 3).
        classes: names of the K expressions.
        probabilities: (K,), adding up to 1.
        affect: valence and arousal, (2,) in [-1, 1].
    """
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    image, bars, plane = figure.subplots(1, 3, width_ratios=(1, 1.25, 1.1))
    image.imshow(crop)
    image.set_axis_off()
    best = int(np.argmax(probabilities))
    figure.suptitle(f"{classes[best]} {probabilities[best]:.0%}", fontsize=10, weight="bold")
    _draw_bars(bars, classes, probabilities)
    _draw_points(plane, [classes[best]], affect[None])
    return figure


def image_prediction(
    annotated: Pixels, classes: Sequence[str], probabilities: Floats, affect: Floats
) -> Figure:
    """Draw an annotated image, the bars of its first face, and all faces on the circumplex.

    Args:
        annotated: RGB (height, width, 3), the boxes drawn in.
        classes: names of the K expressions.
        probabilities: (n, K), one row per face.
        affect: (n, 2), valence and arousal of each face.
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
    expressions = [classes[i] for i in np.argmax(probabilities, axis=1)]
    _draw_points(figure.add_subplot(grid[1, 1]), expressions, affect)
    return figure


def images_prediction(annotated: Sequence[Pixels], n_faces: Sequence[int]) -> Figure:
    """Draw several annotated images, four in a row; `n_faces` counts the faces of each."""
    columns = min(4, max(1, len(annotated)))
    rows = max(1, math.ceil(len(annotated) / columns))
    figure = Figure(figsize=(2.9 * columns, 3.0 * rows), layout="constrained")
    for axes in np.ravel(figure.subplots(rows, columns)):
        axes.set_axis_off()
    for axes, pixels, count in zip(figure.axes, annotated, n_faces, strict=False):
        axes.imshow(pixels)
        if count == 0:
            axes.set_title("no face", fontsize=9, color=_GREY)
    return figure


def _draw_bars(axes: Axes, classes: Sequence[str], probabilities: Floats) -> None:
    names, values = classes[::-1], probabilities[::-1]
    axes.barh(names, values, color=[COLOURS[name] for name in names], height=0.72)
    axes.set_xlim(0, 1.14)
    axes.set_xticks([])
    for row, value in enumerate(values):
        axes.text(value + 0.02, row, f"{value:.0%}", va="center", fontsize=8, color=_GREY)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_points(axes: Axes, expressions: Sequence[str], affect: Floats) -> None:
    draw_plane(axes)
    axes.set_xlim(-1.12, 1.12)
    axes.set_ylim(-1.12, 1.12)
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.tick_params(labelsize=7, colors=_GREY, length=2)
    axes.set_xlabel("valence", fontsize=8.5)
    axes.set_ylabel("arousal", fontsize=8.5)
    for name, point in CIRCUMPLEX.items():
        axes.plot(*point, "o", color=COLOURS[name], markersize=3, alpha=0.55)
    several = len(affect) > 1
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": "white"}
    for i in reversed(range(len(affect))):
        valence, arousal = map(float, affect[i])
        size, colour = 13 if several else 9, COLOURS[expressions[i]]
        axes.plot(valence, arousal, "o", color=colour, markersize=size, mec="white", zorder=4)
        if several:
            axes.text(valence, arousal, str(i + 1), zorder=4, **style)
