"""Videos: times, tracks, faceless frames, thinning, damage; the annotated copy."""

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from affectnet.errors import ConfigError, DataError
from affectnet.inference.drawing import AnnotatedVideo
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
from affectnet.inference.video import VideoReader, predict_video


def test_every_frame_has_a_result_with_its_time(predictor: Predictor, walk: Path) -> None:
    results = list(predictor.video(walk))
    assert [result.frame for result in results] == list(range(20))
    np.testing.assert_allclose([result.time for result in results], np.arange(20) / 10, atol=1e-3)
    assert [len(result.faces) for result in results] == [1] * 8 + [0] * 4 + [1] * 8
    assert results[9].status == "no face"
    assert {face.track for result in results for face in result.faces} == {1}
    x = [result.faces[0].box.x for result in results if result.faces]
    np.testing.assert_allclose(np.diff(x)[:6], 8, atol=4)


def test_frames_get_the_numbers_of_images(predictor: Predictor, walk: Path) -> None:
    with VideoReader(walk) as reader:
        frames = list(reader.frames())
    for keep, batch_size in ((True, 3), (False, 32)):
        results = predict_video(
            predictor, walk, smoothing="none", keep_pixels=keep, batch_size=batch_size
        )
        for frame, (result, pixels) in zip(frames, results, strict=True):
            assert (pixels is not None) == keep
            if keep:
                np.testing.assert_array_equal(pixels, frame.pixels)
            alone = predictor.predict(frame.pixels)
            for face, other in zip(result.faces, alone.faces, strict=True):
                assert face.box == other.box
                np.testing.assert_allclose(face.probabilities, other.probabilities, atol=1e-5)
                assert face.valence == pytest.approx(other.valence, abs=1e-5)


def test_smoothing_calms_the_course(predictor: Predictor, walk: Path) -> None:
    def course(smoothing: str) -> np.ndarray:
        return np.array(
            [r.faces[0].valence for r in predictor.video(walk, smoothing=smoothing) if r.faces]
        )

    raw = np.abs(np.diff(course("none"))).sum()
    for smoothing in ("ema", "one-euro"):
        assert np.abs(np.diff(course(smoothing))).sum() < 0.9 * raw


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"stride": 3}, [0, 3, 6, 9, 12, 15, 18]),
        ({"fps": 5}, list(range(0, 20, 2))),
        ({"fps": 4}, [0, 3, 5, 8, 10, 13, 15, 18]),
        ({"fps": 100}, list(range(20))),
        ({"seconds": 0.5}, [0, 1, 2, 3, 4]),
        ({"stride": 5, "seconds": 1.2}, [0, 5, 10]),
    ],
)
def test_a_video_can_be_thinned(walk: Path, settings: dict[str, float], frames: list[int]) -> None:
    with VideoReader(walk) as reader:
        assert [frame.number for frame in reader.frames(**settings)] == frames
        assert reader.fault is None


def test_frames_that_are_one_face_need_no_detector(predictor: Predictor, walk: Path) -> None:
    results = list(predictor.video(walk, faces="none", stride=10))
    assert [face.box for result in results for face in result.faces] == [(0, 0, 360, 240)] * 2


@pytest.mark.parametrize(
    "settings",
    [{"stride": 0}, {"fps": 0}, {"seconds": float("nan")}, {"smoothing": "kalman"}, {"faces": 1}],
)
def test_settings_out_of_range_are_refused(predictor, walk, settings) -> None:
    with pytest.raises(ConfigError, match=r"must be|may be"):
        list(predictor.video(walk, **settings))


