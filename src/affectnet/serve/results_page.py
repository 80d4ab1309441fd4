"""Results as HTML, for the page: an image with its faces, and the curves of a video."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box, crop_face, shrink
from affectnet.data.images import Pixels, data_uri
from affectnet.errors import counted
from affectnet.figures.style import PERSON_COLOURS
from affectnet.inference.drawing import annotate
from affectnet.inference.panels import has_place
from affectnet.inference.result_files import FORMATS
from affectnet.inference.results import FaceResult, PictureResult, columns
from affectnet.inference.tracks import Course
from affectnet.labels import COLOURS, EXPRESSIONS, colour_of
from affectnet.serve.overlay import affect_html, boxes_svg, circumplex_svg

MAX_CARDS: Final = 60
_IMAGE_SIDE = 1400
_THUMBNAIL = 96
_QUALITY = 88
"""Of JPEG."""
_ROW, _STRIP = 175, 28
"""Heights in the curve of a video: of valence and of arousal, and of a person's expressions."""


def image_html(result: PictureResult, pixels: Pixels) -> str:
    """Return the image with its boxes, one card per face and the circumplex.

    Args:
        result: the faces.
        pixels: the RGB image, or a smaller copy of it.
    """
    faces = result.faces[:MAX_CARDS]
    width, height = result.width or pixels.shape[1], result.height or pixels.shape[0]
    uri = data_uri(shrink(pixels, _IMAGE_SIDE), "jpeg", _QUALITY)
    image = (
        f'<figure class="an-image" style="--ratio:{width / height:.4f}">'
        f'<img src="{uri}" alt="The uploaded image">'
        f'<svg viewBox="0 0 {width} {height}">{boxes_svg(faces, width, height)}</svg></figure>'
    )
    if not faces:
        return (
            f'<div class="an-result">{image}<p class="an-note" role="status"><b>No face found.'
            "</b> A face must have about 20 pixels or more and be seen from the front or partly "
            "from the side. Try a larger or better lit image.</p></div>"
        )
    scale = pixels.shape[1] / width
    cards = "".join(_card(face, i, pixels, scale) for i, face in enumerate(faces))
    count = counted(len(result.faces), "face")
    if len(result.faces) > len(faces):
        count += f", the {len(faces)} largest shown"
    plane = f"<h3>{count}</h3>"
    if any(map(has_place, faces)):
        plane = f"<h3>{count} on the circumplex</h3>{circumplex_svg(faces)}"
    return (
        f'<div class="an-result" data-faces="{len(faces)}">{image}'
        f'<div class="an-plane">{plane}</div>'
        f'<div class="an-cards">{cards}</div>{_image_downloads(result, pixels)}</div>'
    )


def _image_downloads(result: PictureResult, pixels: Pixels) -> str:
    table = FORMATS[".csv"](columns(film=False))
    drawn = annotate(pixels, result, largest=_IMAGE_SIDE)
    return downloads_html(
        {
            "faces.csv": _data("text/csv", table.head + table.encode(result)),
            "faces.json": _data("application/json", json.dumps([result.to_dict()]).encode()),
            "annotated.jpg": data_uri(drawn, "jpeg", _QUALITY),
        }
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def downloads_html(links: Mapping[str, str]) -> str:
    """Return links that save files: from the name of each to its address."""
    items = "".join(
        f'<a class="an-save" download="{name}" href="{address}">{name}</a>'
        for name, address in links.items()
    )
    return f'<p class="an-saves"><span>Download</span>{items}</p>'


def curve_html(courses: Sequence[Course], end: float) -> str:
    """Return valence and arousal over time as SVG, one line per person.

    Args:
        courses: from `OverTime.courses`.
        end: length of the video in seconds.
    """
    shown = sorted(courses[: len(PERSON_COLOURS)], key=lambda course: course.track)
    if not shown:
        return '<p class="an-note">No face was seen in the video.</p>'
    end = max(end, 0.1)
    rows = "".join(
        f'<g transform="translate(0 {_ROW * row})">{_grid(name)}'
        + "".join(_line(c, getattr(c, name), end, i) for i, c in enumerate(shown))
        + "</g>"
        for row, name in enumerate(("valence", "arousal"))
    )
    known = [course for course in shown if (course.expression >= 0).any()]
    ribbons = "".join(
        _ribbon(course, end, 2 * _ROW + 10 + _STRIP * row) for row, course in enumerate(known)
    )
    height = 2 * _ROW + 10 + _STRIP * len(known)
    legend = "".join(
        f'<span><i style="background:{PERSON_COLOURS[i]}"></i>face {c.track}'
        f"{_most_often(c.expression)}</span>"
        for i, c in enumerate(shown)
    )
    others = len(courses) - len(shown)
    more = f"<span>and {others} more</span>" if others > 0 else ""
    present = sorted({int(k) for course in known for k in course.expression if k >= 0})
    colours = "".join(
        f'<span><i style="background:{COLOURS[EXPRESSIONS[k]]}"></i>{EXPRESSIONS[k]}</span>'
        for k in present
    )
    return (
        f'<figure class="an-curve" data-end="{end:.3f}" data-height="{height}">'
        f'<svg viewBox="0 0 720 {height + 36}" role="img" '
        f'aria-label="Valence, arousal and expression over time">{rows}{ribbons}'
        f'{_times(end, height)}<path class="an-now" d="M60 10V{height}"/></svg>'
        f'<figcaption class="an-legend">{legend}{more}</figcaption>'
        f'<p class="an-legend">{colours}</p></figure>'
    )


def _most_often(expression: NDArray[np.int64]) -> str:
    known = expression[expression >= 0]
    return f": {EXPRESSIONS[np.bincount(known).argmax()]} most often" if len(known) else ""


def _x(time: float, end: float) -> float:
    return 60 + 645 * time / end


def _y(value: float) -> float:
    return 100 - 62 * value


def _grid(name: str) -> str:
    lines = "".join(
        f'<path class="an-line" d="M60 {_y(v):.1f}H705"/>'
        f'<text class="an-tick" x="52" y="{_y(v) + 5:.1f}" text-anchor="end">{label}</text>'
        for v, label in ((1, "+1"), (0, "0"), (-1, "−1"))
    )
    return f'{lines}<text class="an-tick" x="60" y="27">{name}</text>'


def _times(end: float, top: float) -> str:
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 1e9) if end / s <= 5)
    return "".join(
        f'<text class="an-tick" x="{_x(t, end):.1f}" y="{top + 26}" text-anchor="middle">{t:g} s'
        "</text>"
        for t in np.arange(0, end + 1e-6, step)
    )


