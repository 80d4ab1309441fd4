"""HTML and SVG of the page: picture with boxes, a card a face, circumplex, curve over time.

The web page, in Gradio: pictures, the camera and videos, and what is recognised in them.
"""

import asyncio
import html
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
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.inference.tracks import Course
from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS
from affectnet.serve.limits import Refusal, too_large
from affectnet.serve.work import Progress, Studio, VideoLook

MOST_CARDS: Final = 60
_SHOWN = 1400
_THUMB = 96
_QUALITY = 88
"""Of JPEG."""
_LINES: Final = ("#0072b2", "#d55e00", "#009e73", "#8a5fa8", "#e69f00", "#56b4e9")


def picture_html(result: PictureResult, pixels: Pixels) -> str:
    """Return the picture with its boxes beside a card a face and the circumplex.

    Args:
        result: the faces.
        pixels: the RGB picture, or a smaller copy of it.
    """
    faces = result.faces[:MOST_CARDS]
    width, height = result.width or pixels.shape[1], result.height or pixels.shape[0]
    boxes = "".join(_box(face, i, min(width, height)) for i, face in enumerate(faces))
    image = data_uri(shrink(pixels, _SHOWN), "jpeg", _QUALITY)
    picture = (
        f'<figure class="an-picture" style="--ratio:{width / height:.4f}">'
        f'<img src="{image}" alt="The picture looked at">'
        f'<svg viewBox="0 0 {width} {height}">{boxes}</svg></figure>'
    )
    if not faces:
        return (
            f'<div class="an-result">{picture}<p class="an-note" role="status"><b>No face found.'
            "</b> Faces are found from about 20 pixels up, seen from the front or half from the "
            "side. Try a larger or better lit picture.</p></div>"
        )
    scale = pixels.shape[1] / width
    cards = "".join(_card(face, i, pixels, scale) for i, face in enumerate(faces))
    count = counted(len(result.faces), "face")
    if len(result.faces) > len(faces):
        count += f", the {len(faces)} largest shown"
    return (
        f'<div class="an-result" data-faces="{len(faces)}">{picture}'
        f'<div class="an-plane"><h3>{count} on the circumplex</h3>{circumplex_svg(faces)}</div>'
        f'<div class="an-cards">{cards}</div></div>'
    )


