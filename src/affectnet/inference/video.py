"""Videos and cameras: read, detect, classify and track faces in overlapping stages.

Memory does not depend on the length: each stage is at most a few frames ahead of the next.
"""

import math
import os
import stat
import time as clock
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from affectnet.data.crop import Box
from affectnet.data.images import Pixels, media_kind, resize
from affectnet.errors import ConfigError, DataError
from affectnet.inference.detector import VIDEO_SIZE, Candidate, FaceDetector, quiet_opencv
from affectnet.inference.pipeline import Faces, Pipeline, Prepared, check_choice
from affectnet.inference.results import PictureResult
from affectnet.inference.tracks import Smoother, Smoothing, Tracker
from affectnet.threads import cores, ordered_map, overlap

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a damaged stream would fill the terminal
import cv2

MAX_FRAME_PIXELS: Final = 36_000_000
"""8K is 33 million; larger frames are refused."""
_TIMEOUT_MS = 20_000
_BUFFER_BYTES = 64 * 2**20
_MAX_FRAMES_AHEAD = 16
_WHOLE_FRACTION = 0.95
_DEFAULT_FPS = 25.0


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header of a stream states.

    Attributes:
        fps: frames per second on average; 25 where the stream does not state it.
        frames: approximate number of frames; None where unknown, as for a camera.
        width, height: in pixels, upright.
    """

    fps: float
    frames: int | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its number from 0, its time in seconds, its upright RGB pixels."""

    number: int
    time: float
    pixels: Pixels