def _line(course: Course, values: NDArray[np.float64], end: float, i: int) -> str:
    path, last = [], None
    known = np.isfinite(values)
    for at, value in zip(course.time[known], values[known], strict=True):
        gap = last is None or at - last > 3 * course.step
        path.append(f"{'M' if gap else 'L'}{_x(min(at, end), end):.1f} {_y(value):.1f}")
        last = at
    return f'<path class="an-trace" stroke="{PERSON_COLOURS[i]}" d="{"".join(path)}"/>'


def _ribbon(course: Course, end: float, top: float) -> str:
    """Return the expressions of a person over time: a value lasts until the next, or one step."""
    runs: list[tuple[float, float, int]] = []
    ends = np.minimum(np.append(course.time[1:], np.inf), course.time + 3 * course.step)
    for start, stop, value in zip(course.time, ends, course.expression, strict=True):
        if runs and runs[-1][2] == value and start <= runs[-1][1] + 1e-9:
            start = runs.pop()[0]
        runs.append((float(start), min(float(stop), end), int(value)))
    strips = "".join(
        f'<rect x="{_x(min(start, end), end):.1f}" y="{top:.1f}" height="{_STRIP - 8}" '
        f'width="{max(0.5, _x(stop, end) - _x(min(start, end), end)):.1f}" '
        f'fill="{COLOURS[EXPRESSIONS[value]]}"><title>{EXPRESSIONS[value]}, {start:.1f} to '
        f"{stop:.1f} s</title></rect>"
        for start, stop, value in runs
        if value >= 0
    )
    number = f'<text class="an-tick" x="52" y="{top + 16:.1f}" text-anchor="end">{course.track}'
    return f'<g class="an-ribbon">{number}</text>{strips}</g>'


def _card(face: FaceResult, i: int, pixels: Pixels, scale: float) -> str:
    box = Box(*(scale * value for value in face.box))
    thumb = data_uri(crop_face(pixels, box, _THUMBNAIL, margin=0.15), "jpeg", _QUALITY)
    named = sorted(
        zip(face.classes, face.probabilities, strict=True),
        key=lambda pair: EXPRESSIONS.index(pair[0]),
    )
    bars = "".join(
        f'<li class="an-bar" data-expression="{name}"><span>{name}</span>'
        f'<i><b style="width:{100 * p:.1f}%;background:{COLOURS[name]}"></b></i>'
        f"<output>{100 * p:.1f}%</output></li>"
        for name, p in named
        if face.expression
    )
    name = f"<strong>{face.expression}</strong><span>{face.probability:.0%}</span>"
    return (
        f'<article class="an-card" data-face="{i}" tabindex="0" '
        f'style="--c:{colour_of(face.expression)}"><header><img src="{thumb}" alt="Face {i + 1}">'
        f"<div><small>face {i + 1}</small>{name if face.expression else ''}</div></header>"
        f"<ul>{bars}</ul><footer>{affect_html(face)}</footer></article>"
    )
