"""Annotated videos play where people look at them: in a browser."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from affectnet.errors import ConfigError
from affectnet.inference.annotated_video import VIDEO_SIDE, AnnotatedVideo
from affectnet.inference.predictor import Predictor
from affectnet.inference.video import predict_video
from affectnet.inference.video_reader import VideoReader

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
STATE = """async () => {
    const video = document.querySelector("video");
    for (let i = 0; i < 100 && video.readyState < 2 && !video.error; i++)
        await new Promise(done => setTimeout(done, 100));
    return [video.readyState, video.videoWidth, video.videoHeight, video.duration,
            video.error && video.error.message];
}"""


@pytest.fixture(scope="module")
def film(predictor: Predictor, walk: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "walk.webm"
    with AnnotatedVideo(path, 10) as video:
        for result, pixels in predict_video(predictor, walk, keep_pixels=True):
            video.write(result, pixels)
    return path


def test_a_browser_plays_it(film: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` installs it")
    page_file = film.parent / "page.html"
    page_file.write_text(f"<video src='{film.name}' preload='auto' muted></video>")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(page_file.as_uri())
        state, width, height, duration, error = page.evaluate(STATE)
        browser.close()
    assert error is None
    assert state >= 2  # HAVE_CURRENT_DATA
    assert (width, height) == (360, 240)
    assert duration == pytest.approx(2, abs=0.11)


def test_nothing_is_printed_on_the_terminal(walk: Path, predictor, tmp_path: Path, capfd) -> None:
    with AnnotatedVideo(tmp_path / "a.webm", 10) as video:
        for result, pixels in predict_video(predictor, walk, seconds=0.25, keep_pixels=True):
            video.write(result, pixels)
    os.write(2, b"still open")
    assert capfd.readouterr() == ("", "still open")


def test_frames_and_times_are_the_videos(film: Path, walk: Path) -> None:
    with VideoReader(film) as drawn, VideoReader(walk) as plain:
        pairs = list(zip(drawn.frames(), plain.frames(), strict=True))
    assert len(pairs) == 20
    for ours, theirs in pairs:
        assert ours.time == pytest.approx(theirs.time, abs=0.02)
    # Where there is no face nothing but the circumplex is drawn.
    empty = np.abs(pairs[10][0].pixels.astype(int) - pairs[10][1].pixels)[:150]
    assert empty.mean() < 4


def test_large_frames_are_shrunk_and_other_endings_refused(predictor, walk, tmp_path) -> None:
    results = [result for result, _ in predict_video(predictor, walk, seconds=0.15)]
    large = np.full((1500, 2250, 3), 90, np.uint8)
    with AnnotatedVideo(tmp_path / "a.webm", 10) as video:
        for result in results:
            video.write(result, large)
    with VideoReader(tmp_path / "a.webm") as reader:
        assert max(reader.info.width, reader.info.height) == VIDEO_SIDE
    with pytest.raises(ConfigError, match=r"\.webm or \.mp4"):
        AnnotatedVideo(tmp_path / "a.avi", 10)
