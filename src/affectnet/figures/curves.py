"""Curves over time: training of one or several runs, and valence and arousal in a video."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from affectnet.figures.style import (
    CLASS_COLOURS,
    FULL_WIDTH,
    MUTED,
    PERSON_COLOURS,
    PERSON_DASHES,
    RUN_COLOURS,
    RUN_MARKERS,
    message_figure,
    new_figure,
    styled,
    write_message,
)
from affectnet.labels import EXPRESSIONS

PANELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "valence_ccc": "CCC of valence",
    "arousal_ccc": "CCC of arousal",
}
LOWER_IS_BETTER = {"loss"}
MOST_LINES: Final = len(PERSON_COLOURS)


@styled
def learning_curves(
    histories: Mapping[str, Mapping[str, NDArray[Any]]],
    panels: Mapping[str, str] = PANELS,
) -> Figure:
    """Loss, accuracy and CCC over the epochs, one colour per run.

    Validation is solid, training dashed. A mark shows the best validation value of each run.

    Args:
        histories: run -> column of metrics.csv -> (epochs,) values, NaN where undefined; `epoch`
            counts from 0.
        panels: metric -> its label; the columns drawn are `train_METRIC` and `val_METRIC`.
    """
    histories = {
        run: columns for run, columns in histories.items() if len(columns.get("epoch", ()))
    }
    if not histories:
        return message_figure("no run has a metrics.csv with epochs", FULL_WIDTH)
    rows = -(-len(panels) // 2)
    figure = new_figure(FULL_WIDTH, 2.3 * rows + 0.5)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (key, label) in zip(grid, panels.items(), strict=False):
        axes.set_title(label)
        drawn = [
            _run(axes, columns, key, RUN_COLOURS[i % 6], RUN_MARKERS[i % 6])
            for i, columns in enumerate(histories.values())
        ]
        if not any(drawn):
            write_message(axes, f"no run recorded {label}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.margins(x=0.03, y=0.08)
    handles = _legend(list(histories))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=2.4)
    return figure


def _run(
    axes: Axes, columns: Mapping[str, NDArray[Any]], key: str, colour: str, marker: str
) -> bool:
    """Draw the two lines of one run; return whether there was data."""
    epoch = np.asarray(columns["epoch"], np.float64) + 1
    drawn = False
    for part, dash, width in (("train", "--", 1.0), ("val", "-", 1.7)):
        values = np.asarray(columns.get(f"{part}_{key}", np.full(len(epoch), np.nan)), np.float64)
        usable = np.isfinite(values)
        if not usable.any():
            continue
        drawn = True
        alone = usable.sum() == 1
        axes.plot(
            epoch[usable],
            values[usable],
            color=colour,
            linestyle=dash,
            linewidth=width,
            marker="o" if alone else None,
            alpha=1.0 if part == "val" else 0.75,
            gid=f"{part}-{key}",
        )
        if part == "val":
            best = np.nanargmin(values) if key in LOWER_IS_BETTER else np.nanargmax(values)
            axes.plot(
                epoch[best],
                values[best],
                marker=marker,
                markersize=6.5,
                markerfacecolor="none",
                markeredgewidth=1.4,
                color=colour,
                gid=f"best-{key}",
            )
    return drawn


def _legend(runs: list[str]) -> list[Line2D]:
    # A legend leaves out labels that begin with `_`: put a zero-width character before them.
    labels = [f"\u200b{name}" if name.startswith("_") else name for name in runs]
    entries = [
        Line2D([], [], color=RUN_COLOURS[i % 6], marker=RUN_MARKERS[i % 6], mfc="none", label=label)
        for i, label in enumerate(labels)
    ]
    return [
        *entries,
        Line2D([], [], color=MUTED, linewidth=1.7, label="validation (mark: best)"),
        Line2D([], [], color=MUTED, linewidth=1.0, linestyle="--", label="training"),
    ]


class Line(NamedTuple):
    """Predictions for one person at each time in seconds; `step` is the usual time between two."""

    name: str
    time: NDArray[Any]
    valence: NDArray[Any]
    arousal: NDArray[Any]
    expression: NDArray[Any]
    step: float


@styled
def affect_over_time(
    lines: Sequence[Line], end: float, left_out: int = 0, relative: bool = False
) -> Figure:
    """Valence above arousal above a ribbon of expressions for each person.

    Args:
        lines: at most `MOST_LINES` are drawn. Times (n,) in seconds, rising; valence and arousal
            (n,) in [-1, 1], NaN where missing; expression (n,) classes 0-7, -1 where missing; a gap
            of over three steps breaks the line.
        end: where the time axis ends, in seconds.
        left_out: further persons that are not drawn; their number is written under the figure.
        relative: valence and arousal are differences from the person's own neutral face.
    """
    drawn = list(lines)[:MOST_LINES]
    left_out += len(lines) - len(drawn)
    if not drawn:
        return message_figure("no face was seen", FULL_WIDTH)
    ribbon = 0.24 * len(drawn) + 0.12
    figure = new_figure(FULL_WIDTH, 3.9 + ribbon)
    rows = figure.subplots(3, 1, sharex=True, height_ratios=(1.55, 1.55, ribbon))
    end = max(end, 1e-3)
    for axes, name in zip(rows, ("valence", "arousal"), strict=False):
        _draw_lines(axes, drawn, name, relative)
    _draw_ribbons(rows[2], drawn)
    label = "minutes" if end >= 180 else "seconds"
    rows[2].set_xlim(0, end)
    if label == "minutes":
        rows[2].xaxis.set_major_formatter(lambda x, _: f"{x / 60:g}")
        rows[2].xaxis.set_major_locator(_minutes(end))
    note = f"   ({left_out} more persons, seen for less time, are not drawn)" if left_out else ""
    rows[2].set_xlabel(f"time in {label}{note}")
    if len(drawn) > 1:
        rows[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(drawn), borderpad=0)
    present = [
        c for c in range(len(EXPRESSIONS)) if any((line.expression == c).any() for line in drawn)
    ]
    patches = [Patch(color=CLASS_COLOURS[c], label=EXPRESSIONS[c]) for c in present]
    if patches:
        figure.legend(
            handles=patches, loc="outside lower center", ncols=len(patches), handlelength=1.0
        )
    return figure


def _draw_lines(axes: Axes, lines: Sequence[Line], name: str, relative: bool) -> None:
    for number, line in enumerate(lines):
        time, values = _broken(line, getattr(line, name))
        colour, dash = PERSON_COLOURS[number], PERSON_DASHES[number]
        axes.plot(time, values, color=colour, linestyle=dash, label=line.name, linewidth=1.3)
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axes.set_ylim(-1.02, 1.02)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    low, high = ("unpleasant", "pleasant") if name == "valence" else ("calm", "excited")
    what = f"change of {name}" if relative else name
    axes.set_ylabel(f"{what}\n({low} → {high})")


def _broken(line: Line, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Put NaN into each gap, so that no line is drawn where the face was not visible."""
    gaps = np.flatnonzero(np.diff(line.time) > 3 * line.step) + 1
    return np.insert(line.time, gaps, np.nan), np.insert(values.astype(float), gaps, np.nan)