def test_a_file_that_is_not_a_video_is_refused_with_the_reason(
    tmp_path: Path, photo_file: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (tmp_path / "hollow.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    for path, message in (
        (tmp_path / "empty.mp4", "empty"),
        (tmp_path / "pipe.mp4", "not a regular file"),
        (tmp_path / "list.mp4", "not a video"),
        (tmp_path / "concat.mp4", "not a video"),
        (tmp_path / "hollow.mp4", "cannot be opened"),
        (tmp_path / "missing.mp4", "No such file"),
        (photo_file, "not a video"),
        (99, "no camera 99"),
    ):
        with pytest.raises(DataError, match=message):
            VideoReader(path)


def test_a_video_that_ends_early_gives_its_frames_and_the_reason(
    predictor: Predictor, walk: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.avi"
    torn.write_bytes(walk.read_bytes()[: walk.stat().st_size // 2])
    seen = []
    with pytest.raises(DataError, match=r"ends after \d+ of about 20 frames"):
        seen.extend(predictor.video(torn))
    assert 5 < len(seen) < 15
    assert seen[0].faces


def test_stopping_early_ends_the_threads(predictor: Predictor, walk: Path) -> None:
    list(predictor.video(walk, seconds=0.2))  # whatever libraries start once is started
    before = threading.active_count()
    results = predict_video(predictor, walk)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def test_the_annotated_video_keeps_the_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.7, 0.75, 0.8, 0.9]  # a pause, and a frame too many
    with AnnotatedVideo(tmp_path / "a" / "out.mp4", fps=10) as video:
        for i, time in enumerate(times):
            grey = np.full((121, 161, 3), 30 * i, np.uint8)
            video.write(PictureResult(None, 161, 121, frame=i, time=time), grey)
    with VideoReader(tmp_path / "a" / "out.mp4") as reader:
        frames = list(reader.frames())
    assert (reader.info.width, reader.info.height) == (160, 120)
    levels = [round(float(frame.pixels.mean()) / 30) for frame in frames]
    assert levels == [0, 1, 2, 2, 2, 2, 2, 3, 4, 6]


def test_a_disk_that_takes_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "dir.mp4").mkdir()
    with (
        pytest.raises(DataError, match="cannot be written"),
        AnnotatedVideo(tmp_path / "dir.mp4", 10) as video,
    ):
        video.write(PictureResult(None, 64, 64, frame=0, time=0.0), np.zeros((64, 64, 3), np.uint8))


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 30)):
        at = int(rng.integers(0, max(1, min(len(changed), 4000 if rng.random() < 0.5 else 10**9))))
        kind = rng.integers(0, 4)
        if kind == 0:
            changed[at : at + 4] = rng.bytes(4)
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 300))]
        elif kind == 2:
            changed[at:at] = changed[at : at + int(rng.integers(1, 300))]
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize(
    ("count", "seed"), [(60, 1), pytest.param(3_000, 2, marks=pytest.mark.slow)]
)
def test_mutated_videos_are_read_or_refused(
    photo, write_video, shifted, tmp_path: Path, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frames = [shifted(photo, 8 * i, (160, 240)) for i in range(6)]
    kinds = (("a.avi", "MJPG"), ("b.mp4", "mp4v"), ("c.mkv", "mp4v"), ("d.avi", "XVID"))
    whole = [write_video(tmp_path / n, frames, codec=c).read_bytes() for n, c in kinds]
    outcomes = set()
    for i in range(count):
        path = tmp_path / "mutant"
        path.write_bytes(mutated(whole[i % len(whole)], rng))
        try:
            with VideoReader(path) as reader:
                last = -1.0
                for frame in reader.frames():
                    assert frame.pixels.ndim == 3
                    assert frame.time > last
                    last = frame.time
                    assert frame.number < 100
            outcomes.add("read" if reader.fault is None else "torn")
        except DataError:
            outcomes.add("refused")
    assert {"read", "refused"} <= outcomes


def test_frames_of_an_odd_size_are_read(write_video, tmp_path: Path) -> None:
    frames = [np.full((34, 66, 3), i * 20, np.uint8) for i in range(5)]
    path = write_video(tmp_path / "tiny.mkv", frames, codec="FFV1")
    with VideoReader(path) as reader:
        read = list(reader.frames())
    assert len(read) == 5
    assert read[0].pixels.shape == (34, 66, 3)
    assert cv2.absdiff(read[4].pixels, frames[4]).max() < 6
