"""Videos: times, tracks, faceless frames, thinning, damage; the annotated copy."""

import threading
from pathlib import Path

import numpy as np
import pytest

from affectnet.errors import ConfigError
from affectnet.inference.predictor import Predictor
from affectnet.inference.video import predict_video
from affectnet.inference.video_reader import VideoReader


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
            predictor,
            walk,
            search="every",
            smoothing="none",
            keep_pixels=keep,
            batch_size=batch_size,
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


def test_frames_that_are_one_face_need_no_detector(predictor: Predictor, walk: Path) -> None:
    results = list(predictor.video(walk, faces="none", stride=10))
    assert [face.box for result in results for face in result.faces] == [(0, 0, 360, 240)] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 0},
        {"fps": 0},
        {"seconds": float("nan")},
        {"smoothing": "kalman"},
        {"search": "none"},
        {"faces": 1},
    ],
)
def test_settings_out_of_range_are_refused(predictor, walk, settings) -> None:
    with pytest.raises(ConfigError, match=r"must be|may be"):
        list(predictor.video(walk, **settings))


def test_damage_is_a_result_with_the_reason(
    predictor: Predictor, walk: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.avi"
    torn.write_bytes(walk.read_bytes()[: walk.stat().st_size // 2])
    *seen, end = predictor.video(torn)
    assert 5 < len(seen) < 15
    assert seen[0].faces
    assert end.status == "unreadable"
    assert "of 2.0 s: the rest is missing" in end.reason
    assert end.source == str(torn)
    assert end.time == pytest.approx(len(seen) / 10)


def test_stopping_early_ends_the_threads(predictor: Predictor, walk: Path) -> None:
    list(predictor.video(walk, seconds=0.2))  # whatever libraries start once is started
    before = threading.active_count()
    results = predict_video(predictor, walk)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
