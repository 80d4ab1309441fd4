"""Prediction on a CPU: faces, photos and video frames per second, compared with a simple loop.

    python benchmarks/predict.py [--seconds 5] [--photos 48] [--model MODEL] [--quick] [--check]

1. Faces: PyTorch, ONNX Runtime and ONNX Runtime in 8 bits, at batch 1 and 32, for CVNet,
   EfficientNet-B0 and ConvNeXt-T at 112 px. The weights are random, because the speed does not
   depend on them; `affectnet export --int8` reports how far 8 bits are from PyTorch.
2. Whole photos: JPEG files of 1280x960 to 4000x3000 with one to six faces each (a real portrait if
   `tests/files` has it, and drawn faces): read from disk, detected and classified.
3. Video: frames per second at 640x480, and the peak memory of predicting an hour and a minute.

The simple loop processes one image after the other: `cv2.imread`, a new YuNet detector at the full
size of the image, and each face cropped, resized, normalised and passed to PyTorch alone. It uses
both cores as well: OpenCV and PyTorch may use as many threads as they like. It detects slightly
different faces, because it searches at full size (smaller ones in large photos); both counts are
printed. With --check the exit status is 1 if whole photos are less than 3 times as fast, or if the
hour needs over 10% more memory than the minute.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

import affectnet
from affectnet.data.drawn.release import draw_faces, render
from affectnet.data.images import decode_image
from affectnet.inference.classifiers import ClassifierLike, OnnxClassifier
from affectnet.inference.detector import yunet_file
from affectnet.inference.onnx_export import Exported, export_onnx, quantise, quiet, write_graph
from affectnet.inference.predictor import Predictor
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel

TARGET, MEMORY_TARGET = 3.0, 1.1
SIZE = 112
PORTRAIT = Path(__file__).parents[1] / "tests" / "files" / "astronaut.jpg"
PHOTO_SIZES = ((1280, 960), (1920, 1080), (2048, 1536), (4000, 3000))
BACKBONES = {"cvnet": "cvnet", "EfficientNet-B0": "efficientnet_b0", "ConvNeXt-T": "convnext_tiny"}


@dataclass(frozen=True)
class Speed:
    """Throughput of one classifier, alone and in batches."""

    one: float
    many: float


def main() -> int:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=5, help="time of each measurement (default 5)"
    )
    parser.add_argument("--photos", type=int, default=48, help="number of photos (default 48)")
    parser.add_argument("--model", help="a trained CVNet; random weights by default")
    parser.add_argument("--quick", action="store_true", help="CVNet only, a short video")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "VIDEO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak(*options.peak)
    console = Console(width=110)
    console.print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; PyTorch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = np.stack([decode_image(f.image, SIZE) for f in draw_faces(8, size=SIZE)])
        model = cvnet(options.model)
        speeds(console, folder, faces, options)
        whole = photos(console, folder, model, options)
        memory = videos(console, folder, model, options)
    met = whole >= TARGET and memory <= MEMORY_TARGET
    return int(options.check and not met)


def cvnet(given: str | None) -> AffectModel:
    """Return the model for photos and videos."""
    torch.manual_seed(0)
    return AffectModel.from_pretrained(given) if given else AffectModel("cvnet").eval()


def speeds(
    console: Console, folder: Path, faces: NDArray[np.uint8], options: argparse.Namespace
) -> None:
    """Print the faces per second and latency of the models alone, preprocessing included."""
    table = Table("network", "runs on", "batch 1: ms", "faces/s", "batch 32: faces/s", "MB")
    for name, backbone in list(BACKBONES.items())[: 1 if options.quick else None]:
        torch.manual_seed(0)
        model = AffectModel(backbone, image_size=SIZE).eval()
        plain, small = folder / f"{backbone}.onnx", folder / f"{backbone}-int8.onnx"
        export_onnx(model, plain, faces[:8], inside=True)
        with quiet():
            write_graph(Exported(model, inside=True, half=False).eval(), small)
            quantise(small, faces)
        small = with_metadata(plain, small)
        ways: dict[str, tuple[ClassifierLike, Path | None]] = {
            "PyTorch": (TorchClassifier(model, "cpu"), None),
            "ONNX Runtime": (OnnxClassifier(plain, "cpu"), plain),
            "ONNX Runtime, int8": (OnnxClassifier(small, "cpu"), small),
        }
        for way, (classifier, file) in ways.items():
            speed = classified(classifier, faces, options.seconds)
            size = f"{file.stat().st_size / 1e6:.1f}" if file else ""
            latency = f"{1000 / speed.one:.1f}"
            table.add_row(name, way, latency, f"{speed.one:,.0f}", f"{speed.many:,.0f}", size)
    console.print(table)


def with_metadata(plain: Path, small: Path) -> Path:
    """Copy the metadata of the fp32 file to the 8-bit file."""
    import onnx

    graph = onnx.load(str(small))
    metadata = {p.key: p.value for p in onnx.load(str(plain)).metadata_props}
    onnx.helper.set_model_props(graph, metadata)
    onnx.save(graph, str(small))
    return small


def classified(classifier: ClassifierLike, faces: NDArray[np.uint8], seconds: float) -> Speed:
    """Return the faces per second alone and in batches of 32."""
    rates = []
    for n in (1, 32):
        batch = faces[:n]
        rates.append(n * repeats(lambda batch=batch: classifier(batch), seconds))
    return Speed(*rates)


def repeats(work: Callable[[], object], seconds: float) -> float:
    """Return the calls per second, after one call to warm up."""
    work()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - start)


def photos(
    console: Console, folder: Path, model: AffectModel, options: argparse.Namespace
) -> float:
    """Print whole photos per second; return the ratio to the simple loop."""
    files = write_photos(folder / "photos", options.photos)
    size = sum(file.stat().st_size for file in files) / len(files) / 1e3
    ours = Predictor(TorchClassifier(model, "cpu"))
    start = time.perf_counter()
    naive_faces = naive(model, files)
    naive_rate = len(files) / (time.perf_counter() - start)
    ours.predict(files[:4])
    start = time.perf_counter()
    found = ours.predict(files)
    rate = len(files) / (time.perf_counter() - start)
    count = sum(len(result.faces) for result in found)
    table = Table("whole photos", "photos/s", "ratio", "faces found", "target", "")
    table.add_row("simple loop", f"{naive_rate:.1f}", "", str(naive_faces), "", "")
    ratio = rate / naive_rate
    met = "met" if ratio >= TARGET else "MISSED"
    table.add_row(
        "affectnet.load(...).predict", f"{rate:.1f}", f"{ratio:.1f}", str(count), f"{TARGET:g}", met
    )
    for width, height in PHOTO_SIZES:
        some = [file for file in files if file.stem.endswith(f"{width}x{height}")]
        if not some:
            continue
        start = time.perf_counter()
        seen = naive(model, some)
        slow = len(some) / (time.perf_counter() - start)
        start = time.perf_counter()
        kept = ours.predict(some)
        fast = len(some) / (time.perf_counter() - start)
        kept_faces = sum(len(result.faces) for result in kept)
        counts = f"{kept_faces} (loop {seen})"
        table.add_row(
            f"  of {width}x{height}", f"{fast:.1f} (loop {slow:.1f})", f"{fast / slow:.1f}", counts
        )
    console.print(f"{len(files)} photos, {size:,.0f} kB per JPEG on average")
    console.print(table)
    return ratio


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write photos of several sizes: a textured background, a real portrait and drawn faces."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        width, height = PHOTO_SIZES[i % len(PHOTO_SIZES)]
        coarse = rng.integers(40, 216, (height // 40, width // 40, 3), np.uint8)
        ground = np.asarray(Image.fromarray(coarse).resize((width, height), 3)).copy()
        ground[:] = np.clip(ground + rng.normal(0, 4, (height, width, 1)), 0, 255)
        for place in range(1 + i % 6):
            side = int(rng.uniform(0.18, 0.3) * width)
            if place == 0 and PORTRAIT.is_file():
                face = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((side, side)))
            else:
                face, _ = render(int(rng.integers(8)), 0.3, 0.2, rng, size=min(side, 512))
                face = np.asarray(Image.fromarray(face).resize((side, side)))
            x, y = place % 3 * width // 3, place // 3 * height // 2
            side = min(side, height - y, width - x)
            ground[y : y + side, x : x + side] = face[:side, :side]
        path = folder / f"{i:04d}-{width}x{height}.jpg"
        Image.fromarray(ground).save(path, quality=88)
        files.append(path)
    return files


def naive(model: AffectModel, files: list[Path]) -> int:
    """Predict with the simple loop; return the number of faces."""
    count = 0
    for file in files:
        count += naive_image(model, cv2.imread(str(file)))
    return count


def naive_image(model: AffectModel, image: NDArray[np.uint8]) -> int:
    """Predict one BGR image: a new detector at full size, then face by face."""
    prep = model.preprocessing
    mean, std = torch.tensor(prep.mean).view(3, 1, 1), torch.tensor(prep.std).view(3, 1, 1)
    height, width = image.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(yunet_file()), "", (width, height), 0.7)
    _, rows = detector.detect(image)
    for x, y, w, h in [] if rows is None else rows[:, :4].astype(int):
        crop = image[max(0, y) : y + h, max(0, x) : x + w]
        if crop.size == 0:
            continue
        rgb = cv2.cvtColor(cv2.resize(crop, (prep.size, prep.size)), cv2.COLOR_BGR2RGB)
        face = (torch.from_numpy(rgb).permute(2, 0, 1).float() / 255 - mean) / std
        with torch.no_grad():
            output = model(face[None])
        output.logits.softmax(1).argmax().item(), output.valence.item(), output.arousal.item()
    return 0 if rows is None else len(rows)


def videos(
    console: Console, folder: Path, model: AffectModel, options: argparse.Namespace
) -> float:
    """Print frames per second; return the ratio of peak memory of a long and a short video."""
    frames = 60 if options.quick else 300
    film = write_video(folder / "film.avi", frames, 25, (640, 480))
    ours = Predictor(TorchClassifier(model, "cpu"))
    start = time.perf_counter()
    count = sum(1 for _ in ours.video(film))
    rate = count / (time.perf_counter() - start)
    capture, start, seen = cv2.VideoCapture(str(film)), time.perf_counter(), 0
    while True:
        whole, frame = capture.read()
        if not whole:
            break
        naive_image(model, frame)
        seen += 1
    naive_rate = seen / (time.perf_counter() - start)
    table = Table("video of 640x480", "frames/s", "ratio")
    table.add_row("simple loop", f"{naive_rate:.0f}", "")
    table.add_row("affectnet.load(...).video", f"{rate:.0f}", f"{rate / naive_rate:.1f}")
    console.print(table)

    model.save_pretrained(folder / "model")
    minutes = (1, 5) if options.quick else (1, 60)
    peaks = []
    for length in minutes:
        path = write_video(folder / f"{length}.avi", 60 * length * 2, 2, (320, 240))
        peaks.append(peak(folder / "model", path))
        path.unlink()
    ratio = peaks[1] / peaks[0]
    met = "met" if ratio <= MEMORY_TARGET else "MISSED"
    console.print(
        f"peak memory, 320x240 at 2 frames per second: {minutes[0]} minute {peaks[0]:,.0f} MB, "
        f"{minutes[1]} minutes {peaks[1]:,.0f} MB; ratio {ratio:.2f} (<= {MEMORY_TARGET}) {met}"
    )
    return ratio


def write_video(path: Path, frames: int, fps: float, size: tuple[int, int]) -> Path:
    """Write a video of a face that moves from side to side."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    portrait = (
        cv2.imread(str(PORTRAIT))
        if PORTRAIT.is_file()
        else render(1, 0.8, 0.4, np.random.default_rng(0))[0][..., ::-1]
    )
    portrait = cv2.resize(portrait, (size[0] // 2, int(size[1] * 0.9)))
    ground = np.full((size[1], size[0], 3), 120, np.uint8)
    for i in range(frames):
        frame = ground.copy()
        x = int((0.5 + 0.5 * np.sin(i / 15)) * (size[0] - portrait.shape[1]))
        frame[: portrait.shape[0], x : x + portrait.shape[1]] = portrait
        writer.write(frame)
    writer.release()
    return path


def peak(model: Path, video: Path) -> float:
    """Return the peak memory in MB of a process that predicts a video and writes all rows."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(model), str(video)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def print_peak(model: str, video: str) -> int:
    """Run `affectnet predict` on the video and print the peak memory; needs its own process."""
    from affectnet.commands.predict import predict
    from affectnet.config import PredictConfig

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.csv"
        predict(PredictConfig((video,), model=model, out=out))
    # Not ru_maxrss, which a process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    return 0


if __name__ == "__main__":
    assert affectnet.__version__
    sys.exit(main())
