"""Make every picture of the documentation from the current code.

    python scripts/make_docs_images.py                    # all but `web`, in some minutes
    python scripts/make_docs_images.py --only faces,film
    python scripts/make_docs_images.py --only report --demo demo
    python scripts/make_docs_images.py --only web --runtime package

The faces are drawn, or the astronaut of `src/affectnet/photos`, which is in the public domain.
`report`, `serve`, `live` and `web` are taken by Chromium, which has to be installed; `web` needs
the npm package onnxruntime-web (docs/web.md). `notebook` stores the notebook's own outputs,
reduced.
"""

import argparse
import base64
import io
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from browser import chromium, served

import affectnet
from affectnet.data.drawn.release import render
from affectnet.inference.drawing import annotate
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PHOTO = ROOT / "src" / "affectnet" / "photos" / "astronaut.jpg"
DRAWN = {"sadness": 2, "surprise": 1, "fear": 8}
"""The drawn faces of the wide picture, with a seed for which the model sees what was drawn."""
ACTOR, ACTS = 2, ("happiness", "surprise", "sadness", "fear")
"""The person of the film, by its seed, and what it shows."""
SIZE = (640, 340)
"""Of the film, in pixels."""
MOST_BYTES = 2_000_000


def badges(out: Path) -> None:
    """What pyproject.toml states, as the badges of the README."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = {
        "Python": project["requires-python"].removeprefix(">=") + " or later",
        "licence": project["license"],
        "types": "mypy strict",
    }
    drawn, x = [], 0
    for name, value in facts.items():
        for text, fill in ((name, "#4b5563"), (value, "#1f5f99")):
            width = round(6.6 * len(text)) + 14
            drawn.append(
                f'<rect x="{x}" width="{width}" height="20" fill="{fill}"/>'
                f'<text x="{x + width / 2:g}" y="14" textLength="{width - 14}">{text}</text>'
            )
            x += width
        x += 6
    (out / "badges.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x - 6}" height="20" fill="#fff" '
        'font-family="DejaVu Sans,Verdana,sans-serif" font-size="11" text-anchor="middle">\n'
        + "\n".join(drawn)
        + "\n</svg>\n",
        encoding="utf-8",
    )


def face(expression: str, seed: int, size: int = 330) -> Image.Image:
    """Draw a face with the valence and arousal that are typical of its expression."""
    valence, arousal = CIRCUMPLEX[expression]
    rng = np.random.default_rng(seed)
    pixels, _ = render(EXPRESSIONS.index(expression), valence, arousal, rng, size, variety=0.5)
    return Image.fromarray(pixels)


def group(width: int = 1600) -> NDArray[np.uint8]:
    """The astronaut's photo beside drawn faces, uint8 RGB (height, width, 3)."""
    photo = Image.open(PHOTO).convert("RGB").crop((70, 0, 370, 300)).resize((512, 512), 1)
    height = photo.height
    coarse = np.random.default_rng(7).integers(150, 215, (4, 9, 1), np.uint8)
    ground = cv2.resize(np.repeat(coarse, 3, 2), (1600, height), interpolation=cv2.INTER_CUBIC)
    canvas = Image.fromarray(ground)
    canvas.paste(photo, (0, 0))
    for i, (expression, seed) in enumerate(DRAWN.items()):
        canvas.paste(face(expression, seed), (photo.width + 24 + 356 * i, height - 360))
    return np.asarray(canvas.resize((width, height * width // 1600), Image.Resampling.LANCZOS))


def faces(out: Path, width: int) -> None:
    """Photo and drawn faces, annotated by the included model: the first picture of the README."""
    pixels = group(width)
    result = affectnet.load("cvnet").predict(pixels)
    Image.fromarray(annotate(pixels, result)).save(out / "faces.jpg", quality=90)


def moving_faces(frames: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """The astronaut beside a drawn person whose expression changes, at 25 frames per second."""
    photo = Image.open(PHOTO).convert("RGB").crop((70, 0, 370, 300)).resize((300, 300), 1)
    for i in range(frames):
        canvas = Image.new("RGB", size, (196, 203, 210))
        sway = round(6 * np.sin(i / 12))
        canvas.paste(photo, (20 + sway, 20))
        canvas.paste(face(ACTS[i * len(ACTS) // frames], ACTOR, 270), (345, 35 - sway))
        yield np.asarray(canvas)


def film(out: Path, frames: int, width: int) -> None:
    """An annotated film with its curves, as an animation of at most 2 MB."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "film.mp4"
        with av.open(source, "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.bit_rate = *SIZE, 4_000_000
            for pixels in moving_faces(frames, SIZE):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        marked = Path(folder) / "marked"
        command = [sys.executable, "-m", "affectnet", "predict", str(source)]
        command += ["--annotate", str(marked), "--out", str(Path(folder) / "film.csv")]
        subprocess.run(command, check=True)
        (annotated,) = (*marked.glob("*.mp4"), *marked.glob("*.webm"))
        with av.open(annotated) as container:
            images = [frame.to_image() for frame in container.decode(video=0)][::3]
    height = images[0].height * width // images[0].width
    images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    for quality in (60, 45, 30, 15):
        images[0].save(
            out / "film.webp",
            save_all=True,
            append_images=images[1:],
            duration=120,
            loop=0,
            quality=quality,
            method=2,
        )
        if (out / "film.webp").stat().st_size <= MOST_BYTES:
            return
    raise SystemExit(f"film.webp is larger than {MOST_BYTES} bytes; make fewer frames")


@contextmanager
def page(width: int, height: int, camera: Path | None = None) -> Iterator[Any]:
    """A page of Chromium; `camera` is a file of JPEG frames that its camera shows."""
    with chromium(camera) as browser:
        yield browser.new_page(viewport={"width": width, "height": height})


def camera_film(path: Path) -> Path:
    """Write what the camera shows: 16 seconds of the moving faces."""
    with path.open("wb") as file:
        for pixels in moving_faces(400, SIZE):
            Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return path


def report(out: Path, demo: Path | None) -> None:
    """The first screen of the demo's report."""
    with tempfile.TemporaryDirectory() as folder:
        if demo is None:
            demo = Path(folder) / "demo"
            command = [sys.executable, "-m", "affectnet", "demo", "--out", str(demo)]
            subprocess.run(command, check=True)
        with page(960, 1200) as tab:
            tab.goto((demo / "report.html").resolve().as_uri())
            tab.wait_for_timeout(1500)
            tab.screenshot(path=out / "report.png")


@contextmanager
def server() -> Iterator[str]:
    """The address of a running `affectnet serve`."""
    command = [sys.executable, "-u", "-m", "affectnet", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = next(word for word in process.stdout.readline().split() if "http://" in word)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield address
        finally:
            process.terminate()


def serve(out: Path) -> None:
    """The page of `affectnet serve` with the picture of the README."""
    with tempfile.TemporaryDirectory() as folder, server() as address, page(1240, 820) as tab:
        picture = Path(folder) / "faces.png"
        Image.fromarray(group(1200)).save(picture)
        tab.goto(address)
        tab.set_input_files("input[type=file] >> nth=0", picture)
        tab.wait_for_selector("text=valence", timeout=60_000)
        tab.wait_for_timeout(3000)
        tab.screenshot(path=out / "serve.png")


def live(out: Path) -> None:
    """The live tab after twenty seconds of the moving faces."""
    with tempfile.TemporaryDirectory() as folder, server() as address:
        camera = camera_film(Path(folder) / "camera.mjpeg")
        with page(940, 1040, camera) as tab:
            tab.goto(address)
            tab.get_by_role("tab", name="Live").click()
            tab.click("[data-do=camera]")
            tab.wait_for_selector(".an-result[data-faces='2']", timeout=60_000)
            tab.wait_for_timeout(20_000)
            for expression in ACTS[:2]:  # the second one begins
                tab.wait_for_selector(f".an-legend >> text=1 {expression}", timeout=60_000)
            tab.screenshot(path=out / "live.png")


def web(out: Path, runtime: Path | None) -> None:
    """The page without a server after twenty seconds of the moving faces."""
    if runtime is None:
        raise SystemExit("web: --runtime must name the folder of the npm package onnxruntime-web")
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        command = [sys.executable, "-m", "affectnet", "export", "cvnet", "--format", "web"]
        command += ["--int8", "--out", str(site), "--runtime", str(runtime)]
        subprocess.run(command, check=True)
        camera = camera_film(Path(folder) / "camera.mjpeg")
        with served(site) as address, page(1080, 880, camera) as tab:
            tab.goto(address)
            tab.wait_for_selector("#camera:enabled", timeout=60_000)
            tab.click("#camera")
            tab.wait_for_selector("#boxes .box", timeout=60_000)
            tab.wait_for_timeout(20_000)
            for expression in ACTS[:2]:
                tab.wait_for_selector(f"#about-face >> text={expression}", timeout=60_000)
            tab.screenshot(path=out / "web.png")


def notebook(out: Path) -> None:
    """Run the notebook and store it with small outputs, so that it shows them where it is read."""
    import nbclient
    import nbformat

    file = ROOT / "notebooks" / "affectnet.ipynb"
    stored = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        nbclient.NotebookClient(
            stored, timeout=900, kernel_name="python3", resources=place
        ).execute()
        for cell in stored.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [kept for kept in map(_small, cell.outputs) if kept]
                for kept in cell.outputs:
                    if kept.output_type == "stream":
                        kept.text = kept.text.replace(folder, "")
    nbformat.write(stored, file if out == IMAGES else out / file.name)


def _small(output: Any) -> Any:
    """An output with a picture of at most 560 px and 32 colours, or a text of at most 30 lines."""
    if output.output_type == "stream":
        lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|.*\r", "", output.text).splitlines()
        output.text = "\n".join(lines[-30:]) + "\n"
        return output if output.name == "stdout" and any(lines) else None
    if "image/png" in output.get("data", {}):
        image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        image.thumbnail((560, 1200), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.quantize(32, method=Image.Quantize.MEDIANCUT).save(file, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(file.getvalue()).decode()
    return output


def main(arguments: list[str] | None = None) -> None:
    """Make the pictures that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--only", default="badges,faces,film,report,serve,live,notebook")
    parser.add_argument("--demo", type=Path, help="folder of a finished demo, for the report")
    parser.add_argument("--runtime", type=Path, help="folder of onnxruntime-web, for `web`")
    parser.add_argument("--small", action="store_true", help="few frames, for a test")
    options = parser.parse_args(arguments)
    small = options.small
    makers: dict[str, Callable[[], None]] = {
        "badges": lambda: badges(options.out),
        "faces": lambda: faces(options.out, 800 if small else 1600),
        "film": lambda: film(options.out, *((12, 320) if small else (150, 560))),
        "report": lambda: report(options.out, options.demo),
        "serve": lambda: serve(options.out),
        "live": lambda: live(options.out),
        "web": lambda: web(options.out, options.runtime),
        "notebook": lambda: notebook(options.out),
    }
    unknown = set(options.only.split(",")) - makers.keys()
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(makers)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        makers[name]()
        print(f"made {name}", flush=True)


if __name__ == "__main__":
    main()
