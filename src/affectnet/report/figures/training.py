"""Figures of how training went, for one run or many."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from affectnet.report.figures.style import (
    FULL_WIDTH,
    MUTED,
    RUN_COLOURS,
    RUN_MARKERS,
    message_figure,
    new_figure,
    say,
    styled,
)

PANELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "valence_ccc": "CCC of valence",
    "arousal_ccc": "CCC of arousal",
}
LOWER_IS_BETTER = {"loss"}


@styled
def learning_curves(
    histories: Mapping[str, Mapping[str, NDArray[Any]]],
    panels: Mapping[str, str] = PANELS,
) -> Figure:
    """Loss, accuracy and CCC over the epochs: validation solid, training dashed, a colour a run.

    A ring marks each run's best validation value.

    Args:
        histories: run -> column of metrics.csv -> (epochs,) values, NaN where undefined; `epoch`
            counts from 0.
        panels: figure -> its label; the columns drawn are `train_FIGURE` and `val_FIGURE`.
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
            say(axes, f"no run recorded {label}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.margins(x=0.03, y=0.08)
    figure.legend(
        handles=_legend(list(histories)),
        loc="outside lower center",
        ncols=4,
        handlelength=2.4,
    )
    return figure


def _run(
    axes: Axes, columns: Mapping[str, NDArray[Any]], key: str, colour: str, marker: str
) -> bool:
    """Draw one run's two lines; return whether there was anything to draw."""
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


def _legible(name: str) -> str:
    """A legend leaves out what begins with `_`: put a mark of no width in front."""
    return f"\u200b{name}" if name.startswith("_") else name


def _legend(runs: list[str]) -> list[Line2D]:
    entries = [
        Line2D(
            [],
            [],
            color=RUN_COLOURS[i % 6],
            marker=RUN_MARKERS[i % 6],
            markerfacecolor="none",
            label=_legible(name),
        )
        for i, name in enumerate(runs)
    ]
    return [
        *entries,
        Line2D([], [], color=MUTED, linewidth=1.7, label="validation (mark: best)"),
        Line2D([], [], color=MUTED, linewidth=1.0, linestyle="--", label="training"),
    ]
