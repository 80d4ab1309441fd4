"""Prediction on videos and cameras: read, search, classify and track faces in overlapping stages.

Memory does not depend on the length: each stage is at most a few frames ahead of the next.
"""

import math
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from affectnet.data.crop import Box
from affectnet.data.images import Pixels, resize
from affectnet.errors import ConfigError, check_choice
from affectnet.inference.camera import Camera
from affectnet.inference.detector import VIDEO_SIZE, Candidate, FaceDetector
from affectnet.inference.pipeline import Faces, Pipeline, Prepared, unreadable
from affectnet.inference.results import PictureResult
from affectnet.inference.search import Found, Search, find_faces, follow
from affectnet.inference.tracks import Smoother, Smoothing, Tracker
from affectnet.inference.video_reader import Frame, Lost, VideoReader
from affectnet.threads import cores, ordered_map, overlap

_BUFFER_BYTES: Final = 64 * 2**20
_MAX_FRAMES_AHEAD: Final = 16


def predict_video(
    predictor: Pipeline,
    source: str | Path | int | VideoReader | Camera,
    *,
    faces: Faces = "detect",
    search: Search = "follow",
    smoothing: Smoothing = "one-euro",
    stride: int = 1,
    fps: float | None = None,
    seconds: float | None = None,
    batch_size: int = 32,
    detect_size: int = VIDEO_SIZE,
    workers: int | None = None,
    keep_pixels: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[PictureResult, Pixels | None], None, None]:
    """Yield one result per frame, its faces numbered and smoothed over time.

    A damaged stretch of a file yields one result with the reason; the frames after it follow.

    Args:
        predictor: the model.
        source: path of a video file, number of a camera, or an open reader.
        faces: `none` treats every frame as one face.
        search: `follow` searches whole frames five times per second and follows the faces in
            between; `every` searches every frame, as is always done for a camera.
        smoothing: of each face's probabilities, valence and arousal: `one-euro`, `ema` or `none`.
        stride: use every n-th frame only.
        fps: use at most this many frames per second.
        seconds: time at which to stop.
        batch_size: faces per forward pass; frames of a camera are classified one by one.
        detect_size: long side in pixels at which faces are detected.
        workers: threads that detect faces; one less than cores, at most 4, where None.
        keep_pixels: yield each frame's pixels with its result, else None.
        stop: asked at every packet of a file; the results end where it returns True.

    Raises:
        DataError: it cannot be opened, or no frame of it can be read.
        ConfigError: a setting is out of range.
    """
    check_choice("faces", faces, ("detect", "none"))
    check_choice("smoothing", smoothing, ("one-euro", "ema", "none"))
    _check_range(stride, fps=fps, seconds=seconds)
    check_choice("search", search, ("follow", "every"))
    detector = FaceDetector(predictor.min_score, detect_size) if faces == "detect" else None
    reader, origin = source, None
    if not isinstance(reader, VideoReader | Camera):
        origin = str(reader)
        reader = Camera(reader) if isinstance(reader, int) else VideoReader(reader)
    camera = isinstance(reader, Camera)
    workers = workers or max(1, min(cores() - 1, 4))
    size = max(1, reader.info.width * reader.info.height * 3)
    # A frame of a camera that waits is late.
    depth = 1 if camera else max(2, min(_BUFFER_BYTES // size, _MAX_FRAMES_AHEAD))
    halted = threading.Event()

    def prepare(found: Found) -> Prepared:
        prepared = _prepare(predictor, detector, found, origin)
        if not keep_pixels or isinstance(found.frame, Lost):
            return prepared
        return replace(prepared, pixels=found.frame.pixels)

    with reader:
        read = reader.frames(
            stride=stride, fps=fps, seconds=seconds, stop=lambda: halted.is_set() or stop()
        )
        frames = overlap(read, depth)
        found = find_faces(frames, detector, "every" if camera else search, workers, depth)
        prepared = overlap(
            ordered_map(prepare, found, workers, ahead=min(depth, workers + 1)), 2, halted.set
        )
        tracker, smoother = Tracker(), Smoother(smoothing)
        with closing(prepared):  # the threads stop before the file is closed under them
            waiting = 1 if camera else depth
            for result, pixels in predictor.classify_all(prepared, batch_size, waiting):
                yield _track(result, tracker, smoother), pixels


class FrameByFrame:
    """Predicts on frames as they come, one at a time, for a stream without a reader.

    The results are those of `predict_video` with `search="every"`, as for a camera. See there for
    the arguments.
    """

    def __init__(
        self,
        predictor: Pipeline,
        *,
        faces: Faces = "detect",
        smoothing: Smoothing = "one-euro",
        detect_size: int = VIDEO_SIZE,
    ) -> None:
        check_choice("faces", faces, ("detect", "none"))
        check_choice("smoothing", smoothing, ("one-euro", "ema", "none"))
        self._predictor = predictor
        self._detector = (
            FaceDetector(predictor.min_score, detect_size) if faces == "detect" else None
        )
        self._tracker, self._smoother = Tracker(), Smoother(smoothing)

    def __call__(self, frame: Frame) -> PictureResult:
        """Predict on the next frame, whose time must be later than that of the one before."""
        faces = self._detector.detect(frame.pixels) if self._detector is not None else ()
        prepared = _prepare(self._predictor, self._detector, Found(frame, faces), None)
        ((result, _),) = self._predictor.classify_all([prepared], 32)
        return _track(result, self._tracker, self._smoother)


def _check_range(stride: int, **limits: float | None) -> None:
    if stride < 1:
        raise ConfigError(f"stride is {stride}; it must be 1 or more")
    for name, value in limits.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}; it must be above 0")


def _prepare(
    predictor: Pipeline, detector: FaceDetector | None, found: Found, source: str | None
) -> Prepared:
    """Crop the faces of a frame; without a detector the frame is one face."""
    frame, classifier = found.frame, predictor.classifier
    if isinstance(frame, Lost):
        lost = PictureResult(
            source, None, None, reason=frame.reason, frame=frame.number, time=frame.time
        )
        return unreadable(lost, classifier.size)
    height, width = frame.pixels.shape[:2]
    result = PictureResult(source, width, height, frame=frame.number, time=frame.time)
    if detector is None:
        whole = Candidate(Box(0.0, 0.0, float(width), float(height)))
        crop = resize(frame.pixels, classifier.size, classifier.interpolation)
        return Prepared.of(result, [whole], crop[None])
    return predictor.crop(frame.pixels, follow(detector, found), result)


def _track(result: PictureResult, tracker: Tracker, smoother: Smoother) -> PictureResult:
    """Number and smooth the faces of the next frame."""
    time = result.time or 0.0
    numbers = tracker.update([face.box for face in result.faces], time)
    faces = []
    for face, number in zip(result.faces, numbers, strict=True):
        affect = np.array([face.valence, face.arousal])
        probabilities, affect = smoother(number, np.array(face.probabilities), affect, time)
        faces.append(
            replace(
                face,
                probabilities=tuple(map(float, probabilities)),
                valence=float(affect[0]),
                arousal=float(affect[1]),
                track=number,
            )
        )
    smoother.forget_all_but(tracker.alive)
    return replace(result, faces=tuple(faces))
