"""The page that works without a server: its files, and in Chromium its crops, boxes and numbers.

Tests of the whole page need the folder of the npm package onnxruntime-web in `ONNXRUNTIME_WEB`.
Screenshots are written to the folder that AFFECTNET_SCREENSHOTS names.
"""

import base64
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, chromium, served
from PIL import Image

import affectnet
from affectnet.commands.export import export
from affectnet.config import ExportConfig
from affectnet.data.crop import ALIGNMENT, crop_face
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import INTERPOLATIONS, decode_image
from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.inference import static_page
from affectnet.inference.detector import FaceDetector, yunet_file
from affectnet.inference.static_page import RUNTIME_VERSION, runtime_files, write_page

NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PATIENCE = 120_000
FIND = """async ([data, classify]) => {
  const page = await import("./page.js");
  const recogniser = await page.ready;
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const { pixels } = page.pixelsOf(bitmap, bitmap.width, bitmap.height);
  return classify ? recogniser.recognise(pixels) : recogniser.find(pixels);
}"""
CROP = """async ([data, face, model]) => {
  const { cropFace } = await import("./faces.js");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const ink = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  ink.drawImage(bitmap, 0, 0);
  const pixels = ink.getImageData(0, 0, bitmap.width, bitmap.height);
  return Array.from(cropFace(pixels, face, model).data);
}"""


@pytest.fixture(scope="module")
def model_file(model_dir, tmp_path_factory) -> Path:
    """The model of the page that `affectnet export` writes of the small model."""
    out = tmp_path_factory.mktemp("web") / "site"
    export(ExportConfig(model=str(model_dir), format="web", out=out, faces=8))
    return out / "model.onnx"


@pytest.fixture
def runtime(tmp_path) -> Path:
    """A folder with files of the names of the runtime's."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    return tmp_path


def page_in(folder: Path, model_file: Path, runtime=None) -> Path:
    folder.mkdir()
    shutil.copyfile(model_file, folder / "model.onnx")
    write_page(folder, "small", "fp32", runtime)
    return folder


def test_the_runtime_is_found_in_the_package(runtime):
    for place in (runtime, runtime / "package", runtime / "package" / "dist"):
        assert [runtime_files(place)[name].name for name in NAMES] == list(NAMES)
    (runtime / "package" / "dist" / NAMES[0]).unlink()
    with pytest.raises(ConfigError, match=f"npm pack onnxruntime-web@{RUNTIME_VERSION}"):
        runtime_files(runtime)


def test_the_files_of_the_page(runtime, model_file, tmp_path):
    site = page_in(tmp_path / "own", model_file, runtime_files(runtime))
    content = json.loads((site / "model.json").read_text())
    for kind, name in zip(("script", "wasm"), NAMES, strict=True):
        given = content["runtime"][kind]
        data = (site / given["url"]).read_bytes()
        assert data == f"content of {name}".encode()
        digest = base64.b64encode(hashlib.sha384(data).digest()).decode()
        assert given["integrity"] == f"sha384-{digest}"
    assert "connect-src 'self';" in (site / "index.html").read_text()
    assert "Shenzhen Institute" in (site / "LICENCES.txt").read_text()
    assert (content["size"], content["margin"]) == (48, 0.1)

    site = page_in(tmp_path / "hosted", model_file)
    content = json.loads((site / "model.json").read_text())
    address = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"
    assert content["runtime"]["wasm"]["url"] == address + NAMES[1]
    assert "connect-src 'self' https://cdn.jsdelivr.net;" in (site / "index.html").read_text()
    assert not (site / "runtime").exists()


def test_the_command_writes_the_page(model_file, model_dir, runtime, tmp_path):
    site = model_file.parent
    assert json.loads((site / "model.json").read_text())["precision"] == "fp32"
    assert {file.name for file in site.iterdir()} >= {"index.html", "page.js", "yunet.onnx"}
    model = str(model_dir)
    for config, message in (
        (ExportConfig(model=model, format="web"), "give --out DIR"),
        (ExportConfig(model=model, format="web", out=tmp_path / "new", fp16=True), "use --int8"),
        (ExportConfig(model=model, out=tmp_path / "a.onnx", runtime=runtime), "--format web"),
        (
            ExportConfig(model=model, format="web", out=tmp_path / "b", runtime=tmp_path / "c"),
            "npm",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            export(config)
    with pytest.raises(RunError, match="--overwrite"):
        export(ExportConfig(model=model, format="web", out=site))


def test_a_model_that_visitors_would_wait_for_is_refused(model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(static_page, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(WeightsError, match="--int8"):
        page_in(tmp_path / "large", model_file)


def test_the_page_is_small_and_plain():
    files = [*(Path(static_page.__file__).parent / "web").iterdir()]
    code = [file for file in files if file.suffix in (".js", ".css")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in code) < 900
    assert all(
        "http" not in file.read_text(encoding="utf-8") for file in code if file.suffix == ".css"
    )


@pytest.fixture(scope="module")
def browser(photo, tmp_path_factory):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` installs it")
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    moments = (np.roll(photo, shift, axis=1) for shift in range(-20, 21, 2))
    camera.write_bytes(b"".join(map(jpeg, moments)))
    with chromium(camera) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(model_file, tmp_path_factory):
    """The address of the page, with the runtime where there is one."""
    given = os.environ.get("ONNXRUNTIME_WEB")
    files = runtime_files(Path(given)) if given else None
    site = page_in(tmp_path_factory.mktemp("site") / "site", model_file, files)

    with served(site) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Opens the page, ready to use; fails afterwards on errors and requests to other hosts."""
    if not os.environ.get("ONNXRUNTIME_WEB"):
        pytest.skip("ONNXRUNTIME_WEB does not name a folder of the npm package onnxruntime-web")
    pages, problems = [], []

    def opened(width=1200, height=900, colours="light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#camera:enabled")
        pages.append(page)
        return page

    asked: list[str] = []
    yield opened
    for page in pages:
        page.close()
    assert not problems
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def enlarged(image, factor):
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)


