"""Figures of the expressions: their numbers, confusions, ROC and PR curves, and calibration."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from affectnet.evaluation import metrics
from affectnet.figures.style import (
    CLASS_COLOURS,
    CLASS_DASHES,
    COLUMN_WIDTH,
    FULL_WIDTH,
    GRID,
    INK,
    MUTED,
    PAPER,
    RUN_COLOURS,
    SHADE,
    WHITE_ABOVE,
    known,
    message_figure,
    new_figure,
    one_axes,
    shades,
    styled,
    write_message,
)
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

Floats = NDArray[np.float64]
Curve = Callable[[NDArray[np.bool_], Floats], tuple[Floats, Floats, float]]

GAP = RUN_COLOURS[1]


@styled
def class_distribution(counts: Mapping[str, ArrayLike]) -> Figure:
    """Bars of the fraction of each expression, one panel per split, with the numbers of faces.

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
        percent = 100 * faces / max(total, 1)
        widest = max(widest, float(percent.max()))
        axes.barh(rows, percent, color=CLASS_COLOURS[: len(classes)], height=0.72)
        for row in rows:
            axes.annotate(
                f"{int(faces[row]):,}" if total else "",
                (percent[row], row),
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
    show: Literal["counts", "fraction", "both"] = "both",
    title: str = "",
) -> Figure:
    """Grid of true (rows) against predicted (columns) expressions, shaded by fraction of the row.

    Args:
        confusion: (K, K) faces of true class i predicted as class j, of the first K expressions:
            8, or 7 without contempt.
        show: in each cell the number of faces, the fraction of the true class in per cent, or both.
        title: above the grid.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    figure, axes = one_axes(5.2, 4.9)
    axes.set_title(title)
    if counts.sum() == 0:
        write_message(axes, "no face has both a true and a predicted expression")
        return figure
    support = counts.sum(axis=1, keepdims=True)
    fraction = np.divide(counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    # A power below one makes rare mistakes visible.
    shaded = np.nan_to_num(fraction) ** 0.7
    axes.pcolormesh(shaded, cmap=shades(), vmin=0, vmax=1, edgecolors=PAPER, linewidth=1.5)
    for i, j in np.ndindex(counts.shape):
        big, small = _cell_texts(float(counts[i, j]), float(fraction[i, j]), show)
        # White on a dark cell; on a light one the page's ink, which changes with the theme.
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
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _cell_texts(count: float, fraction: float, show: str) -> tuple[str, str]:
    """The large and the small text of a cell."""
    number = f"{int(count):,}" if count == int(count) else f"{count:,.1f}"
    if show == "counts":
        return number, ""
    if np.isnan(fraction):
        return "–", ""
    per_cent = f"{100 * fraction:.0f}%" if count else "0"
    return per_cent, number if show == "both" and count else ""


def confusion_counts(truth: NDArray[Any], preds: NDArray[Any]) -> NDArray[np.int64]:
    """Count the faces (8, 8) of true class i predicted as class j; -1 marks a missing label."""
    both = (truth >= 0) & (preds >= 0)
    matrix = metrics.confusion_matrix(truth[both], preds[both], N_EXPRESSIONS)
    return matrix.astype(np.int64)


def roc_points(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats, float]:
    """False and true positive rate at every threshold, and the area under them by trapezoids.

    `positive` (n,) must hold both values. Both rates start at 0 and end at 1.
    """
    from sklearn.metrics import auc, roc_curve

    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return fpr, tpr, float(auc(fpr, tpr))


def precision_recall_points(
    positive: NDArray[np.bool_], score: Floats
) -> tuple[Floats, Floats, float]:
    """Recall and precision at every threshold, and the average precision.

    Average precision is the sum of precision times the step in recall. `positive` (n,) must hold
    at least one true value. The curve starts at recall 0 with its first precision.
    """
    from sklearn.metrics import precision_recall_curve

    falling, reached, _ = precision_recall_curve(positive, score)
    precision, recall = falling[::-1].copy(), reached[::-1]
    precision[0] = precision[1]
    return recall, precision, float((np.diff(recall) * precision[1:]).sum())


@styled
def roc_curves(
    truth: NDArray[Any], probabilities: Floats, areas: Mapping[str, float | None] | None = None
) -> Figure:
    """ROC curve of each expression against the rest, with the areas under them.

    Args:
        truth: (n,) classes 0-7, -1 where missing.
        probabilities: (n, 8).
        areas: expression -> area to print; computed from the curves if not given.
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
    points, title = precision_recall_points, "average precision"
    _curves(axes, truth, probabilities, areas, points, both_needed=False, title=title)
    axes.set(xlabel="recall", ylabel="precision")
    return figure


