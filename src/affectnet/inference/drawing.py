"""Images and videos with the faces drawn in: boxes, labels, and the circumplex."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from affectnet.data.crop import Box, shrink
from affectnet.data.images import Pixels
from affectnet.labels import CIRCUMPLEX, COLOURS, UNKNOWN_COLOUR

Colour = tuple[int, int, int]

LARGEST_SIDE: Final = 2048
"""Long side of annotated images, at most, in pixels."""
TRACE_SECONDS: Final = 3.0
WHITE: Final[Colour] = (255, 255, 255)
_PANEL_FRACTION = 0.28
_PANEL = (17, 24, 32, 205)


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


def expression_text(face: DrawnFace) -> str:
    """The expression and its probability, as `happiness 93%`; `face` where there is none."""
    return f"{face.expression} {face.probability:.0%}" if face.expression else "face"


def affect_text(face: DrawnFace) -> str:
    """Valence and arousal, as `valence +0.50  arousal -0.10`, without those that are missing."""
    values = (("valence", face.valence), ("arousal", face.arousal))
    return "  ".join(f"{name} {signed(value)}" for name, value in values if math.isfinite(value))


def has_place(face: DrawnFace) -> bool:
    """Whether valence and arousal are known, so that the face has a place on the circumplex."""
    return math.isfinite(face.valence) and math.isfinite(face.arousal)


def colour_of(expression: str | None) -> Colour:
    """Return the expression's colour as red, green, blue; grey for None."""
    code = COLOURS[expression] if expression else UNKNOWN_COLOUR
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


@dataclass
class Traces:
    """The path of each tracked face on the circumplex in the last `TRACE_SECONDS` seconds."""

    points: dict[int, deque[tuple[float, float, float]]] = field(default_factory=dict)

    def add(self, result: DrawnImage) -> None:
        """Add the next frame."""
        time = result.time or 0.0
        for face in result.faces:
            if face.track is not None and has_place(face):
                trace = self.points.setdefault(face.track, deque())
                trace.append((time, face.valence, face.arousal))
        for track, trace in list(self.points.items()):
            while trace and time - trace[0][0] > TRACE_SECONDS:
                trace.popleft()
            if not trace:
                del self.points[track]


def annotate(
    pixels: Pixels,
    result: DrawnImage,
    traces: Traces | None = None,
    *,
    panel: bool = True,
    largest: int = LARGEST_SIDE,
) -> Pixels:
    """Draw the faces of an image or a frame.

    Each face has a box in the colour of its expression, a label with the expression, its
    probability, valence and arousal, and a point on the circumplex. Points are numbered where
    there are several. The circumplex is in the corner where it covers the least of the faces.

    Args:
        pixels: the RGB image that the result is for, or a smaller copy of it; not changed.
        result: its faces.
        traces: the paths of the points so far, in a video.
        panel: whether to draw the circumplex.
        largest: long side of the result at most, in pixels.

    Returns:
        uint8 RGB.
    """
    image = Image.fromarray(shrink(pixels, largest))
    scale = image.width / (result.width or pixels.shape[1])
    unit = max(1.0, min(image.size) / 400)  # of line widths: 1 for 400 px
    draw = ImageDraw.Draw(image)
    numbers = _numbers(result.faces)
    # In order of size, the smallest last, so that no label of a large face hides a small one.
    boxes = {
        i: tuple(scale * v for v in (f.box.x, f.box.y, f.box.width, f.box.height))
        for i, f in enumerate(result.faces)
    }
    for i, box in boxes.items():
        _draw_box(draw, box, colour_of(result.faces[i].expression), unit)
    for i, box in boxes.items():
        _draw_label(draw, image.size, box, result.faces[i], numbers.get(i), unit)
    side = round(_PANEL_FRACTION * min(image.size))
    if panel and side >= 60 and (any(map(has_place, result.faces)) or traces):
        gap = max(4, side // 20)
        place = (image.width - side - gap, image.height - side - gap)
        if traces is None:  # in a video it stays in one place
            place = _emptiest_corner(image.size, side, gap, list(boxes.values()))
        _draw_panel(image, place, side, result.faces, numbers, traces)
    return np.asarray(image)


def _numbers(faces: Sequence[DrawnFace]) -> Mapping[int, int]:
    """Return the number of each face: its track, or its position where there are several."""
    if all(face.track is None for face in faces) and len(faces) < 2:
        return {}
    return {i: face.track if face.track is not None else i + 1 for i, face in enumerate(faces)}


@lru_cache(maxsize=32)
def _font(size: int) -> Any:
    import matplotlib  # only for annotations: it is slow to import

    # The font of the figures, which comes with matplotlib.
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )


