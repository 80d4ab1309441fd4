"""Figures on the valence-arousal circumplex: annotations, predictions, and their differences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse
from numpy.typing import NDArray

from affectnet.figures.style import (
    CLASS_COLOURS,
    COLUMN_WIDTH,
    INK,
    MUTED,
    PAPER,
    RUN_COLOURS,
    known,
    one_axes,
    shades,
    styled,
    thin,
    write_message,
)
from affectnet.labels import EXPRESSIONS

Floats = NDArray[np.float64]

LIMIT = 1.08
"""The plane is drawn from -LIMIT to LIMIT."""
MOST_POINTS = 2500
FEWEST = 5
"""Means and metrics of fewer faces are not drawn: they would be noise."""


def draw_plane(axes: Axes) -> None:
    """Set up an axes as the circumplex: both axes through the origin, and the unit circle."""
    ends, ticks = (-LIMIT, LIMIT), [-1, -0.5, 0, 0.5, 1]
    axes.set(xlim=ends, ylim=ends, aspect="equal", xticks=ticks, yticks=ticks)
    axes.set(xlabel="valence   (unpleasant → pleasant)", ylabel="arousal   (calm → excited)")
    axes.grid(visible=False)
    axes.axhline(0, color=MUTED, linewidth=0.7, zorder=1)
    axes.axvline(0, color=MUTED, linewidth=0.7, zorder=1)
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=MUTED, linewidth=0.7, zorder=1))
    axes.spines[:].set_visible(False)


def draw_hexagons(
    axes: Axes, x: NDArray[Any], y: NDArray[Any], across: int, colour: str
) -> PolyCollection:
    """Draw the density of points as hexagons, `across` in a row, darker where there are more."""
    return axes.hexbin(
        x,
        y,
        gridsize=across,
        extent=(-LIMIT, LIMIT, -LIMIT, LIMIT),
        cmap=shades(colour),
        bins="log",
        mincnt=1,
        linewidths=0.2,
        rasterized=True,
    )


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    size: float = 8.0,
    around: NDArray[Any] | None = None,
) -> None:
    """Write each name near its point, without covering points or other names.

    Args:
        axes: prepared by `draw_plane`.
        points: name -> (valence, arousal).
        size: of the letters in points.
        around: (m, 2) further points to keep free.
    """
    figure = axes.figure.figure
    if not points:
        return
    # Only after layout is the width of the axes known, and so the size of the letters on them.
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    width_of_axes = 72.0 * axes.get_position().width * figure.get_figwidth()
    unit = 2 * LIMIT / max(width_of_axes, 1.0)
    boxes = {name: (0.66 * size * unit * len(name) + 0.03, 1.6 * size * unit) for name in points}
    marks = np.array(list(points.values()))
    if around is not None and len(around):
        marks = np.concatenate([marks, around])
    for name, place in place_labels(points, boxes, marks).items():
        axes.annotate(
            name,
            xy=points[name],
            xytext=place,
            ha="center",
            va="center",
            fontsize=size,
            color=INK,
            zorder=6,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 3},
        )


def place_labels(
    points: Mapping[str, tuple[float, float]],
    boxes: Mapping[str, tuple[float, float]],
    marks: NDArray[Any],
) -> dict[str, tuple[float, float]]:
    """Choose a centre for each name near its point, greedily, the most crowded point first.

    Candidates lie on rings around the point. Each costs its distance, and much more for what it
    covers: an earlier label, a mark, or the edge of the plane. (A library for this, adjustText,
    would need as many lines of settings, and does not keep labels inside the plane.)

    Args:
        points: name -> point.
        boxes: name -> (width, height) of its label.
        marks: (m, 2) points that labels should not cover.
    """
    crowd = {
        name: float(np.hypot(*(marks - np.array(point)).T).sum()) for name, point in points.items()
    }
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    placed: dict[str, tuple[float, float]] = {}
    for name in sorted(points, key=lambda one: (crowd[one], one)):
        x, y = points[name]
        w, h = boxes[name]
        best, cost_of_best = (x, y), np.inf
        for ring in (0.06, 0.1, 0.16, 0.24, 0.34, 0.46):
            for angle in angles:
                # The nearest edge of the label should be near the point, not its centre.
                at_x = x + (ring + w / 2) * np.cos(angle)
                at_y = y + (ring + h / 2) * np.sin(angle)
                over = sum(
                    abs(at_x - px) < (w + boxes[other][0]) / 2
                    and abs(at_y - py) < (h + boxes[other][1]) / 2
                    for other, (px, py) in placed.items()
                )
                near = np.abs(marks - (at_x, at_y)) < (w / 2 + 0.015, h / 2 + 0.015)
                covered = int(near.all(axis=1).sum())
                outside = max(0.0, abs(at_x) + w / 2 - LIMIT) + max(0.0, abs(at_y) + h / 2 - LIMIT)
                cost = ring + 10.0 * over + 1.0 * covered + 20.0 * outside
                if cost < cost_of_best - 1e-9:
                    best, cost_of_best = (float(at_x), float(at_y)), cost
        placed[name] = best
    return placed


@styled
def affect_density(
    valence: NDArray[Any], arousal: NDArray[Any], expression: NDArray[Any], spread: float = 1.0
) -> Figure:
    """Density of faces on the plane, with the ellipse of each expression.

    An ellipse is centred on the mean of the class; its half-axes are `spread` standard deviations
    along the axes of the covariance.

    Args:
        valence, arousal: (n,), NaN where missing.
        expression: (n,) classes 0-7, -1 where missing.
    """
    figure, axes = _plane(4.2)
    usable = known(valence, arousal)
    v, a, e = valence[usable], arousal[usable], expression[usable]
    if len(v) == 0:
        write_message(axes, "no face has both valence and arousal")
        return figure
    hexagons = draw_hexagons(axes, v, a, 28, "#7d8894")
    bar = figure.colorbar(hexagons, ax=axes, shrink=0.6, pad=0.02, label="faces (log scale)")
    bar.outline.set_visible(False)
    most = int(hexagons.get_array().max())  # type: ignore[union-attr]
    bar.set_ticks(_round_counts(most), labels=[f"{n:,}" for n in _round_counts(most)])
    bar.minorticks_off()
    means = {}
    for c, name in enumerate(EXPRESSIONS):
        own = np.stack([v[e == c], a[e == c]])
        if own.shape[1] == 0:
            continue
        centre = own.mean(axis=1)
        means[name] = (float(centre[0]), float(centre[1]))
        width, height, angle = ellipse_of(own)
        axes.add_patch(
            Ellipse(
                means[name],
                2 * spread * width,
                2 * spread * height,
                angle=angle,
                facecolor="none",
                edgecolor=CLASS_COLOURS[c],
                linewidth=1.8,
                zorder=3,
                gid=f"ellipse-{name}",
            )
        )
        axes.plot(*means[name], "o", color=CLASS_COLOURS[c], markersize=5, zorder=4)
    label_points(axes, means)
    return figure


def _round_counts(most: int) -> list[int]:
    """Counts to mark on a scale from 1 to `most`: 1, 2, 5 times powers of ten, thinned."""
    every = [digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)]
    marks = [n for n in every if n <= most]
    return marks if len(marks) <= 5 else [n for n in marks if str(n)[0] == "1"]


def ellipse_of(points: Floats) -> tuple[float, float, float]:
    """Standard deviations along the two axes of spread of `points` (2, n), and the tilt in degrees.

    One point has no spread: both are 0.
    """
    if points.shape[1] < 2:
        return 0.0, 0.0, 0.0
    variances, axes = np.linalg.eigh(np.cov(points, bias=True))
    small, large = np.sqrt(np.clip(variances, 0, None))
    tilt = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    return float(large), float(small), float(tilt)


@styled
def affect_scatter(
    expression: NDArray[Any],
    valence: NDArray[Any],
    arousal: NDArray[Any],
    valence_pred: NDArray[Any],
    arousal_pred: NDArray[Any],
) -> Figure:
    """Predicted points coloured by true expression, with annotated and predicted class means.

    At most 2,500 points are drawn, a fixed random sample; the means are those of all faces.

    Args:
        expression: (n,) classes 0-7, -1 where missing.
        valence, arousal: (n,) annotated, NaN where missing.
        valence_pred, arousal_pred: (n,) predicted, NaN where missing.
    """
    figure, axes = _plane()
    usable = known(valence_pred, arousal_pred)
    if not usable.any():
        write_message(axes, "no face has predicted valence and arousal")
        return figure
    e, v, a = expression[usable], valence_pred[usable], arousal_pred[usable]
    drawn = thin(len(e), MOST_POINTS)
    colours = np.array([*CLASS_COLOURS, "#b8c0c8"])[e[drawn]]
    axes.scatter(
        v[drawn],
        a[drawn],
        s=9 if len(drawn) > 300 else 16,
        c=colours.tolist(),
        alpha=0.45,
        linewidths=0,
        rasterized=True,
        zorder=2,
        gid="predicted",
    )
    means, targets = {}, []
    both = known(valence, arousal, valence_pred, arousal_pred)
    for c, name in enumerate(EXPRESSIONS):
        own = both & (expression == c)
        if not own.any():
            continue
        start = (float(valence[own].mean()), float(arousal[own].mean()))
        end = (float(valence_pred[own].mean()), float(arousal_pred[own].mean()))
        _mean_arrow(axes, start, end, CLASS_COLOURS[c])
        means[name] = end
        targets.append(start)
    if means:
        marks = [("none", "annotated mean of the class"), (INK, "predicted mean of the class")]
        handles = [
            Line2D([], [], ls="none", marker="o", markersize=7, mfc=fill, mec=INK, label=label)
            for fill, label in marks
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        label_points(axes, means, around=np.array(targets))
    return figure


def _mean_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.4, zorder=4)
    common: dict[str, Any] = {"marker": "o", "markersize": 8, "markeredgewidth": 1.4, "zorder": 5}
    axes.plot(*start, markerfacecolor="none", markeredgecolor=colour, **common)
    axes.plot(*end, markerfacecolor=colour, markeredgecolor=INK, **common)


@styled
def residual_arrows(
    valence: NDArray[Any],
    arousal: NDArray[Any],
    valence_pred: NDArray[Any],
    arousal_pred: NDArray[Any],
    cells: int = 9,
) -> Figure:
    """Arrows from annotation to prediction, averaged over the cells of a grid.

    The plane is divided into `cells` x `cells` squares. Each arrow runs from the mean annotation of
    the faces annotated in a square to their mean prediction; a larger head means more faces.
    Squares with fewer than five faces have no arrow. If all arrows point to the centre, the model
    predicts values close to the mean.

    Args:
        valence, arousal: (n,) annotated, NaN where missing.
        valence_pred, arousal_pred: (n,) predicted, NaN where missing.
    """
    figure, axes = _plane()
    usable = known(valence, arousal, valence_pred, arousal_pred)
    if not usable.any():
        write_message(axes, "no face has both annotated and predicted valence and arousal")
        return figure
    start, end, faces = mean_residuals(
        valence[usable], arousal[usable], valence_pred[usable], arousal_pred[usable], cells
    )
    drawn = thin(int(usable.sum()), MOST_POINTS)
    axes.scatter(
        valence[usable][drawn],
        arousal[usable][drawn],
        s=4,
        color=MUTED,
        alpha=0.25,
        linewidths=0,
        rasterized=True,
    )
    full = faces >= min(FEWEST, faces.max())
    start, end, faces = start[full], end[full], faces[full]
    move = end - start
    for at, by, n in zip(start, move, faces, strict=True):
        weight = float(np.sqrt(n / faces.max()))
        axes.annotate(
            "",
            xy=tuple(at + by),
            xytext=tuple(at),
            arrowprops={
                "arrowstyle": "-|>",
                "mutation_scale": 5 + 8 * weight,
                "linewidth": 0.7 + 1.3 * weight,
                "color": RUN_COLOURS[0],
                "shrinkA": 0,
                "shrinkB": 0,
            },
            zorder=4,
        )
    axes.plot(start[:, 0], start[:, 1], "o", color=RUN_COLOURS[0], markersize=2.5, gid="starts")
    return figure


def mean_residuals(
    valence: Floats, arousal: Floats, valence_pred: Floats, arousal_pred: Floats, cells: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean annotation (m, 2), mean prediction (m, 2) and faces (m,) of each filled cell."""
    column = np.clip(((valence + 1) / 2 * cells).astype(int), 0, cells - 1)
    row = np.clip(((arousal + 1) / 2 * cells).astype(int), 0, cells - 1)
    cell = row * cells + column
    faces = np.bincount(cell, minlength=cells * cells)
    filled = faces > 0

    def mean(values: Floats) -> Floats:
        sums = np.bincount(cell, values, cells * cells)[filled]
        return np.asarray(sums / faces[filled])

    start = np.stack([mean(valence), mean(arousal)], axis=1)
    end = np.stack([mean(valence_pred), mean(arousal_pred)], axis=1)
    return start, end, faces[filled]


def _plane(height: float = 4.9) -> tuple[Figure, Axes]:
    figure, axes = one_axes(COLUMN_WIDTH, height)
    draw_plane(axes)
    return figure, axes
