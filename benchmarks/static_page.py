"""Frames per second of the page of `affectnet export --format web`, in headless Chromium.

    npm pack onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz
    python benchmarks/static_page.py --runtime package

A drawn film of 640 x 480 pixels is the camera. Each precision is measured with one thread and, as
on a host that sends the headers COOP and COEP, with several; ratios are to fp32 with one thread.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from browser import chromium, served
from PIL import Image

from affectnet.commands.export import export
from affectnet.config import ExportConfig
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image

STAGES = """async () => {
  const page = await import("./page.js");
  const recogniser = await page.ready;
  const { pixels } = page.pixelsOf(document.querySelector("#image"), 640, 480);
  const faces = await recogniser.find(pixels, 640);
  const mean = async (work) => {
    const began = performance.now();
    for (let i = 0; i < 20; i++) await work();
    return (performance.now() - began) / 20;
  };
  return { faces: faces.length, find: await mean(() => recogniser.find(pixels, 640)),
    classify: await mean(() => recogniser.classify(pixels, faces)) };
}"""


def film(path: Path) -> None:
    """Write the camera's film, as a sequence of JPEG files."""
    frame = np.full((480, 640, 3), 150, np.uint8)
    face = decode_image(list(draw_faces(1, seed=4, size=300))[1].image)
    with path.open("wb") as file:
        for shift in (*range(0, 60, 4), *range(60, 0, -4)):
            frame[:] = 150
            frame[90:390, 140 + shift : 440 + shift] = face
            part = io.BytesIO()
            Image.fromarray(frame).save(part, "JPEG", quality=90)
            file.write(part.getvalue())


def measure(site: Path, camera: Path, isolated: bool, seconds: float) -> tuple[float, dict]:
    """Return the frames per second, and the milliseconds of both steps."""
    headers = {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
    }
    with served(site, headers if isolated else None) as address, chromium(camera) as browser:
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(address)
        page.wait_for_selector("#camera:enabled")
        page.click("#camera")
        page.wait_for_selector("#boxes .box")
        rates, end = [], time.monotonic() + seconds
        while time.monotonic() < end or not rates:
            page.wait_for_timeout(1000)
            if text := page.locator("#rate").inner_text():
                rates.append(float(text.split()[0]))
        page.click("#camera")
        steps = page.evaluate(STAGES)
    return float(np.median(rates)), steps


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cvnet")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="dataset whose faces calibrate int8")
    parser.add_argument("--seconds", type=float, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        camera = Path(folder) / "camera.mjpeg"
        film(camera)
        first = None
        print("precision  isolated  frames/s  ratio  find (ms)  classify (ms)")
        for int8 in (False, True):
            site = Path(folder) / f"site_{int8}"
            export(
                ExportConfig(
                    model=given.model,
                    format="web",
                    int8=int8,
                    out=site,
                    data=given.data,
                    runtime=given.runtime,
                    faces=32,
                )
            )
            for isolated in (False, True):
                rate, steps = measure(site, camera, isolated, given.seconds)
                first = first or rate
                print(
                    f"{'int8' if int8 else 'fp32':9}  {isolated!s:8}  {rate:8.1f}  "
                    f"{rate / first:5.2f}  {steps['find']:9.1f}  {steps['classify']:13.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
