"""Annotated videos play where people look at them: in a browser."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from affectnet.errors import ConfigError, DataError, raise_on_signals
from affectnet.inference.annotated_video import CODECS, VIDEO_SIDE, AnnotatedVideo, video_suffix
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
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


@pytest.fixture(scope="module", params=["mp4", "webm"])
def film(predictor: Predictor, walk: Path, tmp_path_factory, request) -> Path:
    path = tmp_path_factory.mktemp("drawn") / f"walk.{request.param}"
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
    assert width == 360
    assert height > 240  # the circumplex and the curves are under the picture
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
    # Where there is no face nothing is drawn into the picture.
    empty = np.abs(pairs[10][0].pixels[:240].astype(int) - pairs[10][1].pixels)
    assert empty.mean() < 4


def test_large_frames_are_shrunk_and_other_endings_refused(predictor, walk, tmp_path) -> None:
    results = [result for result, _ in predict_video(predictor, walk, seconds=0.15)]
    large = np.full((1500, 2250, 3), 90, np.uint8)
    with AnnotatedVideo(tmp_path / "a.webm", 10) as video:
        for result in results:
            video.write(result, large)
    with VideoReader(tmp_path / "a.webm") as reader:
        assert max(reader.info.width, reader.info.height) == VIDEO_SIDE
    with pytest.raises(ConfigError, match=r"\.mp4 or \.webm"):
        AnnotatedVideo(tmp_path / "a.avi", 10)


def stream_of(path: Path, kind: str) -> tuple[str, list[tuple[float, int]]]:
    """Return the codec, and the time and size of each packet."""
    with av.open(str(path)) as container:
        stream = container.streams.get({kind: 0})[0]
        packets = [p for p in container.demux(stream) if p.size]
        name = stream.codec_context.name
    return name, [(float(p.pts * p.time_base), p.size) for p in packets]


def copied(source: Path, target: Path, **settings) -> AnnotatedVideo:
    with VideoReader(source) as reader, AnnotatedVideo(target, 10, reader) as video:
        for frame in reader.frames(**settings):
            result = PictureResult(None, 64, 48, frame=frame.number, time=frame.time)
            video.write(result, frame.pixels)
    return video


GREY = [np.full((48, 64, 3), 20 + 5 * i, np.uint8) for i in range(20)]


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_every_frame_is_shown_at_its_own_time(tmp_path: Path, name: str) -> None:
    times = [0.0, 0.1, 0.2, 0.7, 0.75, 0.8, 0.85, 3.9]
    with AnnotatedVideo(tmp_path / "a" / name, fps=10) as video:
        for i, time in enumerate(times):
            grey = np.full((251, 321, 3), 30 * i, np.uint8)
            video.write(PictureResult(None, 321, 251, frame=i, time=time), grey)
    with VideoReader(tmp_path / "a" / name) as reader:
        frames = list(reader.frames())
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-3)
    assert reader.info.seconds == pytest.approx(4.0, abs=0.11)
    greys = [float(frame.pixels[:240].mean()) for frame in frames]
    assert [round(grey / 30) for grey in greys] == list(range(8))
    height, width = frames[0].pixels.shape[:2]
    assert width == 320
    assert height > 250
    codec = stream_of(tmp_path / "a" / name, "video")[0]
    assert codec == {"out.mp4": "h264", "out.webm": "vp9"}[name]


def test_mp4_is_preferred_where_h264_can_be_encoded() -> None:
    try:
        av.codec.Codec("libx264", "w")
        expected = ".mp4"
    except ValueError:
        expected = ".webm"
    assert video_suffix() == expected
    assert video_suffix("webm") == ".webm"


def test_without_h264_and_vp9_it_is_vp8(tmp_path: Path, monkeypatch, walk: Path) -> None:
    monkeypatch.setitem(CODECS, ".mp4", {"absent": {}})
    monkeypatch.setitem(CODECS, ".webm", {"absent": {}, "libvpx": CODECS[".webm"]["libvpx"]})
    assert video_suffix() == ".webm"
    copied(walk, tmp_path / "out.webm")
    name, packets = stream_of(tmp_path / "out.webm", "video")
    assert name == "vp8"
    assert len(packets) == 20
    with pytest.raises(ConfigError, match="does not encode mp4 videos"):
        video_suffix("mp4")


@pytest.mark.parametrize(
    ("source", "codec", "audio", "target", "kept"),
    [
        ("a.mp4", "libx264", "aac", "out.mp4", "aac"),
        ("a.mkv", "libx264", "libopus", "out.mp4", "opus"),
        ("a.webm", "libvpx", "libopus", "out.webm", "opus"),
        ("a.mp4", "libx264", "aac", "out.webm", None),
        ("a.avi", "mjpeg", "pcm_s16le", "out.mp4", None),
    ],
)
def test_the_sound_is_the_originals(
    write_video, tmp_path: Path, source: str, codec: str, audio: str, target: str, kept: str | None
) -> None:
    path = write_video(tmp_path / source, GREY, 10, codec, sound=2.5, audio=audio)
    video = copied(path, tmp_path / target)
    assert video.fault is None
    name, packets = stream_of(tmp_path / target, "audio")
    assert packets[0][0] == pytest.approx(0, abs=0.03)
    assert packets[-1][0] == pytest.approx(2.0, abs=0.08)  # the film ends before its sound
    if kept:
        _, original = stream_of(path, "audio")
        assert name == kept
        sizes = [size for time, size in original if time >= 0]
        assert [size for _, size in packets] == sizes[: len(packets)]
    else:
        assert name == {"out.mp4": "aac", "out.webm": "opus"}[target]
        with av.open(str(tmp_path / target)) as container:
            wave = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        loud = np.abs(np.fft.rfft(wave[24_000:72_000]))
        assert loud.argmax() == pytest.approx(440, abs=2)  # of one second: in hertz


def test_the_sound_stays_beside_its_frames(write_video, tmp_path: Path) -> None:
    late = [1.0 + i / 10 for i in range(20)]
    path = write_video(tmp_path / "a.mkv", GREY, 10, "libx264", times=late, sound=3)
    copied(path, tmp_path / "out.mp4", seconds=1)
    _, packets = stream_of(tmp_path / "out.mp4", "audio")
    _, original = stream_of(path, "audio")
    # The second of sound before the first frame is left out, and what comes after the last.
    first = next(i for i, (time, _) in enumerate(original) if time >= 1.0)
    assert [size for _, size in packets] == [s for _, s in original[first:][: len(packets)]]
    assert packets[-1][0] == pytest.approx(1.0, abs=0.05)


def test_a_film_without_sound_and_a_disk_that_takes_nothing(walk: Path, tmp_path: Path) -> None:
    assert copied(walk, tmp_path / "a:b.mp4").fault is None
    with av.open(f"file:{tmp_path}/a:b.mp4") as container:
        assert not container.streams.audio
    (tmp_path / "dir.mp4").mkdir()
    with (
        pytest.raises(DataError, match="cannot be written"),
        AnnotatedVideo(tmp_path / "dir.mp4", 10) as video,
    ):
        video.write(PictureResult(None, 64, 64, frame=0, time=0.0), np.zeros((64, 64, 3), np.uint8))


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a thread")
def test_a_signal_while_the_last_frames_are_encoded_leaves_a_whole_video(tmp_path: Path) -> None:
    """The encoder is not finished while its thread still encodes, which corrupted it or hung."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (1080, 1920, 3), np.uint8)
    path = tmp_path / "v.mp4"
    stopped, signals = pytest.raises(KeyboardInterrupt), raise_on_signals()
    with stopped, signals, AnnotatedVideo(path, 10) as video:
        for number in range(5):
            result = PictureResult(None, 1920, 1080, frame=number, time=number / 10)
            video.write(result, pixels)
        main = threading.main_thread().ident or 0
        threading.Timer(0.02, signal.pthread_kill, [main, signal.SIGINT]).start()
    with av.open(path) as file:
        assert sum(1 for _ in file.decode(video=0)) == 5
