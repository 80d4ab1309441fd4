"""The web page, in Gradio: pictures, the camera and videos, and what is recognised in them."""

import asyncio
import html
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import gradio as gr

from affectnet.errors import AffectNetError
from affectnet.inference.app_drawing import curve_html, picture_html
from affectnet.inference.app_limits import Refusal, too_large
from affectnet.inference.app_work import Progress, Studio, VideoLook
from affectnet.inference.images import read_file

_HERE: Final = files("affectnet.inference")
CSS: Final = _HERE.joinpath("app_page.css").read_text(encoding="utf-8")
_JS = _HERE.joinpath("app_page.js").read_text(encoding="utf-8")
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
