"""A real photo with one face, and a small model with random weights."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from affectnet.data.images import decode_image
from affectnet.data.synthetic import draw_faces
from affectnet.inference.export import export_onnx
from affectnet.inference.predictor import Predictor, load
from affectnet.models.affect_model import AffectModel

PHOTO = Path(__file__).parents[1] / "files" / "astronaut.jpg"


@pytest.fixture(scope="session")
def photo_file() -> Path:
    """A portrait of 280 x 330 pixels with one face in its upper half."""
    return PHOTO


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """The portrait, uint8 RGB (330, 280, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


WIDE = 60


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved CVNet of 48 pixels, its heads drawn wide, so that faces get different numbers.

    What all pictures have in common of its untrained features is taken off by the biases.
    """
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48).eval()
    with torch.no_grad():
        pictures = F.interpolate(torch.rand(32, 3, 6, 6), (48, 48), mode="bicubic")
        common = model.features(pictures).mean(0)
        for head in (model.heads.expression, model.heads.valence_arousal):
            head.weight.mul_(WIDE)
            head.bias.copy_(-head.weight @ common)
    folder = tmp_path_factory.mktemp("predict") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def predictor(model_dir: Path) -> Predictor:
    """The saved model, loaded."""
    return load(model_dir)


def encode(path: Path, frames: list[np.ndarray], fps: float = 10, codec: str = "MJPG") -> Path:
    """Encode RGB frames."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (width, height)
    )
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def shift(photo: np.ndarray, right: int, size: tuple[int, int] = (360, 240)) -> np.ndarray:
    """The portrait, shrunk, moved to the right on a grey ground of (width, height)."""
    small = cv2.resize(photo, (200, 236), interpolation=cv2.INTER_AREA)
    ground = np.full((size[1], size[0] + 400, 3), 120, np.uint8)
    ground[2:238, 200 + right : 400 + right] = small
    return ground[:, 200 : 200 + size[0]]


@pytest.fixture(scope="session")
def write_video():
    """`encode`."""
    return encode


@pytest.fixture(scope="session")
def shifted():
    """`shift`."""
    return shift


@pytest.fixture(scope="session")
def walk(photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 2 seconds at 10 frames: the face walks to the right and is away for 4 frames."""
    empty = np.full((240, 360, 3), 120, np.uint8)
    frames = [empty if 8 <= i < 12 else shift(photo, 8 * i) for i in range(20)]
    return encode(tmp_path_factory.mktemp("video") / "walk.avi", frames)


@pytest.fixture(scope="session")
def drawn_crops() -> np.ndarray:
    """64 drawn faces, uint8 RGB (64, 48, 48, 3)."""
    return np.stack([decode_image(face.image, 48) for face in draw_faces(8, seed=5, size=96)])


@pytest.fixture(scope="session")
def onnx_file(model_dir: Path, drawn_crops: np.ndarray, tmp_path_factory) -> Path:
    """The saved model as ONNX; it takes normalised faces."""
    return _exported(model_dir, drawn_crops, tmp_path_factory, inside=False)


@pytest.fixture(scope="session")
def uint8_file(model_dir: Path, drawn_crops: np.ndarray, tmp_path_factory) -> Path:
    """The saved model as ONNX; scaling and normalisation are inside."""
    return _exported(model_dir, drawn_crops, tmp_path_factory, inside=True)


def _exported(model_dir: Path, faces: np.ndarray, factory, inside: bool) -> Path:
    path = factory.mktemp("onnx") / "model.onnx"
    export_onnx(AffectModel.from_pretrained(model_dir), path, faces, inside=inside)
    return path


@dataclass
class Served:
    """A server on a free port of this process, and the studio behind it."""

    address: str
    studio: object


@contextmanager
def serving(predictor: Predictor, folder: Path, password: str | None = None, **settings):
    """Serve a model by the real HTTP server in a thread."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    from affectnet.inference.app import create_app
    from affectnet.inference.app_limits import Limits
    from affectnet.inference.app_work import Studio

    faces = settings.pop("faces", "detect")
    studio = Studio(predictor, "tiny", Limits(**settings), folder, faces)
    config = uvicorn.Config(
        create_app(studio, password), port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", studio)
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
    limits = {"picture_bytes": 400_000, "video_bytes": 2_000_000, "pixels": 500_000}
    with serving(
        predictor, tmp_path_factory.mktemp("served"), **limits, video_seconds=3.0, video_fps=5.0
    ) as served:
        yield served
