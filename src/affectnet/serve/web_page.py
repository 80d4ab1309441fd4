"""The web page, in Gradio: images, the camera and videos, and the results as HTML and SVG."""

import asyncio
import html
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import gradio as gr

from affectnet.data.images import read_file
from affectnet.errors import AffectNetError, counted
from affectnet.models.model_config import untrained_note
from affectnet.serve.live_page import live_html
from affectnet.serve.places import Refusal, too_large
from affectnet.serve.results_page import curve_html, downloads_html, image_html
from affectnet.serve.work import Progress, Service, VideoSummary

_HERE: Final = files("affectnet.serve")
CSS: Final = _HERE.joinpath("page.css").read_text(encoding="utf-8")
_JS = _HERE.joinpath("page.js").read_text(encoding="utf-8")
_LIVE_JS = _HERE.joinpath("live.js").read_text(encoding="utf-8")
_PROGRESS_SECONDS: Final = 0.4
_PREVIEW: Final = 10.0
_FONT: Final = ("Inter", "ui-sans-serif", "system-ui", "Segoe UI", "sans-serif")
_MONO: Final = ("ui-monospace", "Consolas", "monospace")


def theme() -> Any:
    """Return the theme; its fonts are not fetched from other hosts."""
    blue = gr.themes.colors.blue
    return gr.themes.Soft(
        primary_hue=blue, secondary_hue=blue, neutral_hue="slate", font=_FONT, font_mono=_MONO
    ).set(
        # Gradio's own have a contrast below 4.5:1.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
        button_secondary_background_fill_hover_dark="*primary_700",
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
        with gr.Tab("Live"):
            gr.HTML(live_html(), js_on_load=_LIVE_JS, elem_id="an-live", apply_default_css=False)
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
        sample = gr.Button("Try a sample video", size="sm", elem_id="an-sample")
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

    async def on_sample() -> AsyncIterator[Any]:
        async for update in _predict_video(service, await asyncio.to_thread(service.sample)):
            yield update

    video.upload(on_video, video, [video, result], **_EVENT)
    sample.click(on_sample, None, result, **_EVENT)


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
    saves = {
        f"{name}{file.suffix}": f"results/{file.name}"
        for name, file in (("annotated", video.file), *(("faces", t) for t in video.tables))
    }
    note = f'<p class="an-note">{html.escape(video.note)}</p>' if video.note else ""
    return (
        f'<div class="an-video"><video controls muted playsinline src="results/{video.file.name}">'
        f"</video>{note}<p>{video.frames:,} frames, {people}, {video.faceless:,} frames without a "
        f"face. Click the curve to go to that time.</p>{curve_html(courses, video.over_time.end)}"
        f"{downloads_html(saves)}</div>"
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
        "ten minutes. Frames of the live camera are not stored.</p>"
        f'<p>Classes: {classes}. Also available: <a href="docs">HTTP API</a>.</p>'
    )
