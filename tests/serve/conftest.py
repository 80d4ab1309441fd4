"""A small model behind the real HTTP server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from affectnet.inference.predictor import Predictor


@dataclass
class Served:
    """A server on a free port of this process, and the service behind it."""

    address: str
    service: object


@contextmanager
def serving(predictor: Predictor, folder: Path, password: str | None = None, **settings):
    """Serve a model by the real HTTP server in a thread."""
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    from affectnet.serve.api import create_app
    from affectnet.serve.connections import make_server
    from affectnet.serve.places import Limits
    from affectnet.serve.work import Service

    faces = settings.pop("faces", "detect")
    hosts, proxies = settings.pop("hosts", None), settings.pop("proxies", ())
    service = Service(predictor, "tiny", Limits(**settings), folder, faces)
    server = make_server(create_app(service, password, hosts), proxies, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", service)
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve_model():
    """`serving`."""
    return serving


@pytest.fixture(scope="session")
def server(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The small model, served with small limits."""
    limits = {"image_bytes": 400_000, "video_bytes": 2_000_000, "pixels": 500_000}
    with serving(
        predictor, tmp_path_factory.mktemp("served"), **limits, video_seconds=3.0, video_fps=5.0
    ) as served:
        yield served
