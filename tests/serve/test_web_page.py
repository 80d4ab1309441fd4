"""The page in a real browser: an image, the camera, a video, the password, light and dark.

Skipped where Chromium or playwright is missing. Screenshots are written to the folder that
AFFECTNET_SCREENSHOTS names.
"""

import csv
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, chromium
from PIL import Image

from affectnet.inference.annotated_video import video_suffix

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PATIENCE = 60_000
CAMERA = (320, 376)


@pytest.fixture(scope="module")
def browser(photo, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` installs it")
    seen = tmp_path_factory.mktemp("camera") / "camera.y4m"
    write_y4m(seen, cv2.resize(photo, CAMERA))
    with chromium(seen) as browser:
        yield browser


def write_y4m(path: Path, image: np.ndarray) -> None:
    """Write a camera recording of one image, in the format that Chromium reads."""
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes()
    height, width = image.shape[:2]
    head = f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(head + 10 * (b"FRAME\n" + planes))


@pytest.fixture
def page(browser, server):
    """The page in a light window; fails afterwards on any error or request to another host."""
    yield from open_page(browser, server, "light")


@pytest.fixture
def dark_page(browser, server):
    """The page in a dark window."""
    yield from open_page(browser, server, "dark")


def open_page(browser, server, scheme):
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme, permissions=["camera"]
    )
    page = context.new_page()
    faults, asked = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.address)
    page.locator("#an-input input[type=file]").wait_for(state="attached", timeout=PATIENCE)
    yield page
    context.close()
    assert faults == []
    own = (server.address, "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


def screenshot(page, name):
    folder = os.environ.get("AFFECTNET_SCREENSHOTS")
    if folder:
        page.mouse.move(2, 2)
        page.wait_for_timeout(400)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_an_image_of_two_faces(page, predictor, photo, tmp_path) -> None:
    small = cv2.resize(photo, (196, 231), interpolation=cv2.INTER_AREA)
    ground = np.full((360, 560, 3), (96, 116, 136), np.uint8)
    ground[15:345, 15:295] = photo
    ground[80:311, 330:526] = small
    Image.fromarray(ground).save(tmp_path / "two.png")
    wanted = predictor.predict(tmp_path / "two.png").faces
    assert len(wanted) == 2
    page.set_input_files("#an-input input[type=file]", tmp_path / "two.png")
    page.locator(".an-box").first.wait_for(timeout=PATIENCE)
    assert page.locator(".an-box").count() == 2
    assert page.locator(".an-point").count() == 2
    assert page.locator(".an-card").count() == 2
    assert page.locator(".an-bar").count() == 16
    image = page.locator(".an-image").bounding_box()
    for i, face in enumerate(wanted):
        drawn = page.locator(f".an-box[data-face='{i}'] rect:not([class])").first.bounding_box()
        scale = image["width"] / 560
        assert drawn["x"] - image["x"] == pytest.approx(scale * face.box.x, abs=4)
        assert drawn["width"] == pytest.approx(scale * face.box.width, abs=6)
        card = page.locator(f".an-card[data-face='{i}']")
        assert card.locator("strong").inner_text().lower() == face.expression
        shares = [float(t.rstrip("%")) for t in card.locator("output").all_inner_texts()]
        np.testing.assert_allclose(shares, 100 * np.array(face.probabilities), atol=0.06)
        full = card.locator(".an-bar i").first.bounding_box()["width"]
        bars = card.locator(".an-bar b").evaluate_all("all => all.map(b => b.offsetWidth)")
        np.testing.assert_allclose(bars, [max(2, full * p) for p in face.probabilities], atol=1.5)
    page.locator(".an-card[data-face='1']").hover()
    assert "an-on" in page.locator(".an-box[data-face='1']").get_attribute("class")
    assert "an-on" not in page.locator(".an-box[data-face='0']").get_attribute("class")
    screenshot(page, "image_light")


def test_the_camera(dark_page) -> None:
    page = dark_page
    page.locator("#an-input .source-selection button").nth(1).click()
    page.locator("#an-input").get_by_text("Click to Access Webcam").click(timeout=PATIENCE)
    page.locator("#an-input video").wait_for(timeout=PATIENCE)
    page.wait_for_function(
        "document.querySelector('#an-input video').videoWidth > 0", timeout=PATIENCE
    )
    page.locator(
        "#an-input button[aria-label='capture photo'], #an-input .button-wrap button"
    ).first.click()
    page.locator(".an-box").first.wait_for(timeout=PATIENCE)
    assert page.locator(".an-box").count() == 1
    assert page.locator(".an-bar").count() == 8
    screenshot(page, "camera_dark")


def test_a_video_plays_with_its_curve(page, walk) -> None:
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#an-video-input input[type=file]", walk)
    page.locator(".an-video video").wait_for(timeout=PATIENCE)
    page.wait_for_function(
        "document.querySelector('.an-video video').readyState >= 2", timeout=PATIENCE
    )
    assert page.locator(".an-trace").count() >= 2
    assert page.locator(".an-video video").evaluate("video => video.duration") > 1
    plot = page.locator(".an-curve svg")
    width = plot.bounding_box()["width"]
    plot.click(position={"x": width / 2, "y": 60})
    page.wait_for_function(
        "document.querySelector('.an-video video').currentTime > 0.3", timeout=PATIENCE
    )
    sync_api.expect(page.locator(".an-now")).to_have_css("opacity", "0.7")
    screenshot(page, "video_light")


def test_the_live_tab(page, photo, predictor, tmp_path) -> None:
    page.get_by_role("tab", name="Live").click()
    page.locator("[data-do=camera]").click()
    page.locator("#an-live .an-box").wait_for(timeout=PATIENCE)
    page.wait_for_function(
        "document.querySelectorAll('.an-rolling .an-trace').length === 2"
        " && document.querySelector('.an-rate').textContent.includes('frames per second')"
        " && document.querySelectorAll('.an-rolling rect').length > 0",
        timeout=PATIENCE,
    )
    page.wait_for_timeout(1500)
    screenshot(page, "live_light")
    files = {}
    for kind in ("json", "csv", "jpg"):
        with page.expect_download(timeout=PATIENCE) as download:
            page.locator(f"[data-save={kind}]").click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    page.locator("[data-do=stop]").click()
    assert page.locator("[data-do=stop]").is_disabled()
    results = json.loads(files["json"].read_text())
    times = [result["time"] for result in results]
    assert len(results) >= 2
    assert times == sorted(set(times))
    assert {len(result["faces"]) for result in results} == {1}
    assert results[0]["faces"][0]["track"] == 1
    table = list(csv.reader(files["csv"].open(newline="")))
    assert len(table) >= 1 + sum(max(1, len(result["faces"])) for result in results)
    # The camera shows one photo, so the answer is that to the photo, but for the compression.
    seen = cv2.resize(photo, CAMERA)
    expected = predictor.predict(seen).faces[0]
    (face,) = results[-1]["faces"]
    for name, value in expected.box._asdict().items():
        assert face["box"][name] == pytest.approx(value, abs=6)
    assert face["probabilities"][expected.expression] == pytest.approx(
        expected.probability, abs=0.15
    )
    drawn = np.asarray(Image.open(files["jpg"]).convert("RGB")).astype(int)
    assert drawn.shape[:2] == (results[-1]["height"], results[-1]["width"])
    assert np.abs(drawn - seen).max(axis=2).mean() > 1  # boxes
    page.locator("[data-do=sample]").click()
    page.locator("#an-live .an-box").nth(1).wait_for(timeout=PATIENCE)
    page.get_by_role("tab", name="Image").click()  # the stream waits, and goes on
    page.get_by_role("tab", name="Live").click()
    page.locator("[data-do=stop]").click()


def test_results_can_be_downloaded(page, predictor, walk, photo_file, tmp_path) -> None:
    def save(root: str, name: str) -> Path:
        with page.expect_download(timeout=PATIENCE) as download:
            page.locator(f"{root} .an-save", has_text=name).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        return tmp_path / name

    page.set_input_files("#an-input input[type=file]", photo_file)
    page.locator("#an-result .an-save").first.wait_for(timeout=PATIENCE)
    expected = predictor.predict(photo_file).to_dict() | {"source": None}
    (result,) = json.loads(save("#an-result", "faces.json").read_text())
    assert result == expected
    rows = list(csv.DictReader(save("#an-result", "faces.csv").open(newline="")))
    assert [row["expression"] for row in rows] == [f["expression"] for f in expected["faces"]]
    drawn = np.asarray(Image.open(save("#an-result", "annotated.jpg")))
    assert drawn.shape[1] == expected["width"]
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#an-video-input input[type=file]", walk)
    page.locator("#an-course .an-save").first.wait_for(timeout=PATIENCE)
    frames = json.loads(save("#an-course", "faces.json").read_text())
    assert len(frames) == 10  # the server processes five per second of two seconds
    rows = list(csv.DictReader(save("#an-course", "faces.csv").open(newline="")))
    assert len(rows) == sum(max(1, len(frame["faces"])) for frame in frames)
    film = next(tmp_path.glob("annotated.*"), None) or save(
        "#an-course", f"annotated{video_suffix()}"
    )
    assert film.stat().st_size > 1000
    assert page.locator("#an-course .an-ribbon rect").count() >= 1


CONTRASTS = """() => {
  const parse = (text) => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const ground = (node) => {
    if (node === null) return parse(getComputedStyle(document.body).backgroundColor).slice(0, 3);
    const colour = parse(getComputedStyle(node).backgroundColor);
    return colour[3] > 0.99 ? colour.slice(0, 3) : over(colour, ground(node.parentElement));
  };
  const light = (colour) => colour.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    const box = node.getBoundingClientRect();
    const shown = node.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
    if (!text || !shown || box.width < 2 || node.closest("script, style, title")) continue;
    const style = getComputedStyle(node);
    const svg = node.namespaceURI.endsWith("svg");
    let behind = ground(node);
    const shape = svg ? node.previousElementSibling : null;
    if (shape && node.parentElement.matches(".an-box, .an-point")) {
      behind = parse(getComputedStyle(shape).fill).slice(0, 3);
    }
    const colour = over(parse(svg ? style.fill : style.color), behind);
    const [low, high] = [light(colour), light(behind)].sort((a, b) => a - b);
    const scale = svg ? node.getScreenCTM().a ** 2 + node.getScreenCTM().b ** 2 : 1;
    found.push([text.slice(0, 40), (high + 0.05) / (low + 0.05),
      parseFloat(style.fontSize) * Math.sqrt(scale)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible_on_a_phone(browser, server, walk, scheme) -> None:
    """A contrast of 4.5:1 (WCAG 2.2, 1.4.3) everywhere, and curves with labels of 10 px or more."""
    for page in open_page(browser, server, scheme):
        page.set_viewport_size({"width": 390, "height": 844})
        page.locator("#an-example").click()
        page.locator("#an-result .an-card").wait_for(timeout=PATIENCE)
        seen = page.evaluate(CONTRASTS)
        page.get_by_role("tab", name="Video").click()
        page.set_input_files("#an-video-input input[type=file]", walk)
        page.locator("#an-course .an-ribbon").first.wait_for(timeout=PATIENCE)
        page.mouse.move(1, 1)
        page.wait_for_timeout(300)
        seen += page.evaluate(CONTRASTS)
        screenshot(page, f"video_phone_{scheme}")
        labels = page.locator("#an-course .an-tick").evaluate_all(SIZES)
        page.get_by_role("tab", name="Live").click()
        page.locator("[data-do=camera]").click()
        page.locator("#an-live .an-box").wait_for(timeout=PATIENCE)
        page.locator("[data-do=stop]").click()
        seen += page.evaluate(CONTRASTS)
        screenshot(page, f"live_phone_{scheme}")
        labels += page.locator("#an-live .an-tick").evaluate_all(SIZES)
        assert len(seen) > 60
        faint = sorted({(text, round(ratio, 2)) for text, ratio, _ in seen if ratio < 4.5})
        assert faint == []
        assert len(labels) > 15
        assert min(labels) >= 10
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390


SIZES = """all => all.map((node) => parseFloat(getComputedStyle(node).fontSize)
  * Math.hypot(node.getScreenCTM().a, node.getScreenCTM().b))"""


def test_errors_are_shown_and_uploads_are_deleted(page, server, tmp_path) -> None:
    (tmp_path / "no.png").write_bytes(b"no image at all")
    page.set_input_files("#an-input input[type=file]", tmp_path / "no.png")
    note = page.locator(".an-note[role=alert]")
    note.wait_for(timeout=PATIENCE)
    assert "not a JPEG" in note.inner_text()
    page.get_by_role("button", name="Try an example image").click()
    page.locator(".an-box").first.wait_for(timeout=PATIENCE)
    until = time.monotonic() + 40
    while list(server.service.folder.rglob("no.png")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list(server.service.folder.rglob("no.png"))


def test_the_password_page(browser, serve_model, predictor, tmp_path) -> None:
    with serve_model(predictor, tmp_path, password="open sesame") as served:
        context = browser.new_context(color_scheme="dark")
        page = context.new_page()
        page.goto(served.address)
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        sync_api.expect(page.get_by_role("alert")).to_have_text("Wrong password.")
        page.get_by_label("Password").fill("open sesame")
        page.get_by_role("button", name="Sign in").click()
        page.locator("#an-example").wait_for(timeout=PATIENCE)
        page.locator("#an-example").click()
        page.locator(".an-box").first.wait_for(timeout=PATIENCE)
        context.close()
