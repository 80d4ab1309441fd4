"""Figures of single predictions: the picture with its faces, the probabilities, the circumplex.

No pyplot: a figure is an object that its maker hands on, and a notebook shows it.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from affectnet.inference.detector import crop_face
from affectnet.inference.drawing import annotate
from affectnet.inference.images import Pixels
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import CIRCUMPLEX, COLOURS

_GREY: Final = "#5b6773"
_SHOWN_SIDE = 256
_SHOWN_LARGEST = 800


def plot_face(face: FaceResult, pixels: Pixels) -> Figure:
    """Draw the face's crop, its probabilities as bars, and its point on the circumplex."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    shown, bars, plane = figure.subplots(1, 3, width_ratios=(1, 1.25, 1.1))
    shown.imshow(crop_face(pixels, face.box, _SHOWN_SIDE))
    shown.set_axis_off()
    figure.suptitle(f"{face.expression} {face.probability:.0%}", fontsize=10, weight="bold")
    _draw_bars(bars, face)
    _draw_circumplex(plane, [face])
    return figure


def plot_picture(result: PictureResult, pixels: Pixels) -> Figure:
    """Draw the picture with its faces, and for the first of them the bars and the circumplex."""
    if not result.faces:
        return plot_pictures([result], [pixels])
    height, width = pixels.shape[:2]
    tall = min(max(5.0 * height / width, 3.0), 6.0)
    figure = Figure(figsize=(9.0, tall), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    shown = figure.add_subplot(grid[:, 0])
    shown.imshow(annotate(pixels, result, panel=False, largest=_SHOWN_LARGEST))
    shown.set_axis_off()
    bars = figure.add_subplot(grid[0, 1])
    _draw_bars(bars, result.faces[0])
    if len(result.faces) > 1:
        bars.set_title("face 1, the largest", fontsize=9, loc="left")
    _draw_circumplex(figure.add_subplot(grid[1, 1]), result.faces)
    return figure


def plot_pictures(results: Sequence[PictureResult], pictures: Sequence[Pixels]) -> Figure:
    """Draw several pictures with their faces, four in a row."""
    columns = min(4, max(1, len(results)))
    rows = max(1, math.ceil(len(results) / columns))
    figure = Figure(figsize=(2.9 * columns, 3.0 * rows), layout="constrained")
    for axes in np.ravel(figure.subplots(rows, columns)):
        axes.set_axis_off()
    for axes, result, pixels in zip(figure.axes, results, pictures, strict=False):
        axes.imshow(annotate(pixels, result, panel=False, largest=_SHOWN_LARGEST))
        if not result.faces:
            axes.set_title("no face", fontsize=9, color=_GREY)
    return figure


def _draw_bars(axes: Axes, face: FaceResult) -> None:
    names = face.classes[::-1]
    values = face.probabilities[::-1]
    axes.barh(names, values, color=[COLOURS[name] for name in names], height=0.72)
    axes.set_xlim(0, 1.14)
    axes.set_xticks([])
    for row, value in enumerate(values):
        axes.text(value + 0.02, row, f"{value:.0%}", va="center", fontsize=8, color=_GREY)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_circumplex(axes: Axes, faces: Sequence[FaceResult]) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-1.12, 1.12)
    axes.set_ylim(-1.12, 1.12)
    axes.axhline(0, color=_GREY, linewidth=0.6)
    axes.axvline(0, color=_GREY, linewidth=0.6)
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=_GREY, linewidth=0.6))
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.tick_params(labelsize=7, colors=_GREY, length=2)
    axes.set_xlabel("valence", fontsize=8.5)
    axes.set_ylabel("arousal", fontsize=8.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for name, (valence, arousal) in CIRCUMPLEX.items():
        axes.plot(valence, arousal, "o", color=COLOURS[name], markersize=3, alpha=0.55)
    several = len(faces) > 1
    for number, face in reversed(list(enumerate(faces, 1))):
        colour = COLOURS[face.expression]
        at = (face.valence, face.arousal)
        axes.plot(*at, "o", color=colour, markersize=13 if several else 9, mec="white", zorder=4)
        if several:
            axes.text(
                *at, str(number), ha="center", va="center", fontsize=8, color="white", zorder=4
            )