def shot(page, name):
    if folder := os.environ.get("AFFECTNET_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/web_{name}.png", full_page=True)


EYES = ((108.0, 112.0), (152.0, 107.0), (130.0, 135.0), (112.0, 155.0), (150.0, 152.0))


def test_crops_are_those_of_prediction(browser, address, photo):
    page = browser.new_page()
    page.goto(address + "LICENCES.txt")  # the page itself needs the runtime
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    big = enlarged(photo, 5.3)
    cases = [(photo, (88.3, 63.1, 91.4, 113.2), {"interpolation": name}) for name in INTERPOLATIONS]
    cases += [
        (photo, (-30.5, 200.25, 150, 160), {"margin": 0.3}),  # beyond the border
        (noise, (10.2, 20.7, 31.9, 40.1), {"margin": 0.0, "interpolation": "lanczos"}),
        (big, (470, 340, 480, 600), {}),  # averaged first
        (big, (470, 340, 480, 600), {"face_size": 112, "interpolation": "bicubic"}),
        (photo, (88, 63, 91, 113), {"alignment": ALIGNMENT}),
        (enlarged(photo, 0.3), (26, 19, 27, 34), {"alignment": ALIGNMENT, "scale": 0.3}),
        (photo, (88, 63, 91, 113), {"alignment": ALIGNMENT, "face_size": 64, "margin": 0.0}),
    ]
    for image, box, given in cases:
        settings = {"margin": 0.1, "alignment": None, "interpolation": "bilinear"}
        settings |= {"face_size": None} | given
        points = [[x * settings.get("scale", 1) for x in point] for point in EYES]
        settings.pop("scale", None)
        expected = crop_face(image, box, 48, landmarks=points, **settings).astype(int)
        face = {"box": box, "landmarks": points}
        pixels = page.evaluate(CROP, [png(image), face, settings | {"size": 48}])
        crop = np.array(pixels).reshape(48, 48, 4)[:, :, :3]
        difference = np.abs(crop - expected)
        # OpenCV aligns by 32nds of a pixel; all else is equal but for rounding.
        most, mean = (3, 0.2) if settings["alignment"] else (1, 0.005)
        assert difference.max() <= most, given
        assert difference.mean() <= mean, given
    page.close()


@pytest.fixture
def pictures(photo):
    """The portrait small and large, two faces, a face at the border, and no face."""
    pair = np.concatenate([photo, np.roll(photo, 12, axis=0)], axis=1)
    return [
        photo,
        enlarged(photo, 0.3),
        enlarged(photo, 1.7),
        enlarged(photo, 3.3),  # searched at less than its size
        enlarged(photo, 8),  # at less than half of it
        pair,
        photo[70:, 60:],
        np.full((200, 300, 3), 128, np.uint8),
    ]


