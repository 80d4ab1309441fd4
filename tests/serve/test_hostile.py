"""Hostile files: each is predicted or refused with a reason, in bounded memory, and none hangs."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from affectnet.inference.predictor import Predictor

ALLOWED_MB = 900
"""Peak memory of a process that reads them all, above what it takes before the first; the largest
image that is read has 64 million pixels (192 MB), which decoders hold several times over."""
SECONDS_A_FILE = 20
LINUX = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc"
)
WORK = """
import json, os, re, sys, time
import numpy as np
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.errors import AffectNetError
from affectnet.inference.predictor import Predictor, load
model, folder, out = sys.argv[1:4]
predictor = load(model)
predictor.predict(np.zeros((64, 64, 3), np.uint8))
def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before, output, slowest = peak(), {}, 0.0
for name in sorted(os.listdir(folder)):
    path, start = os.path.join(folder, name), time.monotonic()
    if name.startswith("video"):
        try:
            frames = [frame.reason for frame in predictor.video(path, seconds=2, workers=1)]
            output[name] = f"{len(frames)} frames; {frames[-1]}"
        except AffectNetError as error:
            output[name] = f"refused: {error}"
    else:
        for faces in ("detect", "none"):
            result = predictor.predict([path], faces=faces, workers=1, on_error="keep")[0]
            output[name] = result.status if result.reason is None else f"refused: {result.reason}"
    slowest = max(slowest, time.monotonic() - start)
json.dump({"output": output, "memory": peak() - before, "slowest": slowest}, open(out, "w"))
"""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: int, level: int = 1) -> bytes:
    """A grey PNG that promises width x height pixels and packs `rows` rows of zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(level)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def oddities(photo: np.ndarray, walk: Path) -> dict[str, bytes]:
    """Whole files of unusual kinds, and files that are not what they say."""
    image = Image.fromarray(photo)
    alpha = image.copy()
    alpha.putalpha(0)
    turned = Image.Exif()
    turned[0x0112] = 8
    grey16 = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    text = b"text in place of pixels" * 50
    huge_text = encoded(image.resize((20, 20)), "PNG")
    bomb = zlib.compress(bytes(80_000_000), 1)
    note = b"zTXt" + b"Comment\0\0" + bomb
    at = huge_text.index(b"IDAT") - 4
    texts = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    return {
        "empty.jpg": b"",
        "one-byte.png": b"\x89",
        "text.jpg": text,
        "film-in-name.jpg": walk.read_bytes(),
        "wrong-ending.png": encoded(image, "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "sixteen.png": encoded(grey16, "PNG"),
        "sixteen.tiff": encoded(grey16, "TIFF"),
        "float.tiff": encoded(Image.fromarray(photo[..., 0].astype(np.float32)), "TIFF"),
        "clear.png": encoded(alpha, "PNG"),
        "palette.gif": encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)] * 3),
        "moving.webp": encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "turned.jpg": encoded(image, "JPEG", exif=turned),
        "dot.png": encoded(image.resize((1, 1)), "PNG"),
        "dot.jpg": encoded(image.resize((1, 1)), "JPEG"),
        "line.png": encoded(image.resize((1, 20_000)), "PNG"),
        "strip.jpg": encoded(image.resize((20_000, 2)), "JPEG"),
        "bomb-400-million.png": png(20_000, 20_000, 400),
        "bomb-promised.png": png(2**31 - 1, 2**31 - 1, 1),
        "just-allowed.png": png(8_000, 8_000, 8_000),
        "short-data.png": png(2_000, 2_000, 3),
        "text-bomb.png": huge_text[:at] + texts + huge_text[at:],
        "video-empty.mp4": b"",
        "video-text.mp4": text,
        "video-image.mp4": encoded(image, "JPEG"),
        "video-playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "video-concat.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "video-half.avi": walk.read_bytes()[: walk.stat().st_size // 2],
        "video-hollow.mp4": b"\0\0\0\x20ftypisom" + bytes(500),
        "video-whole.avi": walk.read_bytes(),
    }


