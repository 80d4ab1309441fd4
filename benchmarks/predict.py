"""Prediction on a CPU: faces, photos and video frames per second, compared with a simple loop.

    python benchmarks/predict.py [--seconds 5] [--photos 48] [--parts faces,photos,video,memory]
                                 [--rounds 3] [--quick] [--check]

1. Faces: PyTorch, ONNX Runtime and ONNX Runtime in 8 bits, at batch 1 and 32, for CVNet,
   EfficientNet-B0 and ConvNeXt-T at 112 px. The weights are random, because the speed does not
   depend on them; `affectnet export --int8` reports how far 8 bits are from PyTorch.
2. Whole photos: JPEG files of 1280x960 to 4000x3000 with one to six faces each (a real portrait if
   `tests/files` has it, and drawn faces): read from disk, detected and classified.
3. Video: frames per second at 640x480, and how far the faces that are followed are from those of a
   search of every frame, on drawn films (`films.py`).
4. Memory: the peak of predicting an hour of video and a minute.

Photos and videos are compared with two others. The simple loop processes one image after the other:
`cv2.imread`, a new YuNet detector at the full size of the image, and each face cropped, resized,
normalised and passed to PyTorch alone; it uses both cores as well. "before" is the pipeline as it
was until November 2026: YuNet in OpenCV, on every frame, and the model in PyTorch. All run in turn,
`--rounds` times; the table shows medians, and the processor time, which depends less on what else
the machine does. The model is the included CVNet. The loop detects slightly different faces, since
it searches at full size; all counts are printed.

With --check the exit status is 1 if photos of 1280x960 or the video are less than twice as fast as
before, if photos of all sizes are less than 3 times as fast as the loop, or if the hour needs over
10% more memory than the minute.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import cv2
import numpy as np
import torch
from films import PORTRAIT, draw_film
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

import affectnet
from affectnet.data.crop import Box
from affectnet.data.drawn.release import draw_faces, render
from affectnet.data.images import decode_image
from affectnet.inference.classifiers import ClassifierLike, OnnxClassifier
from affectnet.inference.detector import Candidate, FaceDetector, yunet_file
from affectnet.inference.onnx_export import Exported, export_onnx, quantise, quiet, write_graph
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import resolve_model

TARGET, BEFORE_TARGET, MEMORY_TARGET = 3.0, 2.0, 1.1
SIZE = 112
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
    parser.add_argument("--parts", default="faces,photos,video,memory", help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is run (default 3)")
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
    met = [True]
    with tempfile.TemporaryDirectory() as name:
        folder, parts = Path(name), options.parts.split(",")
        if "faces" in parts:
            faces = np.stack([decode_image(f.image, SIZE) for f in draw_faces(8, size=SIZE)])
            speeds(console, folder, faces, options)
        if "photos" in parts:
            met += photos(console, folder, options)
        if "video" in parts:
            met += video(console, folder, options)
            accuracy(console, 2 if options.quick else 8)
        if "memory" in parts:
            met.append(memory(console, folder, options) <= MEMORY_TARGET)
    return int(options.check and not all(met))


class Before(FaceDetector):
    """The detector as it was: YuNet in OpenCV, one network for each thread."""

    networks = threading.local()

    def _search(self, image: NDArray[np.uint8], scale: float) -> list[Candidate]:
        height, width = image.shape[:2]
        small = (max(8, round(width * scale)), max(8, round(height * scale)))
        if small != (width, height):
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, small, interpolation=way)
        if not hasattr(self.networks, "yunet"):
            self.networks.yunet = cv2.FaceDetectorYN.create(str(yunet_file()), "", (320, 320), 0.7)
        self.networks.yunet.setInputSize(small)
        _, rows = self.networks.yunet.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = np.empty((0, 15)) if rows is None else rows.astype(np.float64)
        rows[:, 0:14:2] *= width / small[0]
        rows[:, 1:14:2] *= height / small[1]
        return [
            Candidate(
                Box(*map(float, row[:4])), tuple(map(tuple, row[4:14].reshape(5, 2))), row[14]
            )
            for row in rows
        ]


def pipelines() -> tuple[AffectModel, Predictor, Predictor]:
    """Return the included model in PyTorch, the pipeline before, and the one that `load` makes."""
    model = AffectModel.from_pretrained(resolve_model("cvnet"))
    before = Predictor(TorchClassifier(model, "cpu"))
    before._detector = Before()
    return model, before, affectnet.load()


@dataclass(frozen=True)
class Rate:
    """Items per second, processor milliseconds per item, and the number of faces found."""

    speed: float
    cost: float
    faces: float


def in_turn(ways: dict[str, Callable[[], int]], items: int, rounds: int) -> dict[str, Rate]:
    """Run the ways in turn; return the median rates."""
    seen: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            start, spent = time.perf_counter(), time.process_time()
            faces = work()
            wall, spent = time.perf_counter() - start, time.process_time() - spent
            seen[name].append((items / wall, 1000 * spent / items, faces))
    return {name: Rate(*np.median(np.array(rows), axis=0)) for name, rows in seen.items()}


def print_rates(console: Console, what: str, rates: dict[str, Rate]) -> tuple[float, float]:
    """Print the rates; return the ratios of the last to the loop and to before."""
    table = Table(what, "per second", "processor ms", "faces", "ratio to the loop", "to before")
    loop, before, last = rates["loop"], rates["before"], list(rates.values())[-1]
    for name, rate in rates.items():
        ratios = [f"{rate.speed / other.speed:.1f}" for other in (loop, before)]
        table.add_row(name, f"{rate.speed:.1f}", f"{rate.cost:.0f}", f"{rate.faces:.0f}", *ratios)
    console.print(table)
    return last.speed / loop.speed, last.speed / before.speed


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


def photos(console: Console, folder: Path, options: argparse.Namespace) -> list[bool]:
    """Print whole photos per second; return whether the targets are met."""
    files = write_photos(folder / "photos", options.photos)
    size = sum(file.stat().st_size for file in files) / len(files) / 1e3
    console.print(f"{len(files)} photos, {size:,.0f} kB per JPEG on average")
    model, before, now = pipelines()
    met = []
    for shape in ((), *PHOTO_SIZES):
        some = [file for file in files if not shape or file.stem.endswith("{}x{}".format(*shape))]
        if not some or (options.quick and shape != PHOTO_SIZES[0]):
            continue
        for predictor in (before, now):
            predictor.predict(some[:2])
        rates = in_turn(
            {
                "loop": lambda some=some: naive(model, some),
                "before": lambda some=some: count_faces(before.predict(some)),
                "affectnet.load().predict": lambda some=some: count_faces(now.predict(some)),
            },
            len(some),
            options.rounds,
        )
        name = "photos of {}x{}".format(*shape) if shape else "photos of all sizes"
        to_loop, to_before = print_rates(console, name, rates)
        met += [to_loop >= TARGET] if not shape else []
        met += [to_before >= BEFORE_TARGET] if shape == PHOTO_SIZES[0] else []
    return met


def count_faces(results: Iterable[PictureResult]) -> int:
    """Return the number of faces in all results."""
    return sum(len(result.faces) for result in results)


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


def video(console: Console, folder: Path, options: argparse.Namespace) -> list[bool]:
    """Print frames per second; return whether the target is met."""
    frames = 60 if options.quick else 300
    film = write_video(folder / "film.avi", frames, 25, (640, 480))
    model, before, now = pipelines()

    def loop() -> int:
        capture, seen = cv2.VideoCapture(str(film)), 0
        while True:
            whole, frame = capture.read()
            if not whole:
                return seen
            seen += naive_image(model, frame)

    def as_before() -> int:
        with patch("affectnet.inference.video.FaceDetector", Before):
            return count_faces(before.video(film, search="every"))

    as_before()
    count_faces(now.video(film))
    ways = {
        "loop": loop,
        "before": as_before,
        "search every": lambda: count_faces(now.video(film, search="every")),
        "affectnet.load().video": lambda: count_faces(now.video(film)),
    }
    _, to_before = print_rates(console, "video", in_turn(ways, frames, options.rounds))
    return [to_before >= BEFORE_TARGET]


def accuracy(console: Console, films: int) -> None:
    """Print how far followed faces are from those of a search of every frame."""
    predictor = affectnet.load()
    faces = missed = extra = agree = 0
    overlaps, differences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(films):
            path = Path(folder) / "film.mkv"
            write_frames(path, draw_film(150, seed=seed), 25)
            every, followed = (
                list(predictor.video(path, search=how, smoothing="none"))
                for how in ("every", "follow")
            )
            for one, other in zip(every, followed, strict=True):
                faces, left = faces + len(one.faces), list(other.faces)
                for face in one.faces:
                    best = max(left, key=lambda f, face=face: iou(face.box, f.box), default=None)
                    if best is None or iou(face.box, best.box) < 0.5:
                        missed += 1
                        continue
                    left.remove(best)
                    overlaps.append(iou(face.box, best.box))
                    agree += face.expression == best.expression
                    differences.append(
                        (abs(face.valence - best.valence), abs(face.arousal - best.arousal))
                    )
                extra += len(left)
    valence, arousal = np.mean(differences, axis=0)
    console.print(
        f"{films} drawn films of 6 s, {faces} faces: {missed} missed and {extra} more than with "
        f"search every; boxes overlap by {np.mean(overlaps):.3f} (5% below "
        f"{np.quantile(overlaps, 0.05):.3f}); same expression {agree / len(overlaps):.1%}; mean "
        f"difference of valence {valence:.3f}, of arousal {arousal:.3f}"
    )


def iou(a: Box, b: Box) -> float:
    """Return intersection over union."""
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (a.width * a.height + b.width * b.height - shared)


def memory(console: Console, folder: Path, options: argparse.Namespace) -> float:
    """Print the peak memory of a long and of a short video; return the ratio."""
    minutes = (1, 5) if options.quick else (1, 60)
    peaks = []
    for length in minutes:
        path = write_video(folder / f"{length}.avi", 60 * length * 2, 2, (320, 240))
        peaks.append(peak("cvnet", path))
        path.unlink()
    ratio = peaks[1] / peaks[0]
    met = "met" if ratio <= MEMORY_TARGET else "MISSED"
    console.print(
        f"peak memory, 320x240 at 2 frames per second: {minutes[0]} minute {peaks[0]:,.0f} MB, "
        f"{minutes[1]} minutes {peaks[1]:,.0f} MB; ratio {ratio:.2f} (<= {MEMORY_TARGET}) {met}"
    )
    return ratio


def write_video(path: Path, frames: int, fps: float, size: tuple[int, int]) -> Path:
    """Write a video of a face that moves from side to side, in MJPEG."""
    portrait = (
        np.asarray(Image.open(PORTRAIT).convert("RGB"))
        if PORTRAIT.is_file()
        else render(1, 0.8, 0.4, np.random.default_rng(0))[0]
    )
    portrait = cv2.resize(portrait, (size[0] // 2, int(size[1] * 0.9)))

    def film() -> Iterator[NDArray[np.uint8]]:
        for i in range(frames):
            frame = np.full((size[1], size[0], 3), 120, np.uint8)
            x = int((0.5 + 0.5 * np.sin(i / 15)) * (size[0] - portrait.shape[1]))
            frame[: portrait.shape[0], x : x + portrait.shape[1]] = portrait
            yield frame

    write_frames(path, film(), fps, size)
    return path


def write_frames(
    path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, size: tuple[int, int] = (640, 480)
) -> None:
    """Write RGB frames as MJPEG."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=Fraction(fps), width=size[0], height=size[1])
        stream.pix_fmt = "yuvj420p"
        for image in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))


def peak(model: str, video: Path) -> float:
    """Return the peak memory in MB of a process that predicts a video and writes all rows."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", model, str(video)],
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