def test_numbers_are_those_of_predict(open_page, model_file, pictures):
    page, predictor = open_page(), affectnet.load(model_file, device="cpu")
    found = 0
    for image, result in zip(pictures, predictor.predict(pictures), strict=True):
        faces = page.evaluate(FIND, [png(image), True])
        assert len(faces) == len(result.faces)
        for face, expected in zip(faces, result.faces, strict=True):
            assert face["box"] == pytest.approx(expected.box, abs=0.5)
            assert face["score"] == pytest.approx(expected.score, abs=0.01)
            assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-3)
            assert face["valence"] == pytest.approx(expected.valence, abs=1e-3)
            assert face["arousal"] == pytest.approx(expected.arousal, abs=1e-3)
            found += 1
    assert found >= 7


@pytest.mark.slow
def test_boxes_are_those_of_opencv(open_page):
    """Fifty pictures with one to three faces each, boxes and landmarks within a pixel."""
    page, rng, faces = open_page(), np.random.default_rng(3), 0
    drawn = [decode_image(face.image) for face in draw_faces(13, seed=5, size=224)]
    for number in range(50):
        height, width = rng.integers(260, 700, 2)
        image = rng.integers(90, 160, (height, width, 3), np.uint8)
        for _ in range(rng.integers(1, 4)):
            side = int(rng.integers(60, 240))
            y, x = (int(rng.integers(0, length - side)) for length in (height, width))
            face = drawn[int(rng.integers(len(drawn)))]
            image[y : y + side, x : x + side] = cv2.resize(face, (side, side))
        detector = cv2.FaceDetectorYN.create(str(yunet_file()), "", (int(width), int(height)), 0.7)
        expected = detector.detect(image[:, :, ::-1].copy())[1]
        expected = np.empty((0, 15)) if expected is None else expected
        found = page.evaluate(FIND, [png(image), False])
        assert len(found) == len(expected), number
        own = [[*f["box"], *np.ravel(f["landmarks"]), f["score"]] for f in found]
        order = np.argsort(-expected[:, 2] * expected[:, 3], kind="stable")
        assert np.abs(np.array(own).reshape(-1, 15) - expected[order])[:, :14].max(initial=0) < 1
        assert len(FaceDetector().detect(image)) == len(found)
        faces += len(found)
    assert faces > 60


def test_the_camera_is_classified_until_it_is_stopped(open_page):
    page = open_page(colours="dark")
    page.click("#camera")
    page.wait_for_selector("#rate:has-text('frames per second')")
    page.wait_for_selector("#boxes .box")
    assert page.locator("#curve .trace").count() == 2
    assert page.locator("#plane .trail").count() == 1
    assert page.locator("#bars li").count() == 8
    assert "%" in page.locator("#bars output").first.inner_text()
    shot(page, "camera_dark")
    page.click("#camera")
    assert page.locator("#rate").inner_text() == ""
    assert page.locator("#camera").inner_text() == "Start camera"


def test_a_photo_on_a_telephone(open_page, photo, photo_file, tmp_path):
    page = open_page(width=390, height=844)
    Image.fromarray(np.concatenate([photo, photo], axis=1)).save(tmp_path / "pair.png")
    page.set_input_files("#file", tmp_path / "pair.png")
    page.wait_for_selector("#boxes .box >> nth=1")
    assert page.locator("#status").inner_text().startswith("2 faces found")
    page.locator("#boxes .box").nth(1).press("Enter")
    assert page.locator("#about-face").inner_text().startswith("Face 2: ")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "photo_390")
    page.set_input_files("#file", photo_file)
    page.wait_for_selector("#status:has-text('One face')")
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#status.error")
    # Nothing can be sent anywhere: the page may not connect to other hosts.
    sent = page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')")
    assert sent == "refused"


def test_a_changed_runtime_is_refused(browser, address):
    """Without the runtime, or with other bytes in it, the page says so and does not start."""
    page = browser.new_page()
    page.route("**/*.mjs", lambda route: route.fulfill(body="export default 1", status=200))
    page.goto(address)
    page.wait_for_selector("#status.error", timeout=PATIENCE)
    assert "cannot work" in page.locator("#status").inner_text()
    assert page.locator("#camera").is_disabled()
    page.close()
