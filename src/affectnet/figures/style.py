"""The common style of all figures: colours, fonts, sizes, and saving for print.

No pyplot, which would keep every figure in a global list: functions return figure objects. Every
public figure function is decorated with `styled`, which sets matplotlib's parameters while the
figure is built and restores them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.labels import COLOURS, EXPRESSIONS
from affectnet.run import write_beside

P = ParamSpec("P")

INK: Final = "#1f2933"
MUTED: Final = "#5b6773"
GRID: Final = "#d9dee3"
PAPER: Final = "#fffffe"
"""Almost white, so that pages can distinguish the paper (which turns dark) from true white."""
SHADE: Final = "#2b6a99"
"""The hue of counts and fractions: cells and hexagons, light to dark."""
WHITE_ABOVE: Final = 0.8
"""Opacity of `SHADE` above which white text is more legible than ink, on white paper."""

CLASS_COLOURS: Final = tuple(COLOURS[name] for name in EXPRESSIONS)
CLASS_DASHES: Final = ("-", "-", "-", "-", "--", "--", "--", "--")
"""Half of the classes are dashed, so that lines differ not only in colour."""

# Tol's "bright" scheme: distinguishable for colour-blind readers, and none is a class colour.
RUN_COLOURS: Final = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44")
RUN_MARKERS: Final = ("o", "s", "^", "D", "v", "P")

PERSON_COLOURS: Final = ("#b300ff", "#6b9900", "#ff0080", "#0066ff", "#ff0033", "#ff19d1")
"""Of persons in a film. In CIELAB each is 40 or more from the others and from every class colour;
the contrast is at least 3:1 on white paper and on dark pages."""
PERSON_DASHES: Final = ("-", "-", "-", "--", "--", "--")

FULL_WIDTH: Final = 7.2
"""Inches: both columns of a paper."""
COLUMN_WIDTH: Final = 5.0
"""Inches: a figure that stays readable when set in one column."""

_PARAMETERS: Final[dict[str, Any]] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a run may be called $loss$
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "savefig.facecolor": "auto",
    "pdf.fonttype": 42,
    "svg.hashsalt": "affectnet",
}


@contextmanager
def figure_style(**parameters: Any) -> Iterator[None]:
    """Set the style of all figures, independent of matplotlibrc, and restore the former one."""
    with matplotlib.style.context([_PARAMETERS, parameters], after_reset=True):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Build the figure in the common style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with figure_style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Make a figure of this size in inches with constrained layout, empty but for its title."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=9.5)
    return figure


def one_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of one axes."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def write_message(axes: Axes, message: str) -> None:
    """Write into an axes what is missing, instead of data."""
    axes.set_axis_off()
    axes.text(
        0.5,
        0.5,
        message,
        transform=axes.transAxes,
        ha="center",
        va="center",
        wrap=True,
        color=MUTED,
        style="italic",
    )


def message_figure(message: str, width: float = COLUMN_WIDTH, height: float = 2.0) -> Figure:
    """Make a figure that only states what is missing."""
    figure, axes = one_axes(width, height)
    write_message(axes, message)
    return figure


def shades(colour: str = SHADE) -> LinearSegmentedColormap:
    """From transparent to full `colour`, for white paper and dark pages alike."""
    red, green, blue = to_rgb(colour)
    stops = [(red, green, blue, 0.0), (red, green, blue, 1.0)]
    return LinearSegmentedColormap.from_list("shades", stops)


def rgb(image: NDArray[Any]) -> NDArray[Any]:
    """A grey image (h, w) with three equal channels; a colour image (h, w, 3) as it is."""
    return image if image.ndim == 3 else np.stack([image] * 3, axis=2)


def known(*arrays: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether all arrays are finite in each row, (n,)."""
    finite: NDArray[np.bool_] = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return finite


def thin(n: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """At most `most` of n rows, a fixed random sample in rising order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def save_figure(
    figure: Figure, folder: Path | str, name: str, formats: Sequence[str] = ("png",), dpi: int = 300
) -> list[Path]:
    """Save a figure as `folder/name.FORMAT`, each file complete or not at all; return the paths.

    Args:
        formats: of `png`, `pdf` and `svg`.
        dpi: of PNG, and of what is rasterised inside the others.
    """
    written = []
    for kind in formats:
        path = Path(folder) / f"{name}.{kind}"
        dateless = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
        with figure_style(), write_beside(path) as new:
            figure.savefig(new, format=kind, dpi=dpi, metadata=dateless or None, facecolor="white")
        written.append(path)
    return written
