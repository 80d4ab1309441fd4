"""The work behind the page and the HTTP API: limits, bounded queues, and prediction."""

import asyncio
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from affectnet.data.images import Pixels, read_header
from affectnet.errors import DataError
from affectnet.inference.annotated_video import AnnotatedVideo, video_suffix
from affectnet.inference.pipeline import Faces
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
from affectnet.inference.tracks import OverTime
from affectnet.inference.video import predict_video
from affectnet.inference.video_reader import VideoReader

R = TypeVar("R")

FILE_SECONDS: Final = 600.0
"""Age at which unread uploads and annotated videos are deleted."""
MISSING: Final = (
    "the web page needs gradio, which is not installed; install it with: "
    "pip install 'affectnet[serve]'"
)
_RESULT = re.compile(r"[\w-]{20,60}\.(mp4|webm)")
_MAX_NOTES = 5
_PACKETS_PER_FRAME = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts; requests beyond are refused with the limit and its setting.

    Attributes:
        image_bytes, video_bytes: of an upload.
        pixels: of an image, read from its header.
        video_seconds, video_frames: of a video that are processed.
        video_fps: frames per second of video that are processed, at most.
        workers: images that are processed at the same time; videos are processed one by one.
        waiting: requests that may wait in addition; for videos `videos_waiting`.
        timeout, video_timeout: seconds per request, waiting included.
    """

    image_bytes: int = 20 * 2**20
    video_bytes: int = 100 * 2**20
    pixels: int = 40_000_000
    video_seconds: float = 120.0
    video_frames: int = 3000
    video_fps: float = 25.0
    workers: int = 2
    waiting: int = 32
    videos_waiting: int = 4
    timeout: float = 60.0
    video_timeout: float = 600.0


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: of the HTTP response.
        message: what was given, what is allowed and what to do.
        given, allowed: the numbers, where there are any.
        setting: the flag that changes the limit.
        retry_after: seconds after which the request may be repeated.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        given: float | None = None,
        allowed: float | None = None,
        setting: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.given, self.allowed, self.setting = given, allowed, setting
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        details = {"given": self.given, "allowed": self.allowed, "setting": self.setting}
        return {"error": str(self)} | {name: v for name, v in details.items() if v is not None}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the HTTP response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def too_large(given: int | None, allowed: int, setting: str) -> Refusal:
    """Return the refusal of an upload; `given` is None where it was not read to its end."""
    size = "more" if given is None else f"{given:,} bytes"
    return Refusal(
        413,
        f"the upload has {size}; at most {allowed:,} bytes are accepted; send a smaller file, or "
        f"start the server with a larger {setting}",
        given=given,
        allowed=allowed,
        setting=setting,
    )


class Gate:
    """Admits a bounded number of requests, and runs a few of them at a time in threads.

    Args:
        noun: plural of what is processed, for messages.
        workers: requests that are processed at the same time.
        waiting: requests that may wait in addition.
        timeout: seconds from admission to the response.

    Used from one event loop.
    """

    def __init__(self, noun: str, workers: int, waiting: int, timeout: float) -> None:
        self.noun, self.workers, self.waiting, self.timeout = noun, workers, waiting, timeout
        self.inside = 0
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix=f"affectnet-{noun}")

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        """Take a place for the duration of a request; raises `Refusal` (503) where none is free."""
        if self.stopping.is_set():
            raise Refusal(503, "the server is stopping", retry_after=10)
        allowed = self.workers + self.waiting
        if self.inside >= allowed:
            raise Refusal(
                503,
                f"the server is busy: {self.inside} {self.noun} are being processed or waiting, "
                "which is the maximum; try again in a moment",
                given=self.inside + 1,
                allowed=allowed,
                setting="--waiting",
                retry_after=max(1, round(self.inside / (8 * self.workers))),
            )
        self.inside += 1
        place = Place(self, asyncio.get_running_loop())
        try:
            yield place
        finally:
            place.leave()

    def stop(self) -> None:
        """Admit no more requests, and drop those that wait."""
        self.stopping.set()
        self.pool.shutdown(wait=False, cancel_futures=True)


class Place:
    """One request's place inside a gate; it is released when its work has really ended."""

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self.gate, self.loop = gate, loop
        self.deadline = loop.time() + gate.timeout
        self._work: Future[Any] | None = None

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """Run the function in a thread of the gate; `Refusal` (503) after the timeout."""
        future = self.gate.pool.submit(function, *args)
        self._work = future
        try:
            async with asyncio.timeout_at(self.deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refusal(
                503,
                f"it took longer than {self.gate.timeout:g} s, waiting included; try again, or "
                "send something smaller",
                allowed=self.gate.timeout,
                setting="--timeout",
                retry_after=5,
            ) from None
        except asyncio.CancelledError:
            if self.gate.stopping.is_set():
                raise Refusal(503, "the server is stopping", retry_after=10) from None
            raise

    def leave(self) -> None:
        """Release the place, at once or when its thread, which cannot be stopped, is done."""
        if self._work is None or self._work.done():
            self.gate.inside -= 1
        else:
            self._work.add_done_callback(self._leave_later)

    def _leave_later(self, _: object) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.leave)


