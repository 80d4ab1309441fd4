"""Figures of the eight expressions: how many there are, which are mistaken for which."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from affectnet.evaluation import metrics
from affectnet.figures.style import (
    CLASS_COLOURS,
    FULL_WIDTH,
    INK,
    MUTED,
    PAPER,
    WHITE_ABOVE,
    message_figure,
    new_figure,
    one_axes,
    say,
    shades,
    styled,
)
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS


@styled
def class_distribution(counts: Mapping[str, ArrayLike]) -> Figure:
    """Bars of the share of each expression, a panel a split, with the numbers of faces.

    Args:
        counts: split -> (K,) faces of each of the first K expressions, 8 or 7.
    """
    if not counts:
        return message_figure("no split to count")
    figure = new_figure(FULL_WIDTH, 2.7)
    panels = figure.subplots(1, len(counts), sharex=True, sharey=True, squeeze=False)[0]
    classes = EXPRESSIONS[: max(len(np.asarray(given)) for given in counts.values())]
    rows = np.arange(len(classes))
    widest = 0.0
    for axes, (split, given) in zip(panels, counts.items(), strict=True):
        faces = np.asarray(given)
        total = int(faces.sum())
        axes.set_title(f"{split}: {total:,} faces")
        share = 100 * faces / max(total, 1)
        widest = max(widest, float(share.max()))
        axes.barh(rows, share, color=CLASS_COLOURS[: len(classes)], height=0.72)
        for row in rows:
            axes.annotate(
                f"{int(faces[row]):,}" if total else "",
                (share[row], row),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
            )
        axes.set_xlabel("% of the split" if total else "no labelled face")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    panels[0].set_xlim(0, max(1.0, 1.28 * widest))
    ticks = panels[0].get_xticks()
    panels[0].set_xticks(ticks[(ticks >= 0) & (ticks <= min(100, 1.28 * widest))])
    panels[0].set_yticks(rows, classes)
    panels[0].invert_yaxis()
    return figure


@styled
def confusion_matrix(
    confusion: ArrayLike,
    show: Literal["counts", "share", "both"] = "both",
    title: str = "",
) -> Figure:
    """Grid of true (rows) against predicted (columns) expressions, shaded by share of the row.

    Args:
        confusion: (K, K) faces of true class i predicted as class j, of the first K expressions:
            8, or 7 without contempt.
        show: in each cell the number of faces, the share of the true class in per cent, or both.
        title: above the grid.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    figure, axes = one_axes(5.2, 4.9)
    axes.set_title(title)
    if counts.sum() == 0:
        say(axes, "no face has both a true and a predicted expression")
        return figure
    support = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    # The root lifts the rare mistakes, the ones worth seeing, off the paper.
    shaded = np.nan_to_num(share) ** 0.7
    axes.pcolormesh(shaded, cmap=shades(), vmin=0, vmax=1, edgecolors=PAPER, linewidth=1.5)
    for i, j in np.ndindex(counts.shape):
        big, small = _cell_texts(float(counts[i, j]), float(share[i, j]), show)
        # On a dark cell white; on a light one the page's ink, which turns with the theme.
        colour = "white" if shaded[i, j] > WHITE_ABOVE else (INK if counts[i, j] else MUTED)
        weight = "bold" if i == j else "normal"
        centre = i + (0.42 if small else 0.5)
        axes.text(j + 0.5, centre, big, ha="center", va="center", color=colour, weight=weight)
        if small:
            axes.text(j + 0.5, i + 0.72, small, ha="center", va="center", color=colour, size=6)
    classes = EXPRESSIONS[: len(counts)]
    ticks = np.arange(len(classes)) + 0.5
    axes.set_xticks(ticks, classes, rotation=40, ha="right", rotation_mode="anchor")
    names = [f"{name}\n{int(n):,}" for name, n in zip(classes, support[:, 0], strict=True)]
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted expression")
    axes.set_ylabel("true expression, with its number of faces", labelpad=7)
    axes.set_xlim(0, len(classes))
    axes.set_ylim(len(classes), 0)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _cell_texts(count: float, share: float, show: str) -> tuple[str, str]:
    """The large and the small text of a cell."""
    number = f"{int(count):,}" if count == int(count) else f"{count:,.1f}"
    if show == "counts":
        return number, ""
    if np.isnan(share):
        return "–", ""
    per_cent = f"{100 * share:.0f}%" if count else "0"
    return per_cent, number if show == "both" and count else ""


def confusion_counts(truth: NDArray[Any], preds: NDArray[Any]) -> NDArray[np.int64]:
    """Count the faces (8, 8) of true class i predicted as class j; -1 marks a missing label."""
    both = (truth >= 0) & (preds >= 0)
    matrix = metrics.confusion_matrix(truth[both], preds[both], N_EXPRESSIONS)
    return matrix.astype(np.int64)
