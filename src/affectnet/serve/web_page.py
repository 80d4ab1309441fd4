"""The web page, in Gradio: images, the camera and videos, and the results as HTML and SVG."""

import asyncio
import html
import math
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box, crop_face, shrink
from affectnet.data.images import Pixels, data_uri, read_file
from affectnet.errors import AffectNetError, counted
from affectnet.inference.drawing import signed
from affectnet.inference.panels import has_place
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.inference.tracks import Course
from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS, UNKNOWN_COLOUR
from affectnet.models.model_config import untrained_note
from affectnet.serve.work import Progress, Refusal, Service, VideoSummary, too_large

MAX_CARDS: Final = 60
_IMAGE_SIDE = 1400
_THUMBNAIL = 96
_QUALITY = 88
"""Of JPEG."""
_LINES: Final = ("#0072b2", "#d55e00", "#009e73", "#8a5fa8", "#e69f00", "#56b4e9")


def image_html(result: PictureResult, pixels: Pixels) -> str:
    """Return the image with its boxes, one card per face and the circumplex.

    Args:
        result: the faces.
        pixels: the RGB image, or a smaller copy of it.
    """
    faces = result.faces[:MAX_CARDS]
    width, height = result.width or pixels.shape[1], result.height or pixels.shape[0]
    boxes = "".join(_box(face, i, min(width, height)) for i, face in enumerate(faces))
    uri = data_uri(shrink(pixels, _IMAGE_SIDE), "jpeg", _QUALITY)
    image = (
        f'<figure class="an-image" style="--ratio:{width / height:.4f}">'
        f'<img src="{uri}" alt="The uploaded image">'
        f'<svg viewBox="0 0 {width} {height}">{boxes}</svg></figure>'
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
        f'<div class="an-cards">{cards}</div></div>'
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
    points = "".join(
        f'<g class="an-point" data-face="{i}"><title>face {i + 1}: '
        f"valence {signed(face.valence)}, arousal {signed(face.arousal)}</title>"
        f'<circle cx="{100 * face.valence:.1f}" cy="{-100 * face.arousal:.1f}" r="8" '
        f'fill="{_colour(face)}"/><text x="{100 * face.valence:.1f}" '
        f'y="{-100 * face.arousal + 3.4:.1f}">{i + 1}</text></g>'
        for i, face in reversed(list(enumerate(faces)))
        if has_place(face)
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
        f"{typical}{points}</svg>"
    )


_LABEL_RIGHT: Final = ("neutral", "happiness", "surprise", "anger", "contempt")


def curve_html(courses: Sequence[Course], end: float) -> str:
    """Return valence and arousal over time as SVG, one line per person.

    Args:
        courses: from `OverTime.courses`.
        end: length of the video in seconds.
    """
    shown = sorted(courses[: len(_LINES)], key=lambda course: course.track)
    if not shown:
        return '<p class="an-note">No face was seen in the video.</p>'
    end = max(end, 0.1)
    rows = "".join(
        f'<g transform="translate(0 {150 * row})">{_grid(name, end, last=row == 1)}'
        + "".join(_line(c, getattr(c, name), end, i) for i, c in enumerate(shown))
        + "</g>"
        for row, name in enumerate(("valence", "arousal"))
    )
    legend = "".join(
        f'<span><i style="background:{_LINES[i]}"></i>face {c.track}'
        f"{_most_often(c.expression)}</span>"
        for i, c in enumerate(shown)
    )
    others = len(courses) - len(shown)
    more = f"<span>and {others} more</span>" if others > 0 else ""
    return (
        f'<figure class="an-curve" data-end="{end:.3f}"><svg viewBox="0 0 720 325" role="img" '
        f'aria-label="Valence and arousal over time">{rows}'
        '<path class="an-now" d="M60 10V300"/></svg>'
        f'<figcaption class="an-legend">{legend}{more}</figcaption></figure>'
    )


def _most_often(expression: NDArray[np.int64]) -> str:
    known = expression[expression >= 0]
    return f": {EXPRESSIONS[np.bincount(known).argmax()]} most often" if len(known) else ""


def _x(time: float, end: float) -> float:
    return 60 + 645 * time / end


def _y(value: float) -> float:
    return 75 - 62 * value


def _grid(name: str, end: float, last: bool) -> str:
    lines = "".join(
        f'<path class="an-line" d="M60 {_y(v):.1f}H705"/>'
        f'<text class="an-tick" x="52" y="{_y(v) + 4:.1f}" text-anchor="end">{label}</text>'
        for v, label in ((1, "+1"), (0, "0"), (-1, "−1"))
    )
    ticks = ""
    if last:
        step = next(s for s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 1e9) if end / s <= 10)
        ticks = "".join(
            f'<text class="an-tick" x="{_x(t, end):.1f}" y="160" text-anchor="middle">{t:g} s'
            "</text>"
            for t in np.arange(0, end + 1e-6, step)
        )
    title = f'<text class="an-axis" transform="translate(16 75) rotate(-90)">{name}</text>'
    return lines + ticks + title


