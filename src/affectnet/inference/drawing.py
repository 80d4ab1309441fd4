"""Images and videos with the faces drawn in: boxes, labels, the circumplex, and curves over time.

No label covers a face, and neither does the circumplex: what has no room is under the picture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from affectnet.data.crop import Box, shrink
from affectnet.data.images import Pixels
from affectnet.inference.layout import clip, free_corner, place_labels, place_tags
from affectnet.inference.panels import (
    GROUND,
    WHITE,
    Colour,
    DrawnFace,
    DrawnImage,
    Traces,
    colour_of,
    draw_circumplex,
    draw_curves,
    font,
    has_place,
    label_colour_of,
)

LARGEST_SIDE: Final = 2048
"""Long side of annotated images, at most, in pixels."""
SMALLEST_SIDE: Final = 240
"""Images with a shorter side below this are enlarged, so that labels are legible."""
_LONGEST_ENLARGED: Final = 960
_PANEL_FRACTION, _SMALLEST_PANEL = 0.28, 72
_SMALLEST_CURVES = 150
_BLACK: Final[Colour] = (0, 0, 0)


def expression_text(face: DrawnFace) -> str:
    """The expression and its probability, as `happiness 93%`; `face` where there is none."""
    return f"{face.expression} {face.probability:.0%}" if face.expression else "face"


def affect_text(face: DrawnFace) -> str:
    """Valence and arousal, as `valence +0.50  arousal -0.10`, without those that are missing."""
    values = (("valence", face.valence), ("arousal", face.arousal))
    return "  ".join(f"{name} {signed(value)}" for name, value in values if math.isfinite(value))


def signed(value: float) -> str:
    """Format valence or arousal with its sign."""
    return f"{value:+.2f}".replace("-", "−")  # a hyphen is hard to see at this size


@dataclass(frozen=True)
class _Text:
    """A label: lines of text with their fonts, on a ground of one colour."""

    lines: tuple[tuple[str, Any], ...]
    ground: Colour

    @property
    def _pad(self) -> int:
        letters: int = self.lines[0][1].size
        return max(2, round(0.35 * letters))

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        wide = max(letters.getlength(text) for text, letters in self.lines)
        high = sum(1.25 * letters.size for _, letters in self.lines)
        return math.ceil(wide) + 2 * self._pad, math.ceil(high) + self._pad

    def draw(self, draw: ImageDraw.ImageDraw, left: float, top: float) -> None:
        wide, high = self.size
        corners = (left, top, left + wide - 1, top + high - 1)
        draw.rounded_rectangle(corners, self._pad, fill=self.ground)
        row = top + 0.4 * self._pad
        for text, letters in self.lines:
            draw.text((left + self._pad, row), text, WHITE, letters)
            row += 1.25 * letters.size


def _texts(face: DrawnFace, number: int | None, letters: int) -> list[_Text]:
    """Return the forms of a face's label, the longest first, each with less of it; as many for
    each face of a picture."""
    large, small = font(letters), font(max(9, round(0.82 * letters)))
    ground = label_colour_of(face.expression)
    head = f"{number}  " if number is not None else ""
    first = (head + expression_text(face), large)
    affect = [(affect_text(face), small)] if affect_text(face) else []
    return [_Text((first, *affect), ground), _Text((first,), ground)]


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
    probability, valence and arousal, and a point on the circumplex. Labels are next to their boxes
    where they cover no face and no other label; the others are under the picture, and their faces
    are numbered. The circumplex is in a corner where it covers nothing, else under the picture.
    Under a film are always the circumplex, the faces as a list, and curves of the last 30 seconds.

    Args:
        pixels: the RGB image that the result is for, or a smaller copy of it; not changed.
        result: its faces.
        traces: the film so far, this frame included.
        panel: whether to draw the circumplex.
        largest: long side of the picture at most, in pixels, without what is under it.

    Returns:
        uint8 RGB; its upper left part is the picture, enlarged where its short side is below
        `SMALLEST_SIDE`. The frames of a film all get the same size.
    """
    faces = result.faces
    if not faces and traces is None:
        return shrink(pixels, largest)
    image = Image.fromarray(_enlarged(shrink(pixels, largest)))
    scale = image.width / (result.width or pixels.shape[1])
    unit = max(1.0, min(image.size) / 400)  # of line widths: 1 for 400 px
    boxes = [Box(*(scale * value for value in face.box)) for face in faces]
    numbers = _numbers(faces)
    draw = ImageDraw.Draw(image)
    for box, face in zip(boxes, faces, strict=True):
        visible = clip(box, (image.width - 1, image.height - 1))
        _draw_box(draw, visible, colour_of(face.expression), unit)
    texts = [
        _texts(face, numbers.get(i), round(min(max(11.0, boxes[i].width / 9.5), 13 * unit)))
        for i, face in enumerate(faces)
    ]
    gap = _line(unit) + 3
    labels = place_labels(image.size, boxes, [[t.size for t in forms] for forms in texts], gap)
    without = [i for i, label in enumerate(labels) if label is None]
    for i, label in enumerate(labels):
        if label is not None:
            texts[i][label.choice].draw(draw, *label.place[:2])
    if len(faces) > 1:
        _draw_tags(draw, image.size, boxes, faces, numbers, without)
    side = max(_SMALLEST_PANEL, round(_PANEL_FRACTION * min(image.size)))
    margin = max(4, side // 20)
    wanted = panel and (traces is not None or any(map(has_place, faces)))
    base = round(min(13 * unit, max(11.0, side / 9)))
    if traces is not None:
        forms = [_texts(face, numbers.get(i), base) for i, face in enumerate(faces)]
        return np.asarray(_film(image, side, margin, faces, forms, numbers, traces, base))
    taken = [clip(box, image.size) for box in boxes] + [label.place for label in labels if label]
    corner = free_corner(image.size, side, margin, taken) if wanted else None
    if corner is not None:
        place = round(corner.x), round(corner.y)
        draw_circumplex(image, place, side, faces, numbers, None)
        wanted = False
    listed = [_texts(faces[i], numbers.get(i), base)[0] for i in without]
    if not listed and not wanted:
        return np.asarray(image)
    return np.asarray(_with_list(image, side if wanted else 0, margin, faces, listed, numbers))


def _enlarged(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = min(SMALLEST_SIDE / min(height, width), _LONGEST_ENLARGED / max(height, width))
    if scale <= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _numbers(faces: Sequence[DrawnFace]) -> Mapping[int, int]:
    """Return the number of each face: its track, or its position where there are several."""
    if all(face.track is None for face in faces) and len(faces) < 2:
        return {}
    return {i: face.track if face.track is not None else i + 1 for i, face in enumerate(faces)}


def _line(unit: float) -> int:
    return max(2, round(1.6 * unit))


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, unit: float) -> None:
    """Draw a line in the colour between a black and a white one, one of which is always visible."""
    x, y, w, h = box
    radius, line = min(w, h) * 0.08, _line(unit)
    around = max(1, line // 2)
    for grown, width, ink in ((around, around, _BLACK), (-line, around, WHITE), (0, line, colour)):
        if min(w, h) + 2 * grown >= 2:
            corners = (x - grown, y - grown, x + w + grown, y + h + grown)
            draw.rounded_rectangle(corners, max(0.0, radius + grown), outline=ink, width=width)


def _draw_tags(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: Sequence[Box],
    faces: Sequence[DrawnFace],
    numbers: Mapping[int, int],
    which: Sequence[int],
) -> None:
    """Write the numbers of faces whose labels are under the picture, in corners of their boxes."""
    tags = [
        _Text(((str(numbers[i]), font(11)),), label_colour_of(faces[i].expression)) for i in which
    ]
    places = place_tags(size, [boxes[i] for i in which], [tag.size for tag in tags])
    for tag, place in zip(tags, places, strict=True):
        if place is not None:
            tag.draw(draw, *place[:2])


def _with_list(
    image: Image.Image,
    side: int,
    margin: int,
    faces: Sequence[DrawnFace],
    listed: Sequence[_Text],
    numbers: Mapping[int, int],
) -> Image.Image:
    """Put the circumplex, where `side` is above 0, and the labels without a place under it."""
    wide = max((text.size[0] for text in listed), default=0)
    high = max((text.size[1] for text in listed), default=0)
    beside = side + margin if side else 0
    if listed and image.width < 2 * margin + beside + wide:
        beside = 0  # the list is under the circumplex
    columns = max(1, (image.width - margin - beside) // (wide + margin)) if listed else 0
    rows = -(-len(listed) // columns) if listed else 0
    top = image.height + margin + (side + margin if side and not beside and listed else 0)
    below = max(top + rows * (high + margin), image.height + (side + 2 * margin if side else 0))
    across = max(image.width, 2 * margin + max(side, beside + wide))
    whole = Image.new("RGB", (across, below), GROUND)
    whole.paste(image)
    if side:
        place = (margin, image.height + margin)
        draw_circumplex(whole, place, side, faces, numbers, None)
    draw = ImageDraw.Draw(whole)
    for i, text in enumerate(listed):
        left = margin + beside + (i % columns) * (wide + margin)
        text.draw(draw, left, top + i // columns * (high + margin))
    return whole


def _film(
    image: Image.Image,
    side: int,
    margin: int,
    faces: Sequence[DrawnFace],
    forms: Sequence[Sequence[_Text]],
    numbers: Mapping[int, int],
    traces: Traces,
    letters: int,
) -> Image.Image:
    """Put the circumplex, the list of the faces and the curves under a frame of a film."""
    across = max(image.width, side + 2 * margin)
    whole = Image.new("RGB", (across, image.height + side + 2 * margin), GROUND)
    whole.paste(image)
    top = image.height + margin
    draw_circumplex(whole, (margin, top), side, faces, numbers, traces)
    left = side + 2 * margin
    # Constant in all frames: the room of the longest label.
    column = round(font(letters).getlength("00  happiness 100%")) + letters
    column = min(column, across - left - margin)
    draw = ImageDraw.Draw(whole)
    order = sorted(range(len(faces)), key=lambda i: numbers.get(i, 0))
    fitting = [next((t for t in forms[i] if t.size[0] <= column), None) for i in order]
    listed = [text for text in fitting if text is not None]
    if sum(text.size[1] + 2 for text in listed) > side:  # the others are counted in the last row
        room = side // (listed[0].size[1] + 2) - 1
        more = f"and {len(listed) - room} more"
        listed = [*listed[:room], _Text(((more, font(letters)),), GROUND)] if room > 0 else []
    row = top
    for text in listed:
        text.draw(draw, left, row)
        row += text.size[1] + 2
    left += column + margin
    if across - left - margin >= _SMALLEST_CURVES:
        area = Box(left, top, across - left - margin, side)
        draw_curves(whole, area, traces, max(9, round(0.72 * letters)))
    return whole
