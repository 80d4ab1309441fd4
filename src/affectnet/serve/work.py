"""The work behind the page and the HTTP API: prediction within the limits, and its files."""

import re
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from affectnet.data.images import Pixels, read_header
from affectnet.errors import DataError
from affectnet.inference.annotated_video import AnnotatedVideo, video_suffix
from affectnet.inference.pipeline import Faces
from affectnet.inference.predictor import Predictor
from affectnet.inference.result_files import ResultWriter
from affectnet.inference.results import PictureResult
from affectnet.inference.tracks import OverTime
from affectnet.inference.video import predict_video
from affectnet.inference.video_reader import VideoReader
from affectnet.serve.live import Streams
from affectnet.serve.places import Gate, Limits, Refusal
from affectnet.serve.sample import write_sample

FILE_SECONDS: Final = 600.0
"""Age at which unread uploads and annotated videos are deleted."""
MISSING: Final = (
    "the web page needs gradio, which is not installed; install it with: "
    "pip install 'affectnet[serve]'"
)
_RESULT = re.compile(r"[\w-]{20,60}\.(mp4|webm|csv|json)")
_MAX_NOTES = 5
_PACKETS_PER_FRAME = 10


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
    tables: tuple[Path, ...]
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
    streams: Streams = field(init=False)
    _sampling: Any = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        limits = self.limits
        self.images = Gate("images", limits.workers, limits.waiting, limits.timeout)
        self.videos = Gate("videos", 1, limits.videos_waiting, limits.video_timeout)
        self.streams = Streams(self.predictor, limits, self.faces)
        self.results.mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> Path:
        """Folder of the annotated videos and their tables."""
        return self.folder / "results"

    def stop(self) -> None:
        """Admit no more requests; videos in progress stop at the next frame."""
        self.images.stop()
        self.videos.stop()
        self.streams.gate.stop()

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
        tables = tuple(target.with_suffix(suffix) for suffix in (".csv", ".json"))
        frames = self._frames(
            reader, None, limits.video_seconds, rate, keep_pixels=True, left=lambda: progress.stop
        )
        try:
            with ExitStack() as stack:
                video = stack.enter_context(AnnotatedVideo(target, rate, reader))
                writers = [stack.enter_context(ResultWriter(table)) for table in tables]
                stack.enter_context(closing(frames))
                for result, pixels in frames:
                    over_time.add(result)
                    for writer in writers:
                        writer.write(result)
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
            for file in (target, *tables):
                file.unlink(missing_ok=True)
            raise
        if video.fault is not None:
            notes.append(video.fault)
        if not notes and length is not None and length > over_time.end + 1:
            notes.append(
                f"The first {over_time.end:.0f} s of {length:.0f} s are shown; this server "
                f"processes at most {limits.video_seconds:g} s and {limits.video_frames:,} frames."
            )
        note = "; ".join(notes[:_MAX_NOTES]) + ("; …" if len(notes) > _MAX_NOTES else "")
        return VideoSummary(progress.frames, faceless, over_time, target, tables, note or None)

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
        """Return the annotated video or table of this name, or None."""
        path = self.results / name
        return path if _RESULT.fullmatch(name) and path.is_file() else None

    def sample(self) -> Path:
        """Return the sample video, which is made where there is none."""
        path = self.results / f"sample{video_suffix()}"
        with self._sampling:
            if not path.is_file():
                write_sample(path)
            path.touch()  # not to be swept away while it is watched
        return path

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
