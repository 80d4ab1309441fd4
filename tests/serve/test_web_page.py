"""The page in a real browser: an image, the camera, a video, the password, light and dark.

Skipped where Chromium or playwright is missing. Screenshots are written to the folder that
AFFECTNET_SCREENSHOTS names.
"""

import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser(photo, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` installs it")
    seen = tmp_path_factory.mktemp("camera") / "camera.y4m"
    write_y4m(seen, cv2.resize(photo, (320, 376)))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream"),
                *(
                    "--use-fake-device-for-media-stream",
                    f"--use-file-for-fake-video-capture={seen}",
                ),
            ],
        )
        yield browser
        browser.close()


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
        drawn = page.locator(f".an-box[data-face='{i}'] rect").first.bounding_box()
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
