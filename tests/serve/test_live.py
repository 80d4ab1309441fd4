"""Live streams: the numbers of `predict`, one frame at a time, within the guard's limits."""

import io
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from affectnet.inference.video import FrameByFrame, predict_video
from affectnet.inference.video_reader import Frame, VideoReader

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other loopback addresses")


def png(pixels: np.ndarray) -> bytes:
    """Encoded without loss, so that the server sees these very pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def send(address: str, stream: str, at: float | str, data: bytes, **more) -> httpx.Response:
    settings = {"params": {"stream": stream, "time": at}, "content": data, "timeout": 30}
    return httpx.post(f"{address}/live", **settings, **more)


@pytest.fixture(scope="module")
def frames(walk) -> list[Frame]:
    with VideoReader(walk) as reader:
        return [frame for frame in reader.frames() if isinstance(frame, Frame)]


def test_frames_one_by_one_have_the_results_of_the_video(predictor, walk, frames) -> None:
    whole = [result for result, _ in predict_video(predictor, walk, search="every")]
    one_by_one = FrameByFrame(predictor)
    for frame, expected in zip(frames, whole, strict=True):
        found = one_by_one(frame)
        assert [face.track for face in found.faces] == [face.track for face in expected.faces]
        for ours, theirs in zip(found.faces, expected.faces, strict=True):
            assert ours.box == theirs.box
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
            assert (ours.valence, ours.arousal) == pytest.approx(
                (theirs.valence, theirs.arousal), abs=1e-5
            )


def test_the_stream_answers_with_the_numbers_of_predict(server, predictor, frames) -> None:
    one_by_one = FrameByFrame(predictor)
    for frame in frames[:8]:
        answer = send(server.address, "numbers-1", frame.time, png(frame.pixels))
        assert answer.status_code == 200
        got, expected = answer.json(), one_by_one(frame).to_dict()
        assert got["time"] == pytest.approx(frame.time)
        assert [face["track"] for face in got["faces"]] == [1]
        for ours, theirs in zip(got["faces"], expected["faces"], strict=True):
            assert ours["box"] == pytest.approx(theirs["box"])
            assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)
            assert ours["valence"] == pytest.approx(theirs["valence"], abs=1e-5)
        assert got["boxes"].count("an-box") == len(got["faces"])
        assert got["csv"].count("\r\n") == len(got["faces"])
    # The first frame of a stream is not smoothed: it is the answer to the image.
    first = send(server.address, "numbers-2", 0, png(frames[0].pixels)).json()["faces"][0]
    alone = predictor.predict(frames[0].pixels).faces[0].to_dict()
    assert first["box"] == pytest.approx(alone["box"])
    assert first["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_mistakes_are_refused_with_what_to_do(server, frames) -> None:
    at, good = server.address, png(frames[0].pixels)
    for stream, moment in (("short", 0), ("with/slash-1", 0), ("no-number", "nan")):
        assert send(at, stream, moment, good).status_code == 422
    for moment in (-1, "inf", 1e9):
        assert send(at, "no-time-1", moment, good).status_code == 422
    assert send(at, "increasing", 1.0, good).status_code == 200
    again = send(at, "increasing", 1.0, good)
    assert again.status_code == 422
    assert "increase" in again.json()["error"]
    assert "not a JPEG" in send(at, "increasing", 2.0, b"no image").json()["error"]
    assert send(at, "increasing", 2.0, good).status_code == 200  # it goes on after it
    wide = send(at, "wide-frames", 0, png(np.zeros((3000, 1000, 3), np.uint8)))
    assert wide.status_code == 413
    assert wide.json()["allowed"] < 3_000_000
    assert send(at, "large-frame", 0, b"x" * 1_000_000).status_code == 413
    assert httpx.get(f"{at}/live").status_code == 405


def test_the_guard_holds_for_the_stream(serve_model, predictor, tmp_path, frames) -> None:
    good = png(frames[0].pixels)
    with serve_model(predictor, tmp_path, password="open sesame") as served:
        at = served.address
        assert send(at, "no-password", 0, good).status_code == 401
        bearer = {"Authorization": "Bearer open sesame"}
        assert send(at, "with-password", 0, good, headers=bearer).status_code == 200
        for more, status in (
            ({"Host": "evil.example"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            assert send(at, "other-site", 0, good, headers=bearer | more).status_code == status
        assert httpx.get(f"{at}/sample").status_code == 401
        assert len(served.service.streams) == 1


@LINUX
@pytest.mark.slow
def test_many_streams_of_one_client_keep_nobody_out(
    serve_model, predictor, tmp_path, frames
) -> None:
    """Another address begins a stream while one client holds all of them, with frames in each."""
    good = png(frames[0].pixels)
    with serve_model(predictor, tmp_path, streams=4) as served:
        at, over = served.address, threading.Event()
        statuses: set[int] = set()

        def flood(number: int) -> None:
            moment = 0
            while not over.is_set():
                moment += 1
                statuses.add(send(at, f"hostile-{number}", moment, good).status_code)

        with ThreadPoolExecutor(8) as pool:
            for number in range(8):
                pool.submit(flood, number)
            try:
                until = time.monotonic() + 10
                while len(served.service.streams) < 4 and time.monotonic() < until:
                    time.sleep(0.02)
                other = httpx.HTTPTransport(local_address="127.0.0.2")
                with httpx.Client(transport=other, timeout=30) as client:
                    for i in range(5):
                        answer = client.post(f"{at}/live?stream=a-visitor&time={i}", content=good)
                        assert answer.status_code == 200
                        assert answer.json()["faces"][0]["track"] == 1
                answer = httpx.post(f"{at}/predict", content=good, timeout=30)
                assert answer.status_code == 200
            finally:
                over.set()
        assert statuses <= {200, 429, 503}
        assert 503 in statuses
        assert len(served.service.streams) <= 4


def test_slow_frames_take_no_place_and_a_stream_has_one_at_a_time(
    serve_model, predictor, tmp_path, frames
) -> None:
    import socket

    good = png(frames[0].pixels)
    with serve_model(predictor, tmp_path, workers=1, streams=2) as served:
        parts = urlsplit(served.address)
        slow = []
        for i in range(20):
            one = socket.create_connection((parts.hostname, parts.port), 10)
            head = f"POST /live?stream=slow-{i:04d}&time=0 HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            one.sendall(f"{head}Content-Length: 5000\r\n\r\nx".encode())
            slow.append(one)
        assert send(served.address, "in-between", 0, good).status_code == 200
        assert len(served.service.streams) == 1  # none of those that have not arrived
        for one in slow:
            one.close()
        with ThreadPoolExecutor(6) as pool:
            answers = list(
                pool.map(lambda i: send(served.address, "together-1", 1 + i, good), range(6))
            )
        statuses = [answer.status_code for answer in answers]
        assert 200 in statuses
        assert set(statuses) <= {200, 422, 429}


def test_streams_are_forgotten_when_they_are_idle(
    serve_model, predictor, tmp_path, frames, monkeypatch
) -> None:
    from affectnet.serve import live

    monkeypatch.setattr(live, "IDLE_SECONDS", 0.3)
    good = png(frames[0].pixels)
    with serve_model(predictor, tmp_path, streams=2) as served:
        for i in range(5):
            assert send(served.address, f"visitor-{i}", 0, good).status_code == 200
            if i % 2:
                assert send(served.address, "too-many-1", 0, good).status_code == 503
                time.sleep(0.35)


@LINUX
def test_streams_of_different_visitors_do_not_replace_each_other(
    serve_model, predictor, tmp_path, frames
) -> None:
    good = png(frames[0].pixels)
    with serve_model(predictor, tmp_path, streams=2) as served:
        for i, status in ((1, 200), (2, 200), (3, 503), (1, 200)):
            visitor = httpx.HTTPTransport(local_address=f"127.0.0.{i}")
            with httpx.Client(transport=visitor, timeout=30) as client:
                address = f"{served.address}/live?stream=visitor-{i}&time={time.monotonic()}"
                assert client.post(address, content=good).status_code == status


def test_the_sample_video_has_two_persons_whose_expressions_change(server) -> None:
    answer = httpx.get(f"{server.address}/sample", timeout=60)
    assert answer.status_code == 200
    assert len(answer.content) < 1_000_000
    part = httpx.get(f"{server.address}/sample", headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    from affectnet.inference.detector import FaceDetector
    from affectnet.serve.sample import FPS, PERSONS, SECONDS_EACH

    with VideoReader(server.service.sample()) as reader:
        shown = [frame for frame in reader.frames() if isinstance(frame, Frame)]
    assert len(shown) == round(FPS * SECONDS_EACH * len(PERSONS[0][1]))
    detector = FaceDetector()
    for frame in shown[::15]:
        assert len(detector.detect(frame.pixels)) == len(PERSONS)
    early, late = shown[10].pixels.astype(int), shown[-10].pixels.astype(int)
    assert np.abs(early - late).mean() > 3
