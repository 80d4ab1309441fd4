"""The valence-arousal plane that several figures share, and labels on it that do not collide."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray

from affectnet.report.figures.style import INK, MUTED, PAPER

LIMIT = 1.08


def draw_plane(axes: Axes) -> None:
    """Set up an axes as the circumplex: both axes through the origin, the unit circle."""
    axes.set_xlim(-LIMIT, LIMIT)
    axes.set_ylim(-LIMIT, LIMIT)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.axhline(0, color=MUTED, linewidth=0.7, zorder=1)
    axes.axvline(0, color=MUTED, linewidth=0.7, zorder=1)
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=MUTED, linewidth=0.7, zorder=1))
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xlabel("valence   (unpleasant → pleasant)")
    axes.set_ylabel("arousal   (calm → excited)")
    for spine in axes.spines.values():
        spine.set_visible(False)


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    size: float = 8.0,
    around: NDArray[Any] | None = None,
) -> None:
    """Write each name near its point of the plane, clear of points and of one another.

    Args:
        axes: as `draw_plane` left it.
        points: name -> (valence, arousal).
        size: of the letters in points.
        around: (m, 2) further places to keep clear.
    """
    if not points:
        return
    # Only a laid-out figure knows how wide its axes are, and so how large the letters are on them.
    axes.figure.get_figure().get_layout_engine().execute(axes.figure.get_figure())  # type: ignore[union-attr,arg-type]
    width_of_axes = 72.0 * axes.get_position().width * axes.figure.get_figure().get_figwidth()  # type: ignore[union-attr]
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
    """Choose for each name a centre near its point, greedily, the most crowded point first.

    Candidates lie on rings round the point; each costs its distance, and dearly what it covers:
    a label placed before, a mark, or the edge of the plane.

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
                # The label's nearest edge, not its centre, is what should be near the point.
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