def circumplex_svg(faces: Sequence[FaceResult]) -> str:
    """Return the valence-arousal plane with a numbered point a face."""
    typical = "".join(
        f'<circle cx="{100 * v:.1f}" cy="{-100 * a:.1f}" r="2.6" fill="{COLOURS[name]}"/>'
        f'<text class="an-typical" x="{100 * v + (5 if name in _RIGHT else -5):.1f}" '
        f'y="{-100 * a + 3:.1f}" '
        f'text-anchor="{"start" if name in _RIGHT else "end"}">{name}</text>'
        for name, (v, a) in CIRCUMPLEX.items()
    )
    points = "".join(
        f'<g class="an-point" data-face="{i}"><title>face {i + 1}: '
        f"valence {_signed(face.valence)}, arousal {_signed(face.arousal)}</title>"
        f'<circle cx="{100 * face.valence:.1f}" cy="{-100 * face.arousal:.1f}" r="8" '
        f'fill="{COLOURS[face.expression]}"/><text x="{100 * face.valence:.1f}" '
        f'y="{-100 * face.arousal + 3.4:.1f}">{i + 1}</text></g>'
        for i, face in reversed(list(enumerate(faces)))
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


_RIGHT: Final = ("neutral", "happiness", "surprise", "anger", "contempt")


def curve_html(courses: Sequence[Course], end: float) -> str:
    """Return valence and arousal over time, a line a person, as SVG.

    Args:
        courses: of `OverTime.courses`.
        end: seconds.
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
        f'<span><i style="background:{_LINES[i]}"></i>face {c.track}: '
        f"{EXPRESSIONS[int(np.bincount(c.expression, minlength=8).argmax())]} most often</span>"
        for i, c in enumerate(shown)
    )
    left = len(courses) - len(shown)
    more = f"<span>and {left} more</span>" if left > 0 else ""
    return (
        f'<figure class="an-curve" data-end="{end:.3f}"><svg viewBox="0 0 720 325" role="img" '
        f'aria-label="Valence and arousal over time">{rows}'
        '<path class="an-now" d="M60 10V300"/></svg>'
        f'<figcaption class="an-legend">{legend}{more}</figcaption></figure>'
    )


def _x(time: float, end: float) -> float:
    return 60 + 645 * time / end


def _y(value: float) -> float:
    return 75 - 62 * value


def _grid(name: str, end: float, last: bool) -> str:
    lines = "".join(
        f'<path class="an-line" d="M60 {_y(v):.1f}H705"/>'
        f'<text class="an-tick" x="52" y="{_y(v) + 4:.1f}" text-anchor="end">{told}</text>'
        for v, told in ((1, "+1"), (0, "0"), (-1, "−1"))
    )
    ticks = ""
    if last:
        step = next(s for s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 1e9) if end / s <= 10)
        ticks = "".join(
            f'<text class="an-tick" x="{_x(t, end):.1f}" y="160" text-anchor="middle">{t:g} s'
            "</text>"
            for t in np.arange(0, end + 1e-6, step)
        )
    label = f'<text class="an-axis" transform="translate(16 75) rotate(-90)">{name}</text>'
    return lines + ticks + label


def _line(course: Course, values: NDArray[np.float64], end: float, i: int) -> str:
    path, last = [], None
    for at, value in zip(course.time, values, strict=True):
        gap = last is None or at - last > 3 * course.step
        path.append(f"{'M' if gap else 'L'}{_x(min(at, end), end):.1f} {_y(value):.1f}")
        last = at
    return f'<path class="an-trace" stroke="{_LINES[i]}" d="{"".join(path)}"/>'


def _box(face: FaceResult, i: int, side: int) -> str:
    x, y, w, h = face.box
    colour, letters = COLOURS[face.expression], max(min(w * 0.14, side / 22), side / 36)
    high = letters * 1.45
    wide = letters * (0.62 * len(f"{i + 1} {face.expression}") + 0.5)
    top = y - high if y >= high else y
    return (
        f'<g class="an-box" data-face="{i}" style="--c:{colour}">'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{0.05 * w:.1f}"/>'
        f'<rect class="an-tag" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" '
        f'rx="{letters * 0.25:.1f}"/><text x="{x + letters * 0.35:.1f}" '
        f'y="{top + letters * 1.08:.1f}" font-size="{letters:.1f}">{i + 1} {face.expression}</text>'
        "</g>"
    )


def _card(face: FaceResult, i: int, pixels: Pixels, scale: float) -> str:
    box = Box(*(scale * value for value in face.box))
    face_image = crop_face(pixels, box, _THUMB, margin=0.15, landmarks=None, alignment=None)
    thumb = data_uri(face_image, "jpeg", _QUALITY)
    named = sorted(zip(face.classes, face.probabilities, strict=True), key=_order)
    bars = "".join(
        f'<li class="an-bar" data-expression="{name}"><span>{name}</span>'
        f'<i><b style="width:{100 * p:.1f}%;background:{COLOURS[name]}"></b></i>'
        f"<output>{100 * p:.1f}%</output></li>"
        for name, p in named
    )
    return (
        f'<article class="an-card" data-face="{i}" tabindex="0" '
        f'style="--c:{COLOURS[face.expression]}"><header><img src="{thumb}" alt="Face {i + 1}">'
        f"<div><small>face {i + 1}</small><strong>{html.escape(face.expression)}</strong>"
        f"<span>{face.probability:.0%}</span></div></header><ul>{bars}</ul>"
        f"<footer><span>valence <b>{_signed(face.valence)}</b></span>"
        f"<span>arousal <b>{_signed(face.arousal)}</b></span></footer></article>"
    )


def _order(pair: tuple[str, float]) -> int:
    return EXPRESSIONS.index(pair[0])


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


_HERE: Final = files("affectnet.serve")
CSS: Final = _HERE.joinpath("page.css").read_text(encoding="utf-8")
_JS = _HERE.joinpath("page.js").read_text(encoding="utf-8")
_LOOK_AGAIN: Final = 0.4
_PREVIEW: Final = 10.0
_FONT: Final = ("Inter", "ui-sans-serif", "system-ui", "Segoe UI", "sans-serif")
_MONO: Final = ("ui-monospace", "Consolas", "monospace")


def theme() -> Any:
    """The look: no typeface is fetched from anywhere."""
    blue = gr.themes.colors.blue
    return gr.themes.Soft(
        primary_hue=blue, secondary_hue=blue, neutral_hue="slate", font=_FONT, font_mono=_MONO
    )


def make_page(studio: Studio) -> gr.Blocks:
    """Return the page; its theme and style are given when it is mounted."""
    page: gr.Blocks
    with gr.Blocks(title="affectnet", analytics_enabled=False) as page:
        gr.HTML(_head(studio), elem_id="an-head")
        with gr.Tab("Picture"), gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                picture = gr.Image(
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    label="Upload, paste or take a picture",
                    height=300,
                    elem_id="an-input",
                    buttons=[],
                    placeholder="Drop a picture here\nor click to choose one",
                )
                example = gr.Button("Try an example picture", size="sm", elem_id="an-example")
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(
                    _empty("Faces, expressions, valence and arousal appear here."),
                    js_on_load=_JS,
                    elem_id="an-result",
                    apply_default_css=False,
                )
        with gr.Tab("Video"), gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                video = gr.File(
                    label="Upload a video",
                    file_types=["video"],
                    type="filepath",
                    height=180,
                    elem_id="an-video-input",
                )
            with gr.Column(scale=3, min_width=320):
                course = gr.HTML(
                    _empty("The annotated video and its curve over time appear here."),
                    js_on_load=_JS,
                    elem_id="an-course",
                    apply_default_css=False,
                )
        gr.HTML(_foot(studio), elem_id="an-foot")

        async def on_picture(given: Any) -> Any:
            if not given:
                return gr.skip()
            return None, await _look(studio, Path(given["path"]))

        async def on_example() -> Any:
            data = _HERE.joinpath("../photos/astronaut.jpg").read_bytes()
            return await _shown(studio, data)

        async def on_video(given: Any) -> AsyncIterator[Any]:
            if given:
                path = Path((given[0] if isinstance(given, list) else given)["path"])
                try:
                    async for told in _watch(studio, path):
                        yield gr.skip(), told
                finally:
                    _forget_soon(studio, path)
                yield None, gr.skip()

        # Without Gradio's own reading: it would decode before any limit is looked at.
        plain: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
        picture.input(on_picture, picture, [picture, result], concurrency_limit=None, **plain)
        example.click(on_example, None, result, concurrency_limit=None, **plain)
        video.upload(on_video, video, [video, course], concurrency_limit=None, **plain)
    page.queue(max_size=studio.limits.workers + studio.limits.waiting, api_open=False)
    return page


async def _look(studio: Studio, path: Path) -> str:
    """Look at an upload of the page; it is deleted as soon as it is read."""
    try:
        size, allowed = path.stat().st_size, studio.limits.picture_bytes
        if size > allowed:
            raise too_large(size, allowed, "--max-mb")
        data = read_file(path)
    except OSError:
        return _trouble("The upload is gone; send it again.")
    except (AffectNetError, Refusal) as error:
        return _trouble(str(error))
    finally:
        _forget_soon(studio, path)
    return await _shown(studio, data)


def _forget_soon(studio: Studio, path: Path) -> None:
    """Delete an upload a little later: the browser may be loading it for its preview."""
    asyncio.get_running_loop().call_later(_PREVIEW, studio.forget, path.resolve(), time.time())


async def _shown(studio: Studio, data: bytes) -> str:
    def work() -> str:
        return picture_html(*studio.look(data))

    try:
        async with studio.pictures.place() as place:
            return await place.run(work)
    except (AffectNetError, Refusal) as error:
        return _trouble(str(error))


async def _watch(studio: Studio, path: Path) -> AsyncIterator[str]:
    """Look at a video, telling how far it is."""
    progress = Progress()
    try:
        async with studio.videos.place() as place:
            task = asyncio.ensure_future(place.run(studio.look_at_video, path, progress))
            try:
                while not (await asyncio.wait({task}, timeout=_LOOK_AGAIN))[0]:
                    yield _progress(progress)
                yield await asyncio.to_thread(_video_html, await task)
            finally:
                progress.stop = True  # where the visitor has gone
                task.cancel()
    except (AffectNetError, Refusal) as error:
        yield _trouble(str(error))


def _video_html(look: VideoLook) -> str:
    courses = look.over_time.courses()
    people = f"{len(courses)} {'person' if len(courses) == 1 else 'persons'}"
    note = f'<p class="an-note">{html.escape(look.note)}</p>' if look.note else ""
    return (
        f'<div class="an-video"><video controls muted playsinline src="results/{look.file.name}">'
        f"</video>{note}<p>{look.frames:,} frames, {people}, {look.faceless:,} frames without a "
        f"face. Click the curve to go to a moment.</p>{curve_html(courses, look.over_time.end)}"
        "</div>"
    )


def _progress(progress: Progress) -> str:
    if progress.expected is None:
        told, share = f"{progress.frames:,} frames", 0.0
    else:
        told = f"{progress.frames:,} of about {progress.expected:,} frames"
        share = min(1.0, progress.frames / progress.expected)
    said = f"Looking at the video: {told}" if progress.frames else "Waiting for a free place"
    return (
        f'<div class="an-progress" role="status">{said}'
        f'<div><b style="width:{100 * share:.0f}%"></b></div></div>'
    )


def _empty(text: str) -> str:
    return f'<div class="an-empty">{text}</div>'


def _trouble(text: str) -> str:
    told = text[:1].upper() + text[1:]
    return f'<p class="an-note" role="alert">{html.escape(told)}</p>'


def _head(studio: Studio) -> str:
    name = html.escape(studio.model_name)
    return (
        "<h1>affectnet</h1><p>Facial expression, valence and arousal of every face in a picture or "
        f"a video. Model <code>{name}</code>, {len(studio.predictor.classes)} classes.</p>"
    )


def _foot(studio: Studio) -> str:
    classes = ", ".join(studio.predictor.classes)
    return (
        "<p><b>What this tells.</b> Which expression people would read into the picture of a face. "
        "It does not tell what a person feels, and people agree with one another on about six of "
        "ten such pictures; judge nobody by it.</p>"
        "<p><b>Privacy.</b> Pictures are looked at on the machine that runs this page, and are not "
        "kept: an upload is deleted some seconds after it is read, an annotated video after "
        "ten minutes.</p>"
        f'<p>Classes: {classes}. The same by HTTP: <a href="docs">how to</a>.</p>'
    )
