"""Results as SVG, for the page: boxes and labels over an image, and points on the circumplex."""

import math
from collections.abc import Sequence
from typing import Final

from affectnet.data.crop import Box
from affectnet.inference.drawing import signed
from affectnet.inference.layout import clip, place_labels, place_tags
from affectnet.inference.panels import has_place
from affectnet.inference.results import FaceResult
from affectnet.labels import CIRCUMPLEX, COLOURS, colour_of, label_colour_of

_LABEL_RIGHT: Final = ("neutral", "happiness", "surprise", "anger", "contempt")
_LETTER: Final = 0.62
"""Width of a letter, on average and of its size."""


def number_of(face: FaceResult, i: int) -> int:
    """Return the number under which the page shows a face: its person's, or its position."""
    return face.track if face.track is not None else i + 1


def boxes_svg(faces: Sequence[FaceResult], width: int, height: int) -> str:
    """Return the boxes of an image with their labels, which cover no face and no other label.

    A face without room for its label has its number in a corner.

    Args:
        faces: to show.
        width, height: of the image, whose pixels are the units.
    """
    side = min(width, height)
    boxes = [clip(face.box, (width, height)) for face in faces]
    letters = [max(min(box.width * 0.14, side / 22), side / 30) for box in boxes]
    texts = [
        [f"{number_of(face, i)} {face.expression or ''}".strip(), str(number_of(face, i))]
        for i, face in enumerate(faces)
    ]
    sizes = [
        [(a * (_LETTER * len(text) + 0.7), a * 1.45) for text in forms]
        for forms, a in zip(texts, letters, strict=True)
    ]
    labels = place_labels((width, height), boxes, sizes, side / 120)
    without = [i for i, label in enumerate(labels) if label is None]
    tags = place_tags((width, height), [boxes[i] for i in without], [sizes[i][1] for i in without])
    places = {i: (label.place, texts[i][label.choice]) for i, label in enumerate(labels) if label}
    places |= {
        i: (tag, texts[i][1])
        for i, tag in zip(without, tags, strict=True)
        if tag is not None and len(faces) > 1
    }
    return "".join(
        _box(face, i, boxes[i], places.get(i), letters[i]) for i, face in enumerate(faces)
    )


def _box(face: FaceResult, i: int, box: Box, label: tuple[Box, str] | None, letters: float) -> str:
    x, y, w, h = box
    at = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{0.05 * w:.1f}"'
    text = ""
    if label is not None:
        (left, top, wide, high), words = label
        text = (
            f'<rect class="an-tag" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
            f'height="{high:.1f}" rx="{letters * 0.25:.1f}" '
            f'style="fill:{label_colour_of(face.expression)}"/>'
            f'<text x="{left + letters * 0.35:.1f}" y="{top + letters * 1.08:.1f}" '
            f'font-size="{letters:.1f}" textLength="{wide - 0.7 * letters:.1f}" '
            f'lengthAdjust="spacingAndGlyphs">{words}</text>'
        )
    return (
        f'<g class="an-box" data-face="{i}" style="--c:{colour_of(face.expression)}">'
        f'<rect class="an-pale" {at}/><rect class="an-edge" {at}/><rect {at}/>{text}</g>'
    )


def circumplex_svg(faces: Sequence[FaceResult]) -> str:
    """Return the valence-arousal plane with one numbered point per face."""
    typical = "".join(
        f'<circle cx="{100 * v:.1f}" cy="{-100 * a:.1f}" r="2.6" fill="{COLOURS[name]}"/>'
        f'<text class="an-typical" x="{100 * v + (5 if name in _LABEL_RIGHT else -5):.1f}" '
        f'y="{-100 * a + 3:.1f}" '
        f'text-anchor="{"start" if name in _LABEL_RIGHT else "end"}">{name}</text>'
        for name, (v, a) in CIRCUMPLEX.items()
    )
    return (
        '<svg class="an-circumplex" viewBox="-124 -120 248 240" role="img" '
        'aria-label="Valence to the right, arousal upwards">'
        '<circle class="an-line" r="100"/><path class="an-line" d="M-100 0H100M0-100V100"/>'
        '<text class="an-axis" x="0" y="-106">high arousal</text>'
        '<text class="an-axis" x="0" y="115">low arousal</text>'
        '<text class="an-axis" x="112" y="-4" transform="rotate(90 112 0)">positive valence</text>'
        '<text class="an-axis" x="-112" y="-4" transform="rotate(-90 -112 0)">'
        "negative valence</text>"
        f'{typical}<g class="an-points">{points_svg(faces)}</g></svg>'
    )


def points_svg(faces: Sequence[FaceResult]) -> str:
    """Return the points of the faces on the circumplex, whose radius is 100."""
    return "".join(
        f'<g class="an-point" data-face="{i}"><title>face {number_of(face, i)}: '
        f"valence {signed(face.valence)}, arousal {signed(face.arousal)}</title>"
        f'<circle cx="{100 * face.valence:.1f}" cy="{-100 * face.arousal:.1f}" r="8" '
        f'fill="{label_colour_of(face.expression)}"/><text x="{100 * face.valence:.1f}" '
        f'y="{-100 * face.arousal + 3.4:.1f}">{number_of(face, i)}</text></g>'
        for i, face in reversed(list(enumerate(faces)))
        if has_place(face)
    )


def affect_html(face: FaceResult) -> str:
    """Return valence and arousal in words, without those that are missing."""
    return "".join(
        f"<span>{name} <b>{signed(value)}</b></span>"
        for name, value in (("valence", face.valence), ("arousal", face.arousal))
        if math.isfinite(value)
    )