@dataclass(slots=True)
class Progress:
    """Progress of a video; updated by the thread that processes it."""

    frames: int = 0
    expected: int | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """A processed video for the page."""

    frames: int
    faceless: int
    over_time: OverTime
    file: Path
    note: str | None


@dataclass(slots=True)
class Service:
    """The model with its gates and its temporary folder.

    Attributes:
        predictor: the model.
        model_name: shown on the page.
        limits: of all requests.
        folder: temporary; the caller removes it.
        faces: the default for requests.
    """

    predictor: Predictor
    model_name: str
    limits: Limits
    folder: Path
    faces: Faces = "detect"
    images: Gate = field(init=False)
    videos: Gate = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self.images = Gate("images", limits.workers, limits.waiting, limits.timeout)
        self.videos = Gate("videos", 1, limits.videos_waiting, limits.video_timeout)
        self.results.mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> Path:
        """Folder of the annotated videos."""
        return self.folder / "results"

    def stop(self) -> None:
        """Admit no more requests; videos in progress stop at the next frame."""
        self.images.stop()
        self.videos.stop()

    def predict_pixels(self, data: bytes) -> tuple[PictureResult, Pixels]:
        """Predict on an encoded image; return the result and the pixels to show.

        Raises `DataError` where it cannot be read, `Refusal` where it has too many pixels.
        """
        self._check_pixels(data)
        predictor = self.predictor
        prepared = predictor.prepare_all(
            [(data, None)], faces=self.faces, workers=1, keep_pixels=True
        )
        with closing(prepared):
            result, pixels = next(iter(predictor.classify_all(prepared, 32)))
        if result.reason is not None or pixels is None:
            raise DataError(result.reason or "the image cannot be shown")
        return result, pixels

    def predict(self, data: bytes, faces: Faces | None = None) -> dict[str, Any]:
        """Predict on an encoded image; return plain values. Raises as `predict_pixels`."""
        self._check_pixels(data)
        return self.predictor.predict(data, faces=faces or self.faces).to_dict()

    def predict_video(
        self,
        path: Path,
        faces: Faces | None = None,
        seconds: float | None = None,
        fps: float | None = None,
    ) -> dict[str, Any]:
        """Predict on the frames of a video; return plain values.

        A damaged stretch is one of the frames, with the reason and without faces. Raises
        `DataError` where it cannot be read, and `Refusal` where it is longer than allowed and
        `seconds` does not select a part of it.
        """
        reader = VideoReader(path)
        info, allowed = reader.info, self.limits.video_seconds
        wanted = seconds if seconds is not None else info.seconds
        if wanted is not None and wanted > allowed + 1:
            reader.__exit__()
            raise _too_long(wanted, allowed)
        fps = min(fps or self.limits.video_fps, self.limits.video_fps)
        found: list[dict[str, Any]] = []
        # Where the header does not state the length, the frames show it.
        for result, _ in self._frames(reader, faces, min(seconds or allowed + 1, allowed + 1), fps):
            if seconds is None and (result.time or 0.0) > allowed:
                raise _too_long(result.time or 0.0, allowed)
            found.append(result.to_dict() | {"source": None})
            if len(found) > self.limits.video_frames:
                raise Refusal(
                    413,
                    f"the video has more than {self.limits.video_frames:,} frames; request fewer "
                    "frames per second (?fps=5) or a part of the video (?seconds=10)",
                    allowed=self.limits.video_frames,
                    setting="--max-frames",
                )
        shown = next((frame for frame in found if frame["width"] is not None), {})
        size = {name: shown.get(name) for name in ("width", "height")}
        return {"fps": info.fps, **size, "frames": found}

    def annotate_video(self, path: Path, progress: Progress) -> VideoSummary:
        """Predict on as much of a video as is allowed, and write the annotated copy.

        Raises `DataError` where nothing of it can be read.
        """
        limits, reader = self.limits, VideoReader(path)
        rate, length = min(reader.info.fps, limits.video_fps), reader.info.seconds
        if length is not None:
            seconds = min(length, limits.video_seconds)
            progress.expected = max(1, min(round(seconds * rate), limits.video_frames))
        over_time, faceless, notes = OverTime(), 0, list[str]()
        target = self.results / f"{secrets.token_urlsafe(24)}{video_suffix()}"
        frames = self._frames(
            reader, None, limits.video_seconds, rate, keep_pixels=True, left=lambda: progress.stop
        )
        try:
            with AnnotatedVideo(target, rate, reader) as video, closing(frames):
                for result, pixels in frames:
                    over_time.add(result)
                    if pixels is None:
                        notes.append(result.reason or "")
                        continue
                    video.write(result, pixels)
                    faceless += not result.faces
                    progress.frames += 1
                    if progress.frames >= limits.video_frames:
                        break
            if progress.frames == 0:
                raise DataError("the video has no frames")
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        if video.fault is not None:
            notes.append(video.fault)
        if not notes and length is not None and length > over_time.end + 1:
            notes.append(
                f"The first {over_time.end:.0f} s of {length:.0f} s are shown; this server "
                f"processes at most {limits.video_seconds:g} s and {limits.video_frames:,} frames."
            )
        note = "; ".join(notes[:_MAX_NOTES]) + ("; …" if len(notes) > _MAX_NOTES else "")
        return VideoSummary(progress.frames, faceless, over_time, target, note or None)

    def _frames(
        self,
        reader: VideoReader,
        faces: Faces | None,
        seconds: float,
        fps: float,
        keep_pixels: bool = False,
        left: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[PictureResult, Pixels | None], None, None]:
        """Yield results until the server stops, the visitor has left or the time is over."""
        deadline = time.monotonic() + self.limits.video_timeout
        most = _PACKETS_PER_FRAME * self.limits.video_frames

        def stop() -> bool:
            over = time.monotonic() > deadline or reader.packets > most
            return over or self.videos.stopping.is_set() or left()

        found = predict_video(
            self.predictor,
            reader,
            faces=faces or self.faces,
            seconds=seconds,
            fps=fps if fps < reader.info.fps else None,
            keep_pixels=keep_pixels,
            stop=stop,
        )
        with closing(found):
            for item in found:
                if stop():
                    break
                yield item
        if reader.packets > most:
            raise Refusal(
                413,
                f"the video has more than {most:,} frames, too many to read; send a shorter part, "
                "or one with fewer frames per second",
                allowed=most,
                setting="--max-frames",
            )
        if stop():
            raise Refusal(503, "the video took too long, the visitor left, or the server stops")

    def _check_pixels(self, data: bytes) -> None:
        header = read_header(data)
        given, allowed = header.width * header.height, self.limits.pixels
        if given > allowed:
            raise Refusal(
                413,
                f"the image has {header.width}x{header.height}, {given:,} pixels; at most "
                f"{allowed:,} are accepted; make it smaller",
                given=given,
                allowed=allowed,
                setting="--max-pixels",
            )

    def result_file(self, name: str) -> Path | None:
        """Return the annotated video of this name, or None."""
        path = self.results / name
        return path if _RESULT.fullmatch(name) and path.is_file() else None

    def sweep(self, older_than: float = FILE_SECONDS) -> None:
        """Delete uploads and results that are older, in seconds."""
        before = time.time() - older_than
        for file in list(self.folder.rglob("*")):
            with suppress(OSError):
                if file.is_file() and file.stat().st_mtime < before:
                    file.unlink()
                elif file.is_dir() and file != self.results and not any(file.iterdir()):
                    file.rmdir()

    def forget(self, upload: Path, unless_newer: float) -> None:
        """Delete an upload of the page, unless the same file has been uploaded again since.

        Gradio names an upload's folder by its content, so two visitors may send the same file.
        """
        with suppress(OSError):
            if upload.is_relative_to(self.folder) and upload.stat().st_mtime <= unless_newer:
                upload.unlink()
                upload.parent.rmdir()


def _too_long(given: float, allowed: float) -> Refusal:
    return Refusal(
        413,
        f"the video has {given:.0f} s; at most {allowed:g} s are processed; request a part of it: "
        f"?seconds={allowed:g}",
        given=round(given, 1),
        allowed=allowed,
        setting="--max-seconds",
    )
