"""What is drawn beside the faces: the circumplex, and the curves of the last seconds of a film."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from PIL import Image, ImageDraw, ImageFont

from affectnet import labels
from affectnet.data.crop import Box
from affectnet.labels import CIRCUMPLEX

Colour = tuple[int, int, int]

TRACE_SECONDS: Final = 3.0
"""Of the path of a face on the circumplex."""
CURVE_SECONDS: Final = 30.0
"""Of the curves of valence and arousal."""
WHITE: Final[Colour] = (255, 255, 255)
GROUND: Final[Colour] = (17, 24, 32)
"""Under and behind what is drawn beside the picture."""
_PALE: Final[Colour] = (206, 214, 222)
_LINE: Final[Colour] = (150, 162, 174)
_FAINT: Final[Colour] = (62, 73, 84)
_RIBBON, _RIBBONS = 0.1, 3
_BREAK = 0.7
"""Seconds out of sight after which a curve is interrupted."""
_MOST_POINTS = 300
_STEP = 0.1
"""Seconds for which the last expression of a ribbon is drawn."""


class DrawnFace(Protocol):
    """What is drawn of a face; `FaceResult` has these attributes."""

    @property
    def box(self) -> Box: ...
    @property
    def expression(self) -> str | None: ...
    @property
    def probability(self) -> float: ...
    @property
    def valence(self) -> float: ...
    @property
    def arousal(self) -> float: ...
    @property
    def track(self) -> int | None: ...


class DrawnImage(Protocol):
    """What is drawn of an image or a frame; `PictureResult` has these attributes."""

    @property
    def width(self) -> int | None: ...
    @property
    def time(self) -> float | None: ...
    @property
    def faces(self) -> Sequence[DrawnFace]: ...


class Moment(NamedTuple):
    """A face in one frame of a film."""

    time: float
    valence: float
    arousal: float
    expression: str | None


@dataclass
class Traces:
    """The faces of a film in the last `CURVE_SECONDS` seconds, by their numbers."""

    points: dict[int, deque[Moment]] = field(default_factory=dict)
    now: float = 0.0

    def add(self, result: DrawnImage) -> None:
        """Add the next frame."""
        self.now = result.time or 0.0
        for face in result.faces:
            if face.track is not None:
                trace = self.points.setdefault(face.track, deque())
                trace.append(Moment(self.now, face.valence, face.arousal, face.expression))
        for track, trace in list(self.points.items()):
            while trace and self.now - trace[0].time > CURVE_SECONDS:
                trace.popleft()
            if not trace:
                del self.points[track]


def has_place(face: DrawnFace | Moment) -> bool:
    """Whether valence and arousal are known, so that the face has a place on the circumplex."""
    return math.isfinite(face.valence) and math.isfinite(face.arousal)


def colour_of(expression: str | None) -> Colour:
    """Return the expression's colour as red, green, blue; grey for None."""
    return rgb(labels.colour_of(expression))


def label_colour_of(expression: str | None) -> Colour:
    """Return the same, dark enough for white text on it."""
    return rgb(labels.label_colour_of(expression))


def rgb(code: str) -> Colour:
    """Return red, green and blue of `#rrggbb`."""
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


@lru_cache(maxsize=32)
def font(size: int) -> Any:
    """Return the font of the figures, which comes with matplotlib, at a size in pixels."""
    import matplotlib  # only for annotations: it is slow to import

    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )


@lru_cache(maxsize=8)
def _plane(side: int) -> Image.Image:
    """Return the circumplex without points, drawn at four times the size for smooth lines."""
    k = 4
    n = side * k
    plane = Image.new("RGBA", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(plane)
    draw.rounded_rectangle((0, 0, n - 1, n - 1), n * 0.06, fill=(*GROUND, 215))
    middle, radius = n / 2, _radius(n)
    draw.circle((middle, middle), radius, outline=(*_LINE, 255), width=k)
    draw.line((middle - radius, middle, middle + radius, middle), (*_LINE, 255), k)
    draw.line((middle, middle - radius, middle, middle + radius), (*_LINE, 255), k)
    for name, at in CIRCUMPLEX.items():
        draw.circle(_on_plane(at, n), n * 0.012, fill=(*colour_of(name), 255))
    plane = plane.resize((side, side), Image.Resampling.LANCZOS)
    letters = font(max(9, round(side * 0.062)))
    draw = ImageDraw.Draw(plane)
    for text, top in (("arousal", side * 0.015), ("valence", side / 2 + 1)):
        left = side - draw.textlength(text, letters) - side * 0.03
        left = min(left, side / 2 + 3) if text == "arousal" else left
        draw.text((left, top), text, (*_PALE, 255), letters)
    return plane


def _radius(side: float) -> float:
    return 0.44 * side


def _on_plane(at: tuple[float, float], side: float) -> tuple[float, float]:
    valence, arousal = at
    return side / 2 + _radius(side) * valence, side / 2 - _radius(side) * arousal


def draw_circumplex(
    image: Image.Image,
    place: tuple[int, int],
    side: int,
    faces: Sequence[DrawnFace],
    numbers: Mapping[int, int],
    traces: Traces | None,
) -> None:
    """Draw the circumplex with a point per face and, in a film, the last seconds of its path.

    Args:
        image: drawn into.
        place: left and top in pixels.
        side: in pixels.
        faces: those whose valence and arousal are known are drawn.
        numbers: of the faces, by their positions; written where there are several.
        traces: of a film.
    """
    panel = _plane(side).copy()
    k = 3
    n = side * k
    ink = Image.new("RGBA", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(ink)
    colours = {face.track: colour_of(face.expression) for face in faces}
    for track, points in (traces.points if traces else {}).items():
        assert traces is not None
        path = [p for p in points if traces.now - p.time <= TRACE_SECONDS and has_place(p)]
        colour = colours.get(track, (150, 150, 150))
        for p, q in pairwise(path):
            fading = round(255 - 235 * min(1.0, (traces.now - q.time) / TRACE_SECONDS))
            line = (*_on_plane(p[1:3], n), *_on_plane(q[1:3], n))
            draw.line(line, (*colour, fading), max(k, round(n * 0.011)))
    several = len(numbers) > 1
    r = max(2.0 * k, n * (0.045 if several else 0.03))
    letters = font(max(9, round(1.45 * r)))
    for i in reversed([i for i, face in enumerate(faces) if has_place(face)]):
        at = _on_plane((faces[i].valence, faces[i].arousal), n)
        draw.circle(at, r, (*label_colour_of(faces[i].expression), 255), WHITE, k)
        if several:
            draw.text(at, str(numbers[i]), (*WHITE, 255), letters, anchor="mm")
    panel.alpha_composite(ink.resize((side, side), Image.Resampling.BILINEAR))
    image.paste(panel, place, panel)


def draw_curves(image: Image.Image, area: Box, traces: Traces, letters: int) -> None:
    """Draw valence and arousal of the last `CURVE_SECONDS` seconds, and ribbons of expressions.

    Each person has a colour of its own; the ribbons, in the expressions' colours, are those of the
    first persons.

    Args:
        image: drawn into.
        area: of the curves, in pixels.
        traces: of the film.
        letters: size of the text in pixels.
    """
    from affectnet.figures.style import PERSON_COLOURS  # it imports matplotlib

    k = 2
    wide, high = round(area.width * k), round(area.height * k)
    ink = Image.new("RGB", (wide, high), GROUND)
    draw = ImageDraw.Draw(ink)
    small = font(letters * k)
    left = round(draw.textlength("valence", small)) + 5 * k
    start = max(0.0, traces.now - CURVE_SECONDS)
    last_seen = sorted(traces.points, key=lambda track: -traces.points[track][-1].time)
    shown = sorted(last_seen[: len(PERSON_COLOURS)])
    ribbon = _RIBBON * high
    plot = (high - _RIBBONS * ribbon) / 2

    def across(time: float) -> float:
        return left + (wide - left - k) * (time - start) / CURVE_SECONDS

    for row, name in enumerate(("valence", "arousal")):
        middle, half = (row + 0.5) * plot, 0.40 * plot

        def down(value: float, middle: float = middle, half: float = half) -> float:
            return middle - half * value

        for value, text in ((1, "+1"), (0, name), (-1, "−1")):
            colour = _LINE if value == 0 else _FAINT
            draw.line((left, down(value), wide, down(value)), colour, 1)
            if plot > 4.5 * small.size or value == 0:
                draw.text((left - 3 * k, down(value)), text, _PALE, small, anchor="rm")
        for track in shown:
            colour = rgb(PERSON_COLOURS[(track - 1) % len(PERSON_COLOURS)])
            for stretch in _stretches(traces.points[track], name):
                path = [(across(p.time), down(getattr(p, name))) for p in stretch]
                draw.line(path, colour, 2 * k, joint="curve")
    for row, track in enumerate(shown[:_RIBBONS]):
        top = 2 * plot + row * ribbon
        mark = rgb(PERSON_COLOURS[(track - 1) % len(PERSON_COLOURS)])
        draw.rectangle((left - 7 * k, top + k, left - 3 * k, top + ribbon - 2 * k), mark)
        for stretch in _stretches(traces.points[track]):
            for expression, same in groupby(stretch, lambda moment: moment.expression):
                moments = list(same)
                until = min(traces.now, moments[-1].time + _STEP)
                span = (across(moments[0].time), top + k, across(until), top + ribbon - 2 * k)
                draw.rectangle(span, colour_of(expression))
    size = (round(area.width), round(area.height))
    image.paste(ink.resize(size, Image.Resampling.BOX), (round(area.x), round(area.y)))


def _stretches(moments: Sequence[Moment], name: str | None = None) -> Iterator[list[Moment]]:
    """Yield the moments, cut where the face was out of sight, or where the value is missing."""
    stretch: list[Moment] = []
    for moment in islice(moments, 0, None, max(1, len(moments) // _MOST_POINTS)):
        missing = name is not None and not math.isfinite(getattr(moment, name))
        if stretch and (missing or moment.time - stretch[-1].time > _BREAK):
            yield stretch
            stretch = []
        if not missing:
            stretch.append(moment)
    if stretch:
        yield stretch