def _square() -> tuple[Figure, Axes]:
    """A figure with a square axes, and an empty one next to it that keeps room for the legend."""
    figure = new_figure(COLUMN_WIDTH, 3.3)
    axes, right = figure.subplots(1, 2, width_ratios=[3.1, 1.4])
    axes.set_box_aspect(1)
    right.set_axis_off()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
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
        write_message(axes, "no face has both a true expression and probabilities")
        return
    entries = []
    for c, name in enumerate(EXPRESSIONS[: probabilities.shape[1]]):
        positive = truth == c
        style: dict[str, Any] = {"color": CLASS_COLOURS[c], "linestyle": CLASS_DASHES[c]}
        if not positive.any() or (both_needed and positive.all()):
            why = "no face" if not positive.any() else "every face"
            entries.append(Line2D([], [], **style, label=f"{name}  ({why})"))
            continue
        x, y, area = points(positive, probabilities[:, c])
        given = area if areas is None else areas.get(name)
        number = "–" if given is None else f"{given:.3f}"
        (line,) = axes.plot(x, y, **style, label=f"{name}  {number}", gid=f"curve-{name}")
        entries.append(line)
    axes.figure.axes[1].legend(
        handles=entries, title=title, alignment="left", loc="center left", borderaxespad=0
    )


@styled
def reliability_diagram(
    confidence: NDArray[Any], right: NDArray[Any], bins: int = metrics.ECE_BINS
) -> Figure:
    """Accuracy over confidence, and the number of faces at each confidence.

    Bins are ((b - 1) / bins, b / bins] as for the expected calibration error (Guo et al., 2017).

    Args:
        confidence: (n,) highest class probability of each face, in [0, 1]; NaN is left out.
        right: (n,) whether that class is the true one.
    """
    usable = known(confidence)
    confidence, right = confidence[usable], np.asarray(right, dtype=bool)[usable]
    figure = new_figure(COLUMN_WIDTH, 4.2)
    if len(confidence) == 0:
        write_message(figure.add_subplot(), "no face has both a true expression and a confidence")
        return figure
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    inside = metrics.confidence_bin(confidence, bins)
    faces = np.bincount(inside, minlength=bins)
    filled = faces > 0
    mean = np.bincount(inside, confidence, bins)[filled] / faces[filled]
    hit = np.bincount(inside, right, bins)[filled] / faces[filled]
    error = float(np.sum(faces[filled] * np.abs(hit - mean)) / len(confidence))

    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="perfect calibration")
    above.vlines(mean, np.minimum(hit, mean), np.maximum(hit, mean), color=GAP, lw=2.2, label="gap")
    area = 12 + 90 * np.sqrt(faces[filled] / faces.max())
    above.plot(mean, hit, color=SHADE, linewidth=1.2)
    above.scatter(mean, hit, s=area, color=SHADE, edgecolor="none", zorder=3)
    above.plot([], [], color=INK, linewidth=1, label="mean confidence")
    above.plot([], [], color=GAP, linewidth=1.4, linestyle="--", label="accuracy")
    above.legend(loc="upper left", handlelength=1.8)
    above.set_ylabel("accuracy")
    above.set_ylim(-0.03, 1.03)
    above.set_title(
        f"calibration error {error:.3f}: confidence {100 * confidence.mean():.0f}%, "
        f"accuracy {100 * right.mean():.0f}%",
        weight="normal",
    )
    below.bar(
        np.arange(bins) / bins, faces, width=1 / bins, align="edge", color=SHADE, edgecolor=GRID
    )
    below.axvline(float(confidence.mean()), color=INK, linewidth=1)
    below.axvline(float(right.mean()), color=GAP, linewidth=1.4, linestyle="--")
    below.set(xlabel="confidence of the predicted expression", ylabel="faces", xlim=(-0.01, 1.01))
    return figure
