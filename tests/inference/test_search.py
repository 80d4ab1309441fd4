"""Faces that are followed are those of a search of every frame, within the stated tolerance."""

import numpy as np
import pytest
from films import draw_film

from affectnet.data.crop import Box
from affectnet.inference.detector import Candidate, FaceDetector
from affectnet.inference.predictor import Predictor
from affectnet.inference.search import INTERVAL, find_faces, follow
from affectnet.inference.video import predict_video
from affectnet.inference.video_reader import Frame, Lost


def frames_of(film: list[np.ndarray], fps: float = 25) -> list[Frame]:
    return [Frame(i, i / fps, pixels) for i, pixels in enumerate(film)]


class Counting(FaceDetector):
    """Counts the searches of whole frames."""

    searched = 0

    def detect(self, image: np.ndarray) -> list[Candidate]:
        self.searched += 1
        return super().detect(image)


def found(frames: list[Frame | Lost], detector: FaceDetector, how: str) -> list[list[Box]]:
    """Return the boxes of each frame."""
    results = []
    for item, frame in zip(find_faces(iter(frames), detector, how, 1, 16), frames, strict=True):
        assert item.frame is frame
        results.append([face.box for face in follow(detector, item)])
    return results


def iou(a: Box, b: Box) -> float:
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (a.width * a.height + b.width * b.height - shared)


def compared(every: list[list[Box]], followed: list[list[Box]]) -> tuple[int, int, list[float]]:
    """Return the numbers of faces missed and of faces too many, and the overlaps of the others."""
    missed, extra, overlaps = 0, 0, []
    for ours, theirs in zip(followed, every, strict=True):
        left = list(ours)
        for box in theirs:
            best = max(left, key=lambda other, box=box: iou(box, other), default=None)
            if best is None or iou(box, best) < 0.5:
                missed += 1
                continue
            left.remove(best)
            overlaps.append(iou(box, best))
        extra += len(left)
    return missed, extra, overlaps


def test_followed_faces_are_those_of_every_frame() -> None:
    missed = extra = 0
    overlaps: list[float] = []
    for seed in (1, 2):
        frames = frames_of(draw_film(66, (360, 270), seed=seed))
        detector = Counting(size=360)
        every = found(frames, detector, "every")
        assert detector.searched == 66
        followed = found(frames, detector, "follow")
        assert detector.searched - 66 < 22  # 14 at intervals, the others where a face was lost
        some = compared(every, followed)
        missed, extra, overlaps = missed + some[0], extra + some[1], overlaps + some[2]
    assert len(overlaps) > 150
    assert missed <= 0.01 * len(overlaps)
    assert extra <= 0.01 * len(overlaps)
    assert np.mean(overlaps) > 0.95
    assert np.quantile(overlaps, 0.05) > 0.85


def test_a_face_is_seen_from_its_first_to_its_last_frame(photo, shifted) -> None:
    # Frames 0, 5, 10 ... are searched; the face enters and leaves in between, by cuts.
    empty = np.full((240, 360, 3), 120, np.uint8)
    film = [shifted(photo, 2 * i) if 7 <= i < 19 else empty for i in range(30)]
    seen = found(frames_of(film), FaceDetector(size=360), "follow")
    assert [len(boxes) for boxes in seen] == [0] * 7 + [1] * 12 + [0] * 11


def test_a_face_that_jumps_is_searched_in_the_whole_frame(photo, shifted) -> None:
    film = [shifted(photo, 140 if i == 3 else 0) for i in range(6)]
    detector = Counting(size=360)
    seen = found(frames_of(film), detector, "follow")
    assert seen[3][0].x == pytest.approx(seen[2][0].x + 140, abs=6)
    assert detector.searched == 3  # the first, the last, and this one


@pytest.mark.parametrize(
    ("fps", "count", "searched"), [(25, 20, 5), (60, 24, 3), (10, 10, 6), (5, 6, 6), (1, 4, 4)]
)
def test_whole_frames_are_searched_at_intervals(photo, shifted, fps, count, searched) -> None:
    detector = Counting(size=256)
    found(frames_of([shifted(photo, 0)] * count, fps), detector, "follow")
    assert detector.searched == searched
    assert INTERVAL == 0.2


def test_damaged_stretches_keep_their_place(photo, shifted) -> None:
    frames: list[Frame | Lost] = list(frames_of([shifted(photo, 0)] * 12))
    for i in (2, 5, 11):
        frames[i] = Lost(i, i / 25, "damaged")
    seen = found(frames, FaceDetector(size=256), "follow")
    assert [len(boxes) for boxes in seen] == [0 if i in (2, 5, 11) else 1 for i in range(12)]


def test_results_are_those_of_every_frame(predictor: Predictor, write_video, tmp_path) -> None:
    path = write_video(tmp_path / "a.avi", draw_film(30, (360, 270), seed=1), 25)
    every, followed = (
        [result for result, _ in predict_video(predictor, path, search=how, smoothing="none")]
        for how in ("every", "follow")
    )
    assert [result.frame for result in followed] == list(range(30))
    pairs = [
        (one, other)
        for a, b in zip(every, followed, strict=True)
        for one in a.faces
        for other in b.faces
        if iou(one.box, other.box) > 0.5
    ]
    assert len(pairs) > 30
    assert np.mean([abs(one.valence - other.valence) for one, other in pairs]) < 0.06
    assert np.mean([one.track == other.track for one, other in pairs]) == 1