def mutants(seeds: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Bytes flipped, cut out, doubled, cut off, filled; headers more often than the rest."""
    rng = np.random.default_rng(seed)
    names = sorted(seeds)
    for i in range(count):
        name = names[i % len(names)]
        data = bytearray(seeds[name])
        for _ in range(rng.integers(1, 9)):
            reach = max(1, len(data) if rng.random() < 0.5 else min(len(data), 200))
            at, kind = int(rng.integers(0, reach)), rng.integers(0, 6)
            if kind == 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            elif kind == 1:
                data[at : at + 4] = rng.bytes(4)
            elif kind == 2:
                del data[at : at + int(rng.integers(1, 50))]
            elif kind == 3:
                data[at:at] = data[at : at + int(rng.integers(1, 300))]
            elif kind == 4:
                data[at : at + 4] = b"\xff\xff\xff\xff"
            elif rng.random() < 0.3:
                del data[at:]
        yield f"{Path(name).stem}-{i:05d}{Path(name).suffix}", bytes(data)


def seeds_of(photo: np.ndarray, folder: Path) -> dict[str, bytes]:
    """Small whole files of every format that is read."""
    small = Image.fromarray(photo).resize((64, 76))
    grey16 = Image.fromarray(np.asarray(small)[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        f"{kind.lower()}.{kind.lower()}": encoded(small, kind)
        for kind in ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
    }
    made |= {
        "progressive.jpg": encoded(small, "JPEG", progressive=True, exif=exif),
        "cmyk.jpg": encoded(small.convert("CMYK"), "JPEG"),
        "lzw.tiff": encoded(small, "TIFF", compression="tiff_lzw"),
        "sixteen.png": encoded(grey16, "PNG"),
        "moving.gif": encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
    }
    kinds = (("avi", "MJPG"), ("mp4", "mp4v"), ("mkv", "MJPG"), ("webm", "VP80"), ("mov", "mp4v"))
    for ending, codec in kinds:
        path = folder / f"video.{ending}"
        code = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10, (64, 76))
        assert writer.isOpened(), path
        for i in range(4):
            writer.write(np.roll(np.asarray(small)[..., ::-1], i, 1))
        writer.release()
        made[f"video-{ending}.{ending}"] = path.read_bytes()
    return made


def read_all(model: Path, folder: Path, out: Path, limit: float) -> dict:
    """Read every file of a folder in a process of its own; fails where that crashes or hangs."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(model), str(folder), str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    output: dict = json.loads(out.read_text())
    assert set(output["output"]) == {path.name for path in folder.iterdir()}
    assert output["memory"] < ALLOWED_MB
    assert output["slowest"] < SECONDS_A_FILE
    for name, answer in output["output"].items():
        assert answer not in ("", "refused: "), name
        assert "\n" not in answer, name
    return output


@LINUX
def test_every_oddity_is_read_or_refused_with_the_reason(
    photo: np.ndarray, walk: Path, onnx_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, data in oddities(photo, walk).items():
        (folder / name).write_bytes(data)
    output = read_all(onnx_file, folder, tmp_path / "out.json", 300)["output"]
    read = {name for name, answer in output.items() if not answer.startswith("refused")}
    assert read == {
        *("wrong-ending.png", "cmyk.jpg", "sixteen.png", "sixteen.tiff"),
        *("clear.png", "palette.gif", "moving.webp", "turned.jpg", "dot.png", "dot.jpg"),
        *(
            "line.png",
            "strip.jpg",
            "short-data.png",
            "just-allowed.png",
            "video-whole.avi",
            "video-half.avi",
        ),
    }
    for name, message in {
        "empty.jpg": "empty",
        "text.jpg": "not a JPEG",
        "film-in-name.jpg": "it is a video",
        "bomb-400-million.png": "at most 64,000,000",
        "bomb-promised.png": "at most 64,000,000",
        "video-image.mp4": "not a video",
        "video-playlist.mp4": "not a video",
        "float.tiff": "float",
        "video-half.avi": "the rest is missing",
    }.items():
        assert message in output[name], (name, output[name])


@LINUX
@pytest.mark.parametrize(
    ("count", "seed"), [(340, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)]
)
def test_mutated_files_are_read_or_refused(
    photo: np.ndarray, onnx_file: Path, tmp_path: Path, count: int, seed: int
) -> None:
    folder = tmp_path / "mutants"
    folder.mkdir()
    for name, data in mutants(seeds_of(photo, tmp_path), count, seed):
        (folder / name).write_bytes(data)
    found = read_all(onnx_file, folder, tmp_path / "out.json", 60 + count)
    answers = list(found["output"].values())
    assert 0 < sum(one.startswith("refused") for one in answers) < count
    print(f"{count} files, +{found['memory']:.0f} MB, slowest {found['slowest']:.1f} s")


def test_a_turned_photo_gives_the_upright_box(predictor: Predictor, photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(photo, 1)))
    result = predictor.predict(encoded(stored, "JPEG", exif=exif, quality=95))
    assert (result.width, result.height) == (280, 330)
    (upright,), (turned,) = predictor.predict(photo).faces, result.faces
    np.testing.assert_allclose(turned.box, upright.box, atol=3)