class VideoReader:
    """Reads a video file or a camera frame by frame; a context manager.

    Args:
        source: path of a file, or the number of a camera.

    Raises `DataError` with the reason where it cannot be opened. A file is recognised as a video by
    its first bytes; playlists and stream addresses are refused, since they make the reader open
    other files or addresses.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.camera = isinstance(source, int)
        arguments: tuple[Any, ...] = (source,)
        if not isinstance(source, int):
            _check_video_file(Path(source))
            limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
            settings = [value for limit in limits for value in (limit, _TIMEOUT_MS)]
            arguments = (str(source), cv2.CAP_FFMPEG, settings)
        with quiet_opencv():
            self._capture = cv2.VideoCapture(*arguments)
        if not self._capture.isOpened():
            raise DataError(
                f"there is no camera {source} that can be opened"
                if self.camera
                else "the video cannot be opened: it is damaged, or OpenCV does not know its format"
            )
        self.info = self._read_info()
        self.fault: str | None = None
        if self.info.width * self.info.height > MAX_FRAME_PIXELS:
            self._capture.release()
            raise DataError(
                f"the video has frames of {self.info.width}x{self.info.height} pixels; at most "
                f"{MAX_FRAME_PIXELS:,} pixels are read"
            )

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(
        self, *, stride: int = 1, fps: float | None = None, seconds: float | None = None
    ) -> Generator[Frame, None, None]:
        """Yield the frames in order; the arguments are those of `predict_video`.

        Times come from the stream; where they are missing or do not increase, they are computed
        from the frame rate. Where the stream ends early (no frame can be decoded, or clearly fewer
        than the file states), `fault` holds the reason afterwards.
        """
        number, last, due = 0, -math.inf, -math.inf
        start = clock.monotonic()
        while self._capture.grab():
            time = clock.monotonic() - start if self.camera else self._time(number, last)
            last = time
            if seconds is not None and time >= seconds:
                return
            if number % stride == 0 and time >= due - 1e-6:
                if fps is not None:
                    # Counted from the last due time, so that rounding errors do not add up; after
                    # a gap in the stream, missed frames are not made up for.
                    due = max((due if due > -math.inf else time) + 1 / fps, time)
                pixels = self._decode()
                if pixels is not None:
                    yield Frame(number, time, pixels)
            number += 1
        expected = self.info.frames
        if number == 0:
            self.fault = "no frame can be read"
        elif expected is not None and number < _WHOLE_FRACTION * expected - 1:
            self.fault = f"the video ends after {number} of about {expected} frames"

    def _time(self, number: int, last: float) -> float:
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if number == 0:
            return time if math.isfinite(time) and time >= 0 else 0.0
        return time if math.isfinite(time) and time > last else last + 1 / self.info.fps

    def _decode(self) -> Pixels | None:
        whole, frame = self._capture.retrieve()
        if not whole or frame is None or frame.size == 0:
            return None
        if frame.shape[0] * frame.shape[1] > MAX_FRAME_PIXELS:
            return None  # the size changed within the stream
        conversion = cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB
        pixels: Any = cv2.cvtColor(frame, conversion)
        return np.asarray(pixels, np.uint8)

    def _read_info(self) -> VideoInfo:
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not self.camera and math.isfinite(frames) and 0 < frames < 1e9
        return VideoInfo(
            fps if math.isfinite(fps) and 0.1 <= fps <= 1000 else _DEFAULT_FPS,
            round(frames) if known else None,
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )


def predict_video(
    predictor: Pipeline,
    source: str | Path | int | VideoReader,
    *,
    faces: Faces = "detect",
    smoothing: Smoothing = "one-euro",
    stride: int = 1,
    fps: float | None = None,
    seconds: float | None = None,
    batch_size: int = 32,
    detect_size: int = VIDEO_SIZE,
    workers: int | None = None,
    keep_pixels: bool = False,
) -> Generator[tuple[PictureResult, Pixels | None], None, None]:
    """Yield one result per frame, its faces numbered and smoothed over time.

    Args:
        predictor: the model.
        source: path of a video file, number of a camera, or an open reader.
        faces: `none` treats every frame as one face.
        smoothing: of each face's probabilities, valence and arousal: `one-euro`, `ema` or `none`.
        stride: use every n-th frame only.
        fps: use at most this many frames per second.
        seconds: time at which to stop.
        batch_size: faces per forward pass; frames of a camera are classified one by one.
        detect_size: long side in pixels at which faces are detected.
        workers: threads that detect faces; one less than cores, at most 4, where None.
        keep_pixels: yield each frame's pixels with its result, else None.

    Raises:
        DataError: it cannot be opened, or ends early (after the frames that could be read).
        ConfigError: a setting is out of range.
    """
    check_choice("faces", faces, ("detect", "none"))
    check_choice("smoothing", smoothing, ("one-euro", "ema", "none"))
    _check_range(stride, fps=fps, seconds=seconds)
    detector = FaceDetector(predictor.min_score, detect_size) if faces == "detect" else None
    reader = source if isinstance(source, VideoReader) else VideoReader(source)
    origin = None if isinstance(source, VideoReader) else str(source)
    workers = workers or max(1, min(cores() - 1, 4))
    depth = _frames_ahead(reader)

    def prepare(frame: Frame) -> Prepared:
        prepared = _prepare(predictor, detector, frame, origin)
        return replace(prepared, pixels=frame.pixels) if keep_pixels else prepared

    with reader:
        frames = overlap(reader.frames(stride=stride, fps=fps, seconds=seconds), depth)
        prepared = overlap(ordered_map(prepare, frames, workers, ahead=min(depth, workers + 1)), 2)
        max_waiting = 1 if reader.camera else depth
        tracker, smoother = Tracker(), Smoother(smoothing)
        with closing(prepared):  # the threads stop before the file is closed under them
            for result, pixels in predictor.classify_all(prepared, batch_size, max_waiting):
                yield _track(result, tracker, smoother), pixels
    if reader.fault is not None:
        raise DataError(reader.fault)


def _check_range(stride: int, **limits: float | None) -> None:
    if stride < 1:
        raise ConfigError(f"stride is {stride}; it must be 1 or more")
    for name, value in limits.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}; it must be above 0")


def _prepare(
    predictor: Pipeline, detector: FaceDetector | None, frame: Frame, source: str | None
) -> Prepared:
    """Detect and crop the faces of a frame; without a detector the frame is one face."""
    height, width = frame.pixels.shape[:2]
    result = PictureResult(source, width, height, frame=frame.number, time=frame.time)
    if detector is None:
        whole = Candidate(Box(0.0, 0.0, float(width), float(height)))
        classifier = predictor.classifier
        crop = resize(frame.pixels, classifier.size, classifier.interpolation)
        return Prepared(result, (whole,), crop[None], None)
    return predictor.crop(frame.pixels, detector.detect(frame.pixels), result)


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


def _frames_ahead(reader: VideoReader) -> int:
    """Return how many frames may wait between two stages."""
    if reader.camera:
        return 1  # a frame that waits is late
    size = max(1, reader.info.width * reader.info.height * 3)
    return max(2, min(_BUFFER_BYTES // size, _MAX_FRAMES_AHEAD))


def _check_video_file(path: Path) -> None:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError("it is not a regular file")
        if about.st_size == 0:
            raise DataError("the file is empty")
        with path.open("rb") as file:
            head = file.read(200)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the file cannot be read: {reason}") from error
    if media_kind(head) != "video":
        raise DataError(
            "it is not a video in MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg or WMV format"
        )