def _draw_ribbons(axes: Axes, lines: Sequence[Line]) -> None:
    colours = ListedColormap(CLASS_COLOURS)
    for row, line in enumerate(lines):
        # Each value lasts until the next, or, before a gap, for one step.
        ends = np.minimum(np.append(line.time[1:], np.inf), line.time + 3 * line.step)
        ends[-1] = line.time[-1] + line.step
        for first, last, expression in _runs(line.time, ends, line.expression):
            if expression < 0:
                continue
            axes.broken_barh(
                [(first, last - first)],
                (row - 0.36, 0.72),
                facecolors=colours(int(expression)),
                linewidth=0,
            )
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _runs(
    starts: NDArray[Any], ends: NDArray[Any], values: NDArray[Any]
) -> list[tuple[float, float, int]]:
    """Join neighbours with the same value: (start, end, value)."""
    runs: list[tuple[float, float, int]] = []
    for start, end, value in zip(starts, ends, values, strict=True):
        if runs and runs[-1][2] == value and start <= runs[-1][1] + 1e-9:
            runs[-1] = (runs[-1][0], float(end), int(value))
        else:
            runs.append((float(start), float(end), int(value)))
    return runs


def _minutes(end: float) -> MultipleLocator:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 240)
    return MultipleLocator(60 * next((step for step in steps if end / (60 * step) <= 10), 480))
