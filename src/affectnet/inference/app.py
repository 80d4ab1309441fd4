"""The web application: the Gradio page and the HTTP API behind one guard."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from affectnet.errors import ConfigError
from affectnet.inference.app_guard import Guard
from affectnet.inference.app_password import Password
from affectnet.inference.app_work import Studio

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
    from affectnet import __version__
    from affectnet.inference.app_http import add_routes
    from affectnet.inference.app_page import CSS, make_page, theme

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