def _line(course: Course, values: NDArray[np.float64], end: float, i: int) -> str:
    path, last = [], None
    known = np.isfinite(values)
    for at, value in zip(course.time[known], values[known], strict=True):
        gap = last is None or at - last > 3 * course.step
        path.append(f"{'M' if gap else 'L'}{_x(min(at, end), end):.1f} {_y(value):.1f}")
        last = at
    return f'<path class="an-trace" stroke="{_LINES[i]}" d="{"".join(path)}"/>'


def _colour(face: FaceResult) -> str:
    return COLOURS[face.expression] if face.expression else UNKNOWN_COLOUR


def _box(face: FaceResult, i: int, side: int) -> str:
    x, y, w, h = face.box
    colour, letters = _colour(face), max(min(w * 0.14, side / 22), side / 36)
    text = f"{i + 1} {face.expression or ''}"
    high = letters * 1.45
    wide = letters * (0.62 * len(text) + 0.5)
    top = y - high if y >= high else y
    return (
        f'<g class="an-box" data-face="{i}" style="--c:{colour}">'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{0.05 * w:.1f}"/>'
        f'<rect class="an-tag" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" '
        f'rx="{letters * 0.25:.1f}"/><text x="{x + letters * 0.35:.1f}" '
        f'y="{top + letters * 1.08:.1f}" font-size="{letters:.1f}">{text}</text>'
        "</g>"
    )


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
    affect = "".join(
        f"<span>{name} <b>{signed(value)}</b></span>"
        for name, value in (("valence", face.valence), ("arousal", face.arousal))
        if math.isfinite(value)
    )
    name = f"<strong>{face.expression}</strong><span>{face.probability:.0%}</span>"
    return (
        f'<article class="an-card" data-face="{i}" tabindex="0" '
        f'style="--c:{_colour(face)}"><header><img src="{thumb}" alt="Face {i + 1}">'
        f"<div><small>face {i + 1}</small>{name if face.expression else ''}</div></header>"
        f"<ul>{bars}</ul><footer>{affect}</footer></article>"
    )


_HERE: Final = files("affectnet.serve")
CSS: Final = _HERE.joinpath("page.css").read_text(encoding="utf-8")
_JS = _HERE.joinpath("page.js").read_text(encoding="utf-8")
_PROGRESS_SECONDS: Final = 0.4
_PREVIEW: Final = 10.0
_FONT: Final = ("Inter", "ui-sans-serif", "system-ui", "Segoe UI", "sans-serif")
_MONO: Final = ("ui-monospace", "Consolas", "monospace")


def theme() -> Any:
    """Return the theme; its fonts are not fetched from other hosts."""
    blue = gr.themes.colors.blue
    return gr.themes.Soft(
        primary_hue=blue, secondary_hue=blue, neutral_hue="slate", font=_FONT, font_mono=_MONO
    )


def make_page(service: Service) -> gr.Blocks:
    """Return the page; its theme and style are set when it is mounted."""
    page: gr.Blocks
    with gr.Blocks(title="affectnet", analytics_enabled=False) as page:
        gr.HTML(_head(service), elem_id="an-head")
        with gr.Tab("Image"), gr.Row(equal_height=False):
            _image_tab(service)
        with gr.Tab("Video"), gr.Row(equal_height=False):
            _video_tab(service)
        gr.HTML(_foot(service), elem_id="an-foot")
    page.queue(max_size=service.limits.workers + service.limits.waiting, api_open=False)
    return page


def is_call(page: gr.Blocks, call: Any) -> bool:
    """Whether the JSON of a request calls a function of the page, with files or nothing."""
    try:
        function = page.fns[call["fn_index"]]
        for given in call["data"]:
            if given is not None:
                gr.FileData.model_validate(given)
        session = call["session_hash"]
        return len(call["data"]) == len(function.inputs) and session.isalnum() and len(session) < 65
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


# Without Gradio's preprocessing, which would decode a file before its limits are checked.
_EVENT: Final[dict[str, Any]] = {
    "preprocess": False,
    "api_visibility": "private",
    "concurrency_limit": None,
}


def _image_tab(service: Service) -> None:
    with gr.Column(scale=1, min_width=280):
        image = gr.Image(
            sources=["upload", "clipboard", "webcam"],
            type="filepath",
            label="Upload, paste or take an image",
            height=300,
            elem_id="an-input",
            buttons=[],
            placeholder="Drop an image here\nor click to choose one",
        )
        example = gr.Button("Try an example image", size="sm", elem_id="an-example")
    result = _result_area("Faces, expressions, valence and arousal appear here.", "an-result")

    async def on_image(given: Any) -> Any:
        if not given:
            return gr.skip()
        return None, await _predict_upload(service, Path(given["path"]))

    async def on_example() -> Any:
        return await _predict_html(service, _HERE.joinpath("../photos/astronaut.jpg").read_bytes())

    image.input(on_image, image, [image, result], **_EVENT)
    example.click(on_example, None, result, **_EVENT)


