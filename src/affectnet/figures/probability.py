"""Figures of the class probabilities: ROC, precision and recall, and how far to trust them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from affectnet.figures.style import (
    CLASS_COLOURS,
    CLASS_DASHES,
    COLUMN_WIDTH,
    GRID,
    INK,
    MUTED,
    RUN_COLOURS,
    SHADE,
    known,
    new_figure,
    say,
    styled,
)
from affectnet.labels import EXPRESSIONS

Floats = NDArray[np.float64]
Curve = Callable[[NDArray[np.bool_], Floats], tuple[Floats, Floats, float]]

RELIABILITY_BINS = 15
GAP = RUN_COLOURS[1]


def roc_points(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats, float]:
    """False and true positive rate at every threshold, and the area under them by trapezoids.

    `positive` (n,) must hold both values. Both rates start at 0 and end at 1.
    """
    hits, misses = _above_each_threshold(positive, score)
    tpr = np.concatenate([[0.0], hits / hits[-1]])
    fpr = np.concatenate([[0.0], misses / misses[-1]])
    return fpr, tpr, float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


def precision_recall_points(
    positive: NDArray[np.bool_], score: Floats
) -> tuple[Floats, Floats, float]:
    """Recall and precision at every threshold, and the average precision.

    Average precision is the sum of precision times the step in recall. `positive` (n,) must hold
    at least one true value. The curve starts at recall 0 with its first precision.
    """
    hits, misses = _above_each_threshold(positive, score)
    recall = np.concatenate([[0.0], hits / hits[-1]])
    precision = hits / (hits + misses)
    area = float((np.diff(recall) * precision).sum())
    return recall, np.concatenate([precision[:1], precision]), area


def _above_each_threshold(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """How many positives and negatives score at least each distinct score, highest first."""
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_ties].astype(np.float64)
    at_all = np.flatnonzero(last_of_ties) + 1.0
    return hits, at_all - hits


@styled
def roc_curves(
    truth: NDArray[Any], probabilities: Floats, areas: Mapping[str, float | None] | None = None
) -> Figure:
    """ROC curve of each expression against the rest, with the areas under them.

    Args:
        truth: (n,) classes 0-7, -1 where missing.
        probabilities: (n, 8).
        areas: expression -> area to print; computed from the curves where not given.
    """
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", label="_chance")
    _curves(axes, truth, probabilities, areas, roc_points, both_needed=True, title="area")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    return figure


@styled
def precision_recall_curves(
    truth: NDArray[Any], probabilities: Floats, areas: Mapping[str, float | None] | None = None
) -> Figure:
    """Precision over recall of each expression against the rest, with the average precisions.

    Args as in `roc_curves`.
    """
    figure, axes = _square()
    _curves(
        axes,
        truth,
        probabilities,
        areas,
        precision_recall_points,
        both_needed=False,
        title="average precision",
    )
    axes.set(xlabel="recall", ylabel="precision")
    return figure


def _square() -> tuple[Figure, Axes]:
    """A figure of a square axes, and one beside it for the legend: the layout keeps room so."""
    figure = new_figure(COLUMN_WIDTH, 3.3)
    axes, beside = figure.subplots(1, 2, width_ratios=[3.1, 1.4])
    axes.set_box_aspect(1)
    beside.set_axis_off()
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    return figure, axes


def _curves(
    axes: Axes,
    truth: NDArray[Any],
    probabilities: Floats,
    areas: Mapping[str, float | None] | None,
    points: Curve,
    both_needed: bool,
    title: str,
) -> None:
    labelled = (truth >= 0) & known(*np.asarray(probabilities).T)
    truth, probabilities = truth[labelled], np.asarray(probabilities, np.float64)[labelled]
    if len(truth) == 0:
        say(axes, "no face has both a true expression and probabilities")
        return
    entries = []
    for c, name in enumerate(EXPRESSIONS[: probabilities.shape[1]]):
        positive = truth == c
        look: dict[str, Any] = {"color": CLASS_COLOURS[c], "linestyle": CLASS_DASHES[c]}
        if not positive.any() or (both_needed and positive.all()):
            why = "no face" if not positive.any() else "every face"
            entries.append(Line2D([], [], **look, label=f"{name}  ({why})"))
            continue
        x, y, area = points(positive, probabilities[:, c])
        given = area if areas is None else areas.get(name)
        number = "–" if given is None else f"{given:.3f}"
        (line,) = axes.plot(x, y, **look, label=f"{name}  {number}", gid=f"curve-{name}")
        entries.append(line)
    beside = axes.figure.axes[1]
    beside.legend(
        handles=entries, title=title, alignment="left", loc="center left", borderaxespad=0
    )


@styled
def reliability_diagram(
    confidence: NDArray[Any], right: NDArray[Any], bins: int = RELIABILITY_BINS
) -> Figure:
    """Share of right answers over confidence, and how often each confidence is given.

    Bins are ((b - 1) / bins, b / bins] as for the expected calibration error (Guo et al., 2017).

    Args:
        confidence: (n,) highest class probability of each face, in [0, 1]; NaN is left out.
        right: (n,) whether that class is the true one.
    """
    usable = known(confidence)
    confidence, right = confidence[usable], np.asarray(right, dtype=bool)[usable]
    figure = new_figure(COLUMN_WIDTH, 4.2)
    if len(confidence) == 0:
        say(figure.add_subplot(), "no face has both a true expression and a confidence")
        return figure
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    edges = np.linspace(0.0, 1.0, bins + 1)
    inside = np.searchsorted(edges[1:-1], confidence, side="left")
    faces = np.bincount(inside, minlength=bins)
    filled = faces > 0
    mean = np.bincount(inside, confidence, bins)[filled] / faces[filled]
    hit = np.bincount(inside, right, bins)[filled] / faces[filled]
    error = float(np.sum(faces[filled] * np.abs(hit - mean)) / len(confidence))

    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="as sure as right")
    above.vlines(mean, np.minimum(hit, mean), np.maximum(hit, mean), color=GAP, lw=2.2, label="gap")
    area = 12 + 90 * np.sqrt(faces[filled] / faces.max())
    above.plot(mean, hit, color=SHADE, linewidth=1.2)
    above.scatter(mean, hit, s=area, color=SHADE, edgecolor="none", zorder=3)
    above.plot([], [], color=INK, linewidth=1, label="mean confidence")
    above.plot([], [], color=GAP, linewidth=1.4, linestyle="--", label="share right")
    above.legend(loc="upper left", handlelength=1.8)
    above.set_ylabel("share right")
    above.set_ylim(-0.03, 1.03)
    above.set_title(
        f"calibration error {error:.3f}: {100 * confidence.mean():.0f}% sure, "
        f"{100 * right.mean():.0f}% right",
        weight="normal",
    )
    below.bar(edges[:-1], faces, width=1 / bins, align="edge", color=SHADE, edgecolor=GRID)
    below.axvline(float(confidence.mean()), color=INK, linewidth=1)
    below.axvline(float(right.mean()), color=GAP, linewidth=1.4, linestyle="--")
    below.set(xlabel="confidence of the predicted expression", ylabel="faces", xlim=(-0.01, 1.01))
    return figure
