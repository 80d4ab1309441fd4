"""The HTTP API: a picture or a video in, the typed results as JSON out."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from affectnet.errors import DataError
from affectnet.inference.app_docs import docs_page
from affectnet.inference.app_limits import Refusal, too_large
from affectnet.inference.app_work import Studio

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
