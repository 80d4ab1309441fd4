"""Videos behind the server: limits of time and frames at every packet, damage, recordings."""

import time
from pathlib import Path

import av
import numpy as np
import pytest

from affectnet.inference.predictor import Predictor
from affectnet.inference.video_reader import VideoReader
from affectnet.serve.places import Limits, Refusal
from affectnet.serve.work import Progress, Service

GREY = [np.full((48, 64, 3), 20 + i % 200, np.uint8) for i in range(600)]


@pytest.fixture(scope="module")
def slow_clock(write_video, tmp_path_factory) -> Path:
    """A Matroska file of 600 frames whose clock moves some microseconds per frame."""
    path = write_video(tmp_path_factory.mktemp("slow") / "a.mkv", GREY, 25, "mjpeg")
    scale = b"\x2a\xd7\xb1\x83"
    data = path.read_bytes().replace(scale + b"\x0f\x42\x40", scale + b"\x00\x03\xe8")
    path.write_bytes(data)
    return path


def service(predictor: Predictor, folder: Path, **limits) -> Service:
    return Service(predictor, "tiny", Limits(**limits), folder)


def test_the_time_of_a_video_is_checked_at_every_packet(
    predictor: Predictor, slow_clock: Path, tmp_path: Path, monkeypatch
) -> None:
    served = service(predictor, tmp_path, video_timeout=0.3)
    read = VideoReader.frames

    def slow(reader: VideoReader, *, stop, **settings):
        def asked() -> bool:
            time.sleep(0.01)  # six seconds for the whole file
            return stop()

        return read(reader, stop=asked, **settings)

    monkeypatch.setattr(VideoReader, "frames", slow)
    start = time.monotonic()
    with pytest.raises(Refusal) as refused:
        served.predict_video(slow_clock, fps=1)
    assert refused.value.status == 503
    assert time.monotonic() - start < 3
    served.stop()
    with pytest.raises(Refusal, match="the server stops"):
        served.annotate_video(slow_clock, Progress())


def test_frames_that_are_only_read_are_counted(
    predictor: Predictor, slow_clock: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match="more than 500 frames") as refused:
        service(predictor, tmp_path, video_frames=50).predict_video(slow_clock, fps=1)
    assert refused.value.status == 413
    answer = service(predictor, tmp_path, video_frames=100).predict_video(slow_clock, fps=1)
    assert [frame["frame"] for frame in answer["frames"]] == [0]


def test_what_was_recognised_of_a_damaged_video_is_kept(
    predictor: Predictor, walk: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.avi"
    torn.write_bytes(walk.read_bytes()[: walk.stat().st_size // 2])
    served = service(predictor, tmp_path / "served")
    answer = served.predict_video(torn)
    *frames, end = answer["frames"]
    assert len(frames) > 5
    assert frames[0]["faces"]
    assert (answer["width"], answer["height"]) == (360, 240)
    assert end["status"] == "unreadable"
    assert "the rest is missing" in end["reason"]
    shown = served.annotate_video(torn, Progress())
    assert shown.frames == len(frames)
    assert "the rest is missing" in shown.note


def test_a_recording_of_a_browser_is_annotated(
    predictor: Predictor, photo, shifted, write_video, tmp_path: Path
) -> None:
    frames = [shifted(photo, 4 * i) for i in range(10)]
    path = write_video(tmp_path / "a.webm", frames, 10, "libvpx", sound=1, audio="libopus")
    with (
        av.open(str(path)) as old,
        av.open(str(tmp_path / "b.webm"), "w", container_options={"live": "1"}) as new,
    ):
        streams = {s: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream]
                new.mux(packet)
    progress = Progress()
    shown = service(predictor, tmp_path / "served").annotate_video(tmp_path / "b.webm", progress)
    assert (shown.frames, shown.note, progress.expected) == (10, None, None)
    assert shown.over_time.end == pytest.approx(0.9, abs=0.01)
    with av.open(str(shown.file)) as film:
        assert film.streams.audio[0].codec_context.name == "opus"
