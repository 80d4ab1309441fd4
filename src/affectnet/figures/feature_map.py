"""The figure of a model's features: faces it takes for alike lie close together."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from affectnet.figures.style import (
    CLASS_COLOURS,
    COLUMN_WIDTH,
    MUTED,
    PAPER,
    message_figure,
    one_axes,
    styled,
)
from affectnet.labels import EXPRESSIONS

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A class is told by its mark as well, not by its colour alone."""
UNLABELLED = "#b8c0c8"


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
        right: (n,) whether each face is predicted rightly; wrong ones are drawn hollow.
        method: how the points were made, for the caption.
        of: how many faces there are, where `points` are a sample of them.
    """
    if len(points) == 0:
        return message_figure("no face to map")
    figure, axes = one_axes(COLUMN_WIDTH + 1.3, COLUMN_WIDTH)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    filled = np.ones(len(points), bool) if right is None else right
    size = float(np.clip(6000 / len(points), 7, 30))
    handles = []
    for c in (-1, *range(len(EXPRESSIONS))):
        own = expression == c
        if not own.any():
            continue
        colour, marker = (UNLABELLED, "o") if c < 0 else (CLASS_COLOURS[c], MARKERS[c])
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
                gid=f"{'unlabelled' if c < 0 else EXPRESSIONS[c]}-{'right' if solid else 'wrong'}",
            )
        label = f"{'unlabelled' if c < 0 else EXPRESSIONS[c]} ({int(own.sum()):,})"
        handles.append(_key(label, marker, colour, colour))
    if right is not None and not right.all():
        handles.append(_key("predicted wrongly", "o", "none", MUTED))
    figure.legend(handles=handles, loc="outside right upper")
    axes.set_xlabel(_caption(len(points), method, of), color=MUTED, fontsize=7.5)
    return figure


def _key(label: str, marker: str, face: str, edge: str) -> Line2D:
    return Line2D(
        [], [], ls="", marker=marker, mfc=face, mec=edge, mew=0.8, markersize=5.5, label=label
    )


def _caption(n: int, method: str, of: int | None) -> str:
    shown = f"{n:,} faces" if of is None or of == n else f"{n:,} of {of:,} faces"
    return "\n".join([shown, *method.split("; ")]) if method else shown


__all__ = ["feature_map"]
