"""The page at /docs: the HTTP API in curl, without scripts from elsewhere.

The HTTP API: a picture or a video in, the typed results as JSON out.

The web application: the Gradio page and the HTTP API behind one guard.
"""

import asyncio
import html
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from affectnet.errors import ConfigError, DataError
from affectnet.serve.guard import Guard, Password
from affectnet.serve.limits import Limits, Refusal, too_large
from affectnet.serve.work import Studio


def docs_page(address: str, limits: Limits) -> str:
    """Return the page for a server at this address."""
    at = html.escape(address)
    rows = [
        ("picture", f"{limits.picture_bytes / 2**20:,.0f} MB, {limits.pixels:,} pixels"),
        (
            "video",
            f"{limits.video_bytes / 2**20:,.0f} MB, {limits.video_seconds:g} s, "
            f"{limits.video_frames:,} frames looked at",
        ),
        ("at a time", f"{limits.workers} pictures and {limits.waiting} more waiting; one video"),
        ("time", f"{limits.timeout:g} s for a picture, {limits.video_timeout:g} s for a video"),
    ]
    table = "".join(f"<tr><th>{name}</th><td>{told}</td></tr>" for name, told in rows)
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
<p>A picture (JPEG, PNG, BMP, WebP, GIF, TIFF, PPM) in a form or as bare bytes. The answer is JSON:
every face with its box, landmarks, probabilities, valence and arousal. <code>?faces=none</code>
takes the picture for one face that is cropped already.</p>
<pre>curl -F file=@photo.jpg {at}/predict
curl --data-binary @photo.jpg {at}/predict</pre>
<h2>POST /predict/video</h2>
<p>The same for each frame looked at, with its time and the number of each person.
<code>?seconds=10</code> looks at the first ten seconds, <code>?fps=5</code> at five frames of a
second.</p>
<pre>curl -F file=@film.mp4 "{at}/predict/video?fps=5"</pre>
<h2>GET /health</h2>
<p>Answers at once, also under full load, and without the password.</p>
<h2>Limits</h2>
<table>{table}</table>
<p>Beyond them the answer is 413, 422 or 503 (with <code>Retry-After</code>) and JSON:
<code>error</code> says what was given, what is allowed and what to do. With a password, send
<code>Authorization: Bearer PASSWORD</code>, or Basic with any user name.</p>
</body></html>"""


Faces = Literal["detect", "none"]
_CHUNK = 2**20


def _body(what: str) -> dict[str, Any]:
    raw = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}},
        }
    }
    content = {"multipart/form-data": form, "application/octet-stream": raw}
    return {"requestBody": {"required": True, "description": what, "content": content}}


def add_routes(app: FastAPI, studio: Studio) -> None:
    """Add the API's addresses to the application."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.to_dict(), refusal.status, refusal.headers)

    @app.exception_handler(DataError)
    async def unusable(_: Request, error: DataError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.get("/health", summary="Whether the server is up, and how busy")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": studio.model_name,
            "classes": list(studio.predictor.classes),
            "pictures": studio.pictures.inside,
            "videos": studio.videos.inside,
        }

    @app.post(
        "/predict",
        summary="Every face of a picture",
        openapi_extra=_body("a picture: a form's `file`, or its bytes alone"),
    )
    async def predict(request: Request, faces: Faces | None = None) -> JSONResponse:
        async with studio.pictures.place() as place, _upload(request) as upload:
            data = await _bytes(upload, studio.limits.picture_bytes, "--max-mb")
            return JSONResponse(await place.run(studio.predict, data, faces))

    @app.post(
        "/predict/video",
        summary="Every face of every frame of a video",
        openapi_extra=_body("a video: a form's `file`, or its bytes alone"),
    )
    async def predict_video(
        request: Request,
        faces: Faces | None = None,
        seconds: float | None = Query(None, gt=0, description="look at this many only"),
        fps: float | None = Query(None, gt=0, description="frames of a second, at most"),
    ) -> JSONResponse:
        async with studio.videos.place() as place, _upload(request) as upload:
            with tempfile.NamedTemporaryFile(dir=studio.folder, suffix=".video") as file:
                await _copy(upload, file, studio.limits.video_bytes)
                found = await place.run(studio.predict_video, Path(file.name), faces, seconds, fps)
            return JSONResponse(found)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(str(request.base_url).rstrip("/"), studio.limits))

    @app.get("/results/{name}", include_in_schema=False)
    async def result(name: str) -> FileResponse:
        path = studio.kept(name)
        if path is None:
            raise Refusal(404, "there is no such result; they are kept for some minutes only")
        return FileResponse(path, media_type="video/webm")


@asynccontextmanager
async def _upload(request: Request) -> AsyncIterator[Request | UploadFile]:
    """What holds the uploaded bytes: the form's one file, or the request itself."""
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
            raise Refusal(422, "the form holds no file; send it as: curl -F file=@photo.jpg")
        yield files[0]
    finally:
        with suppress(OSError):
            await form.close()


async def _chunks(upload: Request | UploadFile) -> AsyncIterator[bytes]:
    if isinstance(upload, UploadFile):
        while chunk := await upload.read(_CHUNK):
            yield chunk
    else:
        async for chunk in upload.stream():
            yield chunk


async def _bytes(upload: Request | UploadFile, allowed: int, setting: str) -> bytes:
    data = bytearray()
    async for chunk in _chunks(upload):
        data += chunk
        if len(data) > allowed:
            raise too_large(None, allowed, setting)
    return bytes(data)


async def _copy(upload: Request | UploadFile, file: Any, allowed: int) -> None:
    size = 0
    async for chunk in _chunks(upload):
        size += len(chunk)
        if size > allowed:
            raise too_large(None, allowed, "--max-video-mb")
        file.write(chunk)
    file.flush()


_SWEEP_EVERY: Final = 60.0
MISSING: Final = (
    "the web page needs gradio, which is not installed; install it with: "
    "pip install 'affectnet[serve]'"
)


def create_app(studio: Studio, password: str | None = None) -> Guard:
    """Return the ASGI application that serves the studio's model.

    Args:
        studio: the model, its limits and its temporary folder.
        password: what everybody must give who comes in; None where nobody must.

    Raises `ConfigError` where gradio is not installed.
    """
    # Before gradio is imported: it asks nobody for anything and keeps its files in our folder.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(studio.folder.resolve())
    try:
        import gradio
        from fastapi import FastAPI
    except ModuleNotFoundError as error:
        raise ConfigError(MISSING) from error
    from affectnet.version import __version__

    pass
    from affectnet.serve.web_page import CSS, make_page, theme

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(studio))
        try:
            yield
        finally:
            studio.stop()
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    app = FastAPI(
        title="affectnet", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    add_routes(app, studio)
    gradio.mount_gradio_app(
        app,
        make_page(studio),
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
        max_file_size=max(studio.limits.video_bytes, studio.limits.picture_bytes),
    )
    return Guard(app, studio.limits, studio.folder, Password(password) if password else None)


async def _sweep(studio: Studio) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY)
        await asyncio.to_thread(studio.sweep)