def _video_tab(service: Service) -> None:
    with gr.Column(scale=1, min_width=280):
        video = gr.File(
            label="Upload a video",
            file_types=["video"],
            type="filepath",
            height=180,
            elem_id="an-video-input",
        )
    result = _result_area("The annotated video and its curve over time appear here.", "an-course")

    async def on_video(given: Any) -> AsyncIterator[Any]:
        if given:
            path = Path((given[0] if isinstance(given, list) else given)["path"])
            try:
                async for update in _predict_video(service, path):
                    yield gr.skip(), update
            finally:
                _forget_soon(service, path)
            yield None, gr.skip()

    video.upload(on_video, video, [video, result], **_EVENT)


def _result_area(text: str, elem_id: str) -> gr.HTML:
    with gr.Column(scale=3, min_width=320):
        return gr.HTML(
            f'<div class="an-empty">{text}</div>',
            js_on_load=_JS,
            elem_id=elem_id,
            apply_default_css=False,
        )


async def _predict_upload(service: Service, path: Path) -> str:
    """Predict on an uploaded image, which is deleted soon after it is read."""
    try:
        size, allowed = path.stat().st_size, service.limits.image_bytes
        if size > allowed:
            raise too_large(size, allowed, "--max-mb")
        data = read_file(path)
    except OSError:
        return _error_html("The upload has been deleted; upload it again.")
    except (AffectNetError, Refusal) as error:
        return _error_html(str(error))
    finally:
        _forget_soon(service, path)
    return await _predict_html(service, data)


def _forget_soon(service: Service, path: Path) -> None:
    """Delete an upload after a delay, in which the browser may load it for its preview."""
    asyncio.get_running_loop().call_later(_PREVIEW, service.forget, path.resolve(), time.time())


async def _predict_html(service: Service, data: bytes) -> str:
    try:
        async with service.images.place() as place:
            return await place.run(lambda: image_html(*service.predict_pixels(data)))
    except (AffectNetError, Refusal) as error:
        return _error_html(str(error))


async def _predict_video(service: Service, path: Path) -> AsyncIterator[str]:
    """Process a video; yield the progress, then the result."""
    progress = Progress()
    try:
        async with service.videos.place() as place:
            task = asyncio.ensure_future(place.run(service.annotate_video, path, progress))
            try:
                while not (await asyncio.wait({task}, timeout=_PROGRESS_SECONDS))[0]:
                    yield _progress_html(progress)
                yield await asyncio.to_thread(_video_html, await task)
            finally:
                progress.stop = True  # also when the visitor has left
                task.cancel()
    except (AffectNetError, Refusal) as error:
        yield _error_html(str(error))


def _video_html(video: VideoSummary) -> str:
    courses = video.over_time.courses()
    people = counted(len(courses), "person")
    note = f'<p class="an-note">{html.escape(video.note)}</p>' if video.note else ""
    return (
        f'<div class="an-video"><video controls muted playsinline src="results/{video.file.name}">'
        f"</video>{note}<p>{video.frames:,} frames, {people}, {video.faceless:,} frames without a "
        f"face. Click the curve to go to that time.</p>{curve_html(courses, video.over_time.end)}"
        "</div>"
    )


def _progress_html(progress: Progress) -> str:
    if progress.expected is None:
        count, fraction = f"{progress.frames:,} frames", 0.0
    else:
        count = f"{progress.frames:,} of about {progress.expected:,} frames"
        fraction = min(1.0, progress.frames / progress.expected)
    text = f"Processing the video: {count}" if progress.frames else "Waiting for a free place"
    return (
        f'<div class="an-progress" role="status">{text}'
        f'<div><b style="width:{100 * fraction:.0f}%"></b></div></div>'
    )


def _error_html(text: str) -> str:
    sentence = text[:1].upper() + text[1:]
    return f'<p class="an-note" role="alert">{html.escape(sentence)}</p>'


def _head(service: Service) -> str:
    name = html.escape(service.model_name)
    note = untrained_note(service.predictor.targets)
    return (
        "<h1>affectnet</h1><p>Facial expression, valence and arousal of every face in an image or "
        f"a video. Model <code>{name}</code>, {len(service.predictor.classes)} classes"
        f"{f'; {note}' if note else ''}.</p>"
    )


def _foot(service: Service) -> str:
    classes = ", ".join(service.predictor.classes)
    return (
        "<p><b>What the result means.</b> It is the expression that people would see in the image "
        "of a face. It does not show what a person feels, and people often disagree about such "
        "images. Do not judge anyone by it.</p>"
        "<p><b>Privacy.</b> Images are processed on the machine that runs this page and are not "
        "stored: an upload is deleted some seconds after it is read, an annotated video after "
        "ten minutes.</p>"
        f'<p>Classes: {classes}. Also available: <a href="docs">HTTP API</a>.</p>'
    )