def _draw_box(draw: ImageDraw.ImageDraw, box: Any, colour: Colour, unit: float) -> None:
    x, y, w, h = box
    if w < 1 or h < 1:
        return
    radius = min(w, h) * 0.08
    line = max(2, round(1.6 * unit))
    draw.rounded_rectangle((x - 1, y - 1, x + w + 1, y + h + 1), radius, outline=(0, 0, 0), width=1)
    draw.rounded_rectangle((x, y, x + w, y + h), radius, outline=colour, width=line)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Any,
    face: DrawnFace,
    number: int | None,
    unit: float,
) -> None:
    """Write the label above the box, below it, or inside, whichever fits first."""
    x, y, w, h = box
    letters = round(min(max(11.0, w / 9.5), 13 * unit))
    large, small = _font(letters), _font(max(9, round(0.82 * letters)))
    head = f"{number}  " if number is not None else ""
    lines = [
        (head + expression_text(face), large),
        *((text, small) for text in [affect_text(face)] if text),
    ]
    pad = max(2, round(letters * 0.35))
    widths = [draw.textlength(text, font) for text, font in lines]
    wide = max(widths) + 2 * pad
    heights = [1.25 * font.size for _, font in lines]
    high = sum(heights) + pad
    gap = 2 * unit
    top = y - high - gap
    if top < 0:
        top = y + h + gap if y + h + gap + high <= size[1] else max(0.0, y + gap)
    left = min(max(0.0, x), max(0.0, size[0] - wide))
    colour = colour_of(face.expression)
    dark = tuple(round(0.72 * value) for value in colour)
    draw.rounded_rectangle((left, top, left + wide, top + high), pad, fill=dark)
    row = top + pad * 0.4
    for (text, font), step in zip(lines, heights, strict=True):
        draw.text((left + pad, row), text, WHITE, font)
        row += step


def signed(value: float) -> str:
    """Format valence or arousal with its sign."""
    return f"{value:+.2f}".replace("-", "−")  # a hyphen is hard to see at this size


def _emptiest_corner(
    size: tuple[int, int], side: int, gap: int, boxes: list[Any]
) -> tuple[int, int]:
    """Return the upper left corner of the panel where it covers the least of the boxes."""
    right, low = size[0] - side - gap, size[1] - side - gap
    places = [(right, low), (gap, low), (right, gap), (gap, gap)]

    def covered(place: tuple[int, int]) -> float:
        total = 0.0
        for x, y, w, h in boxes:
            wide = min(place[0] + side, x + w) - max(place[0], x)
            high = min(place[1] + side, y + h) - max(place[1], y)
            total += max(0.0, wide) * max(0.0, high)
        return total

    return min(places, key=covered)


@lru_cache(maxsize=8)
def _panel_background(side: int) -> Image.Image:
    """Return the circumplex without points, drawn at four times the size for smooth lines."""
    k = 4
    n = side * k
    background = Image.new("RGBA", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(background)
    draw.rounded_rectangle((0, 0, n - 1, n - 1), n * 0.06, fill=_PANEL)
    middle, radius = n / 2, _radius(n)
    line = (150, 162, 174, 255)
    draw.circle((middle, middle), radius, outline=line, width=k)
    draw.line((middle - radius, middle, middle + radius, middle), line, k)
    draw.line((middle, middle - radius, middle, middle + radius), line, k)
    for name, at in CIRCUMPLEX.items():
        draw.circle(_on_panel(at, n), n * 0.012, fill=(*colour_of(name), 255))
    background = background.resize((side, side), Image.Resampling.LANCZOS)
    font = _font(max(9, round(side * 0.062)))
    draw = ImageDraw.Draw(background)
    pale = (206, 214, 222, 255)
    draw.text((side / 2 + 3, side * 0.015), "arousal", pale, font)
    text = "valence"
    draw.text((side - draw.textlength(text, font) - side * 0.03, side / 2 + 1), text, pale, font)
    return background


def _radius(side: float) -> float:
    return 0.44 * side


def _on_panel(at: tuple[float, float], side: float) -> tuple[float, float]:
    valence, arousal = at
    return side / 2 + _radius(side) * valence, side / 2 - _radius(side) * arousal


def _draw_panel(
    image: Image.Image,
    place: tuple[int, int],
    side: int,
    faces: Sequence[DrawnFace],
    numbers: Mapping[int, int],
    traces: Traces | None,
) -> None:
    panel = _panel_background(side).copy()
    k = 3
    ink = Image.new("RGBA", (side * k, side * k), (0, 0, 0, 0))
    draw = ImageDraw.Draw(ink)
    n = side * k
    colours = {face.track: colour_of(face.expression) for face in faces}
    now = max((t[-1][0] for t in traces.points.values()), default=0.0) if traces else 0.0
    for track, points in (traces.points if traces else {}).items():
        path = [(time, _on_panel((v, a), n)) for time, v, a in points]
        colour = colours.get(track, (150, 150, 150))
        for (_, p), (time, q) in pairwise(path):
            age = min(1.0, (now - time) / TRACE_SECONDS)
            draw.line((*p, *q), (*colour, round(235 * (1 - age) + 20)), max(k, round(n * 0.011)))
    several = len(numbers) > 1
    r = max(2.0 * k, n * (0.045 if several else 0.03))
    font = _font(max(9, round(1.45 * r)))
    for i in reversed([i for i, face in enumerate(faces) if has_place(face)]):
        at = _on_panel((faces[i].valence, faces[i].arousal), n)
        draw.circle(at, r, (*colour_of(faces[i].expression), 255), WHITE, k)
        if several:
            draw.text(at, str(numbers[i]), (*WHITE, 255), font, anchor="mm")
    panel.alpha_composite(ink.resize((side, side), Image.Resampling.BILINEAR))
    image.paste(panel, place, panel)
