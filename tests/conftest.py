"""What many tests share: small datasets, the real faces where they are, a photo, a small model."""

import os
import re
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from affectnet.errors import TRAIN_PACKAGES

# One thread a process: results must not depend on the machine's cores, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Shells start background jobs with Ctrl-C ignored, and processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Skip a file of tests that imports a package of `train` where that is not installed.

    What must work without is named in `tests/test_architecture.py`, which imports it.
    """
    report = yield
    missing = re.search(r"No module named '(\w+)", str(report.longrepr)) if report.failed else None
    if missing and missing[1] in (*TRAIN_PACKAGES, "pandas", "torchmetrics"):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


@pytest.fixture(scope="session")
def drawn_tars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AffectNet's two tar files with 24 + 6 drawn faces a class at 64 x 64."""
    from affectnet.data.drawn.release import write_affectnet_tars

    folder = tmp_path_factory.mktemp("release")
    return write_affectnet_tars(folder, train_per_class=24, test_per_class=6, size=64, seed=1)


@pytest.fixture(scope="session")
def drawn(drawn_tars: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder that ingest makes of `drawn_tars`."""
    from affectnet.commands.ingest import ingest
    from affectnet.config import IngestConfig

    out = tmp_path_factory.mktemp("drawn") / "dataset"
    ingest(IngestConfig(sources=drawn_tars, out=out))
    return out


@pytest.fixture(scope="session")
def ferplus() -> Path:
    """The folder of real faces in AffectNet's layout; skips where it is absent."""
    given = os.environ.get("AFFECTNET_FERPLUS")
    beside = Path(__file__).parents[2] / "shared" / "data" / "ferplus"
    folder = Path(given) if given else beside
    if not (folder / "train_and_val_set.tar.gz").is_file():
        pytest.skip(f"no real faces at {folder}; set AFFECTNET_FERPLUS to their folder")
    return folder


PHOTO = Path(__file__).parent / "files" / "astronaut.jpg"


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
    torch = pytest.importorskip("torch", reason="`pip install 'affectnet[train]'`")
    import torch.nn.functional as F

    from affectnet.models.affect_model import AffectModel

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
def predictor(model_dir: Path):
    """The saved model, loaded."""
    from affectnet.inference.predictor import load

    return load(model_dir)


def encode(
    path: Path, frames: list[np.ndarray], fps: float = 10, codec: str = "mjpeg", **settings: Any
) -> Path:
    """Encode RGB frames; `times` in seconds, and `sound` in seconds of a 440 Hz tone as `audio`."""
    times = settings.pop("times", [i / fps for i in range(len(frames))])
    sound, audio = settings.pop("sound", 0), settings.pop("audio", "aac")
    clock = Fraction(1, 1000 if path.suffix in (".webm", ".mkv") else 12_800)
    if path.suffix == ".avi":
        clock = 1 / Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "bgr0"}.get(codec, "yuv420p")
        stream.codec_context.time_base = clock
        stream.codec_context.qmin = 1
        stream.options = settings
        tone = None
        if sound:
            tone = output.add_stream(audio, rate=48_000)
            wave = np.sin(np.arange(round(sound * 48_000)) * 2 * np.pi * 440 / 48_000) * 0.3
            given = av.AudioFrame.from_ndarray(
                wave[None].astype(np.float32), format="fltp", layout="mono"
            )
            given.sample_rate, given.pts = 48_000, 0
            output.mux(tone.encode(given))
            output.mux(tone.encode(None))
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
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
    from affectnet.data.drawn.release import draw_faces
    from affectnet.data.images import decode_image

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
    from affectnet.inference.onnx_export import export_onnx
    from affectnet.inference.runtime import weights_digest
    from affectnet.models.affect_model import AffectModel

    path = factory.mktemp("onnx") / "model.onnx"
    model, digest = AffectModel.from_pretrained(model_dir), weights_digest(model_dir)
    export_onnx(model, path, faces, inside=inside, weights_sha256=digest)
    return path
