"""The web application: the HTTP API, its documentation at /docs, and the Gradio page.

The API takes an image or a video and returns the results as JSON.
"""

import asyncio
import html
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from affectnet.data.file_kinds import START, media_kind
from affectnet.errors import AffectNetError, ConfigError, DataError
from affectnet.serve.guard import Guard, Hosts
from affectnet.serve.password import Password
from affectnet.serve.places import Limits, Refusal, too_large
from affectnet.serve.work import MISSING, Service
from affectnet.version import __version__


def docs_page(address: str, limits: Limits) -> str:
    """Return the documentation page of a server at this address."""
    at = html.escape(address)
    rows = [
        ("image", f"{limits.image_bytes / 2**20:,.0f} MB, {limits.pixels:,} pixels"),
        (
            "video",
            f"{limits.video_bytes / 2**20:,.0f} MB, {limits.video_seconds:g} s, "
            f"{limits.video_frames:,} frames processed",
        ),
        ("at a time", f"{limits.workers} images and {limits.waiting} more waiting; one video"),
        ("streams", f"{limits.streams}, with one frame at a time each"),
        ("time", f"{limits.timeout:g} s per image, {limits.video_timeout:g} s per video"),
    ]
    table = "".join(f"<tr><th>{name}</th><td>{limit}</td></tr>" for name, limit in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>affectnet: HTTP API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1.2rem; font: 16px/1.6 system-ui,
  sans-serif; background: light-dark(#fff, #0e1318); color: light-dark(#17212b, #e6ebf0); }}
h1, h2 {{ letter-spacing: -.01em; line-height: 1.25; }}
h2 {{ margin-top: 2.2rem; font-size: 1.15rem; }}
pre {{ padding: .8rem 1rem; border-radius: 10px; overflow-x: auto; font-size: .87rem;
  background: light-dark(#f2f5f8, #182029); }}
th {{ text-align: left; padding: .2rem 1.4rem .2rem 0; font-weight: 600; }}
a {{ color: light-dark(#0067a3, #6cbcf0); }}
</style></head><body>
<h1>HTTP API</h1>
<p><a href="./">Back to the page</a> · <a href="openapi.json">openapi.json</a></p>
<h2>POST /predict</h2>
<p>Takes an image (JPEG, PNG, BMP, WebP, GIF, TIFF, PPM, AVIF), in a form or as raw bytes. The
response is JSON: every face with its box, landmarks, probabilities, valence and arousal; null for
what the model was not trained on (<code>targets</code> of <code>/health</code>).
<code>?faces=none</code> treats the image as one cropped face.</p>
<pre>curl -F file=@photo.jpg {at}/predict
curl --data-binary @photo.jpg {at}/predict</pre>
<h2>POST /predict/video</h2>
<p>Returns the same for each processed frame, with its time and the number of each person.
<code>?seconds=10</code> processes the first ten seconds, <code>?fps=5</code> five frames per
second.</p>
<pre>curl -F file=@film.mp4 "{at}/predict/video?fps=5"</pre>
<h2>POST /live</h2>
<p>Takes one frame of a live stream, at most 1920 x 1200 pixels, and returns the same as
<code>/predict</code>, with the number of each person and smoothed over time. <code>stream</code>
is a name of your choice (8 to 64 letters and digits), <code>time</code> the frame's time in
seconds. Send the next frame when the response has arrived.</p>
<pre>curl --data-binary @frame.jpg "{at}/live?stream=my-camera-1&amp;time=0.04"</pre>
<h2>GET /health</h2>
<p>Responds at once, also under full load, and without the password.</p>
<h2>Limits</h2>
<table>{table}</table>
<p>Other requests are refused with 413, 422 or 503 (with <code>Retry-After</code>) and JSON:
<code>error</code> states what was given, what is allowed and what to do. With a password, send
<code>Authorization: Bearer PASSWORD</code>, or Basic with any user name.</p>
</body></html>"""


Faces = Literal["detect", "none"]
_CHUNK = 2**20


class Json(JSONResponse):
    """JSON that ends with a newline, after which a shell's prompt is on its own line."""

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return bytes(super().render(content)) + b"\n"


def _body(description: str) -> dict[str, Any]:
    raw = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}},
        }
    }
    content = {"multipart/form-data": form, "application/octet-stream": raw}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the API to the application."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return Json(refusal.to_dict(), refusal.status, refusal.headers)

    @app.exception_handler(DataError)
    async def unusable(_: Request, error: DataError) -> JSONResponse:
        return Json({"error": str(error)}, 422)

    @app.exception_handler(AffectNetError)
    async def broken(_: Request, error: AffectNetError) -> JSONResponse:
        return Json({"error": str(error)}, 500)

    async def image_bytes(upload: Request | UploadFile) -> bytes:
        chunks = _chunks(upload, service.limits.image_bytes, "--max-mb")
        return b"".join([chunk async for chunk in chunks])

    @app.get("/health", response_class=Json, summary="Status and load of the server")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": service.model_name,
            "classes": list(service.predictor.classes),
            "targets": list(service.predictor.targets),
            "pictures": service.images.inside,
            "videos": service.videos.inside,
            "streams": len(service.streams),
        }

    @app.post(
        "/predict",
        summary="Predict on every face of an image",
        openapi_extra=_body("an image: the `file` of a form, or raw bytes"),
    )
    async def predict(request: Request, faces: Faces | None = None) -> JSONResponse:
        async with _upload(request) as upload, service.images.place() as place:
            data = await image_bytes(upload)
            try:
                found = await place.run(service.predict, data, faces)
            except DataError as error:
                if media_kind(data[:START]) == "video":
                    raise DataError(f"{error}; send it to /predict/video") from error
                raise
            return Json(found)

    @app.post(
        "/predict/video",
        summary="Predict on every face of every frame of a video",
        openapi_extra=_body("a video: the `file` of a form, or raw bytes"),
    )
    async def predict_video(
        request: Request,
        faces: Faces | None = None,
        seconds: float | None = Query(None, gt=0, description="process only this many"),
        fps: float | None = Query(None, gt=0, description="frames per second, at most"),
    ) -> JSONResponse:
        async with _upload(request) as upload, service.videos.place() as place:
            with tempfile.NamedTemporaryFile(dir=service.folder, suffix=".video") as file:
                async for chunk in _chunks(upload, service.limits.video_bytes, "--max-video-mb"):
                    file.write(chunk)
                file.flush()
                found = await place.run(service.predict_video, Path(file.name), faces, seconds, fps)
            return Json(found)

    @app.post(
        "/live",
        summary="Predict on the next frame of a live stream",
        openapi_extra=_body("an image: raw bytes"),
    )
    async def live(
        request: Request,
        stream: str = Query(pattern=r"^[\w-]{8,64}$", description="name, chosen by the client"),
        time: float = Query(ge=0, le=1e7, description="seconds since the stream's beginning"),
    ) -> JSONResponse:
        async with _upload(request) as upload:
            data = await image_bytes(upload)
        address = request.client.host if request.client else ""
        return Json(await service.streams.predict(stream, time, address, data))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(str(request.base_url).rstrip("/"), service.limits))

    @app.get("/sample", include_in_schema=False)
    async def sample() -> FileResponse:
        path = await asyncio.to_thread(service.sample)
        return FileResponse(path, media_type=f"video/{path.suffix[1:]}")

    @app.get("/results/{name}", include_in_schema=False)
    async def result(name: str) -> FileResponse:
        path = service.result_file(name)
        if path is None:
            raise Refusal(404, "there is no such result; results are deleted after some minutes")
        kinds = {".csv": "text/csv; charset=utf-8", ".json": "application/json"}
        return FileResponse(path, media_type=kinds.get(path.suffix, f"video/{path.suffix[1:]}"))


@asynccontextmanager
async def _upload(request: Request) -> AsyncIterator[Request | UploadFile]:
    """Yield the source of the uploaded bytes: the file of the form, or the request itself."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield request
        return
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, MultiPartException) as error:
        raise Refusal(400, f"the form cannot be read: {getattr(error, 'detail', error)}") from None
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise Refusal(422, "the form contains no file; send it as: curl -F file=@photo.jpg")
        yield files[0]
    finally:
        with suppress(OSError):
            await form.close()


async def _chunks(upload: Request | UploadFile, allowed: int, setting: str) -> AsyncIterator[bytes]:
    """Yield the uploaded bytes; raises `Refusal` where there are more than allowed."""
    size = 0
    async for chunk in _blocks(upload) if isinstance(upload, UploadFile) else upload.stream():
        size += len(chunk)
        if size > allowed:
            raise too_large(None, allowed, setting)
        yield chunk


async def _blocks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


_SWEEP_EVERY: Final = 60.0


def create_app(service: Service, password: str | None = None, hosts: Hosts | None = None) -> Guard:
    """Return the ASGI application that serves the model.

    Args:
        service: the model, its limits and its temporary folder.
        password: required from every visitor; None where there is none.
        hosts: the names under which it answers; those of this machine for itself if None.

    Raises `ConfigError` where gradio is not installed.
    """
    # Before gradio is imported: it then sends no statistics and keeps its files in our folder.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder.resolve())
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ConfigError(MISSING) from error
    from affectnet.serve.web_page import CSS, is_call, make_page, theme

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(service))
        try:
            yield
        finally:
            service.stop()
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    app = FastAPI(
        title="affectnet", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    add_routes(app, service)
    page = make_page(service)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=False,
        allowed_paths=[],
        max_file_size=max(service.limits.video_bytes, service.limits.image_bytes),
    )
    secret = Password(password) if password else None
    return Guard(
        app, service.limits, service.folder, secret, hosts or Hosts(), partial(is_call, page)
    )


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY)
        await asyncio.to_thread(service.sweep)
