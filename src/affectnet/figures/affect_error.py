"""Figures of the errors of valence and arousal: predicted against true, and by region."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from numpy.typing import NDArray

from affectnet.evaluation.metrics import Floats, affect_metrics
from affectnet.figures.circumplex import FEWEST, LIMIT, draw_hexagons
from affectnet.figures.style import (
    FULL_WIDTH,
    GRID,
    INK,
    MUTED,
    RUN_COLOURS,
    SHADE,
    WHITE_ABOVE,
    known,
    new_figure,
    shades,
    styled,
    write_message,
)

RINGS = (0.0, 0.25, 0.6, np.inf)
"""Distance from neutral that bounds the centre, the middle ring and the outer ring."""
OCTANTS = 8


@styled
def predicted_against_true(
    valence: NDArray[Any],
    arousal: NDArray[Any],
    valence_pred: NDArray[Any],
    arousal_pred: NDArray[Any],
) -> Figure:
    """Density of predicted over annotated values, with the line of perfect prediction.

    The second line joins the mean prediction of each tenth of the annotated scale.

    Args:
        valence, arousal: (n,) annotated, NaN where missing.
        valence_pred, arousal_pred: (n,) predicted, NaN where missing.
    """
    figure = new_figure(FULL_WIDTH, 3.5)
    panels = figure.subplots(1, 2)
    for axes, name, truth, preds in (
        (panels[0], "valence", valence, valence_pred),
        (panels[1], "arousal", arousal, arousal_pred),
    ):
        axes.set_title(name)
        usable = known(truth, preds)
        if not usable.any():
            write_message(axes, f"no face has both an annotated\nand a predicted {name}")
            continue
        _against(axes, truth[usable], preds[usable])
        axes.set(xlabel=f"annotated {name}", ylabel=f"predicted {name}")
    return figure


def _against(axes: Axes, truth: Floats, preds: Floats) -> None:
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
    draw_hexagons(axes, truth, preds, 26, SHADE)
    axes.plot([-1, 1], [-1, 1], color=MUTED, linewidth=1, linestyle=":", label="perfect")
    tenth = np.clip(((truth + 1) * 5).astype(int), 0, 9)
    faces = np.bincount(tenth, minlength=10)
    filled = faces >= min(FEWEST, faces.max())
    x = np.bincount(tenth, truth, 10)[filled] / faces[filled]
    y = np.bincount(tenth, preds, 10)[filled] / faces[filled]
    axes.plot(x, y, "o-", color=RUN_COLOURS[1], markersize=4, linewidth=1.5, label="mean predicted")
    axes.legend(loc="upper left", handlelength=1.6)


def region_of(valence: Floats, arousal: Floats) -> NDArray[np.int64]:
    """The region (n,) of each point: 0 the centre, 1-8 the middle ring, 9-16 the outer ring.

    Octants are counted anticlockwise, the first centred on positive valence.
    """
    distance = np.hypot(valence, arousal)
    ring = np.searchsorted(RINGS[1:-1], distance, side="right")
    turn = np.arctan2(arousal, valence) / (2 * np.pi) * OCTANTS
    octant = np.floor(turn + 0.5).astype(np.int64) % OCTANTS
    return np.asarray(np.where(ring == 0, 0, 1 + (ring - 1) * OCTANTS + octant), dtype=np.int64)


@styled
def error_by_region(
    valence: NDArray[Any],
    arousal: NDArray[Any],
    valence_pred: NDArray[Any],
    arousal_pred: NDArray[Any],
) -> Figure:
    """RMSE and CCC of valence and of arousal in 17 regions of the circumplex.

    Faces are sorted by their annotation into a centre (up to 0.25 from neutral) and two rings (up
    to 0.6, and beyond) of eight octants. A darker shade is worse: a higher RMSE, a lower CCC. The
    annotation varies little within a region, so CCC is lower than over all faces. Regions with
    fewer than five faces are blank.

    Args:
        valence, arousal: (n,) annotated, NaN where missing.
        valence_pred, arousal_pred: (n,) predicted, NaN where missing.
    """
    figure = new_figure(FULL_WIDTH, 2.05)
    panels = figure.subplots(1, 4)
    placed = known(valence, arousal)
    for first, (name, truth, preds) in zip(
        (0, 2),
        (("valence", valence, valence_pred), ("arousal", arousal, arousal_pred)),
        strict=True,
    ):
        usable = placed & known(preds)
        region = region_of(valence[usable], arousal[usable])
        for axes, metric in ((panels[first], "rmse"), (panels[first + 1], "ccc")):
            axes.set_title(f"{metric.upper()} of {name}")
            if not usable.any():
                write_message(
                    axes, f"no face has annotated valence and arousal\nand a predicted {name}"
                )
                continue
            values = np.full(1 + 2 * OCTANTS, np.nan)
            for index in range(len(values)):
                inside = region == index
                if inside.sum() >= FEWEST:
                    value = affect_metrics(truth[usable][inside], preds[usable][inside])[metric]
                    values[index] = np.nan if value is None else value
            _wheel(axes, values, worst_is_high=metric == "rmse")
    return figure


def _wheel(axes: Axes, values: Floats, worst_is_high: bool) -> None:
    """Draw the 17 regions, shaded by `values` (17,), NaN blank."""
    axes.set_axis_off()
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    scale = Normalize(0.0, max(0.6, float(np.nanmax(values, initial=0.0))))
    colours = shades(SHADE)
    for index, value in enumerate(values):
        ring, octant = (0, 0) if index == 0 else (1 + (index - 1) // OCTANTS, (index - 1) % OCTANTS)
        inner, outer = ((0.0, 0.25), (0.25, 0.6), (0.6, 1.0))[ring]
        middle = 360 / OCTANTS * octant
        span = (0, 360) if ring == 0 else (middle - 22.5, middle + 22.5)
        known_value = not np.isnan(value)
        level = float(np.clip(scale(value) if known_value else 0.0, 0, 1))
        strength = (level if worst_is_high else 1 - level) if known_value else 0.0
        axes.add_patch(
            Wedge(
                (0, 0),
                outer,
                *span,
                width=outer - inner,
                facecolor=colours(strength) if known_value else "none",
                edgecolor=GRID,
                linewidth=1.0,
                gid=f"region-{index}",
            )
        )
        at = (inner + outer) / 2 if ring else 0.0
        axes.text(
            at * np.cos(np.radians(middle)),
            at * np.sin(np.radians(middle)),
            f"{value:.2f}".replace("0.", ".", 1) if known_value else "·",
            ha="center",
            va="center",
            fontsize=6.0 if ring == 1 else 6.5,
            color="white" if strength > WHITE_ABOVE else INK,
        )
    for x, y, word, turn in (
        (1.12, 0, "pleasant", -90),
        (-1.12, 0, "unpleasant", 90),
        (0, 1.12, "excited", 0),
        (0, -1.12, "calm", 0),
    ):
        axes.text(x, y, word, rotation=turn, ha="center", va="center", size=6.5, color=MUTED)
