"""The work behind the page and the HTTP API: the same model, the same limits, for both."""

import re
import secrets
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from affectnet.data.images import Pixels, read_header
from affectnet.errors import DataError
from affectnet.inference.drawing import AnnotatedVideo
from affectnet.inference.pipeline import Faces
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
from affectnet.inference.tracks import OverTime
from affectnet.inference.video import VideoReader, predict_video
from affectnet.serve.limits import Gate, Limits, Refusal

KEPT_SECONDS: Final = 600.0
"""Uploads that were never looked at, and annotated videos, are deleted after this."""
_RESULT = re.compile(r"[\w-]{20,60}\.webm")


@dataclass(slots=True)
class Progress:
    """How far a video is; written by the thread that works on it."""

    frames: int = 0
    expected: int | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class VideoLook:
    """A video looked at for the page."""

    frames: int
    faceless: int
    over_time: OverTime
    file: Path
    note: str | None


@dataclass(slots=True)
class Studio:
    """The model with its gates and its temporary folder.

    Attributes:
        predictor: the model.
        model_name: what it is called on the page.
        limits: of everything that comes in.
        folder: temporary; whoever makes the studio removes it.
        faces: what is done where a request does not say.
    """

    predictor: Predictor
    model_name: str
    limits: Limits
    folder: Path
    faces: Faces = "detect"
    pictures: Gate = field(init=False)
    videos: Gate = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self.pictures = Gate("pictures", limits.workers, limits.waiting, limits.timeout)
        self.videos = Gate("videos", 1, limits.videos_waiting, limits.video_timeout)
        self.results.mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> Path:
        """Folder of the annotated videos."""
        return self.folder / "results"

    def stop(self) -> None:
        """Take nothing more; videos in work end with the next frame."""
        self.pictures.stop()
        self.videos.stop()

    def look(self, data: bytes, faces: Faces | None = None) -> tuple[PictureResult, Pixels]:
        """Predict on an encoded picture; return the result and the pixels to show.

        Raises `DataError` where it cannot be read, `Refusal` where it has too many pixels.
        """
        self._check_pixels(data)
        predictor = self.predictor
        prepared = predictor.prepare_all(
            [(data, None)], faces=faces or self.faces, workers=1, keep_pixels=True
        )
        with closing(prepared):
            result, pixels = next(iter(predictor.classify_all(prepared, 32)))
        if result.reason is not None or pixels is None:
            raise DataError(result.reason or "the picture cannot be shown")
        return result, pixels

    def predict(self, data: bytes, faces: Faces | None = None) -> dict[str, Any]:
        """Predict on an encoded picture; plain values. Raises as `look`."""
        self._check_pixels(data)
        return self.predictor.predict(data, faces=faces or self.faces).to_dict()

    def predict_video(
        self,
        path: Path,
        faces: Faces | None = None,
        seconds: float | None = None,
        fps: float | None = None,
    ) -> dict[str, Any]:
        """Predict on a video's frames; plain values.

        Raises `DataError` where it cannot be read, and `Refusal` where it is longer than allowed
        and `seconds` does not ask for a part of it.
        """
        reader = VideoReader(path)
        info, allowed = reader.info, self.limits.video_seconds
        length = None if info.frames is None else info.frames / info.fps
        wanted = seconds if seconds is not None else length
        if wanted is not None and wanted > allowed + 1:
            reader.__exit__()
            raise _too_long(wanted, allowed)
        fps = min(fps or self.limits.video_fps, self.limits.video_fps)
        found: list[dict[str, Any]] = []
        # Where the header does not tell the length, the frames do.
        for result, _ in self._frames(reader, faces, min(seconds or allowed + 1, allowed + 1), fps):
            if seconds is None and (result.time or 0.0) > allowed:
                raise _too_long(result.time or 0.0, allowed)
            found.append(result.to_dict() | {"source": None})
            if len(found) > self.limits.video_frames:
                raise Refusal(
                    413,
                    f"the video has more than {self.limits.video_frames:,} frames to look at; ask "
                    "for fewer of a second (?fps=5) or for a part of it (?seconds=10)",
                    allowed=self.limits.video_frames,
                    setting="--max-frames",
                )
        return {"fps": info.fps, "width": info.width, "height": info.height, "frames": found}

    def look_at_video(self, path: Path, progress: Progress) -> VideoLook:
        """Predict on as much of a video as is allowed, and write the annotated copy.

        Raises `DataError` where nothing of it can be read.
        """
        limits = self.limits
        reader = VideoReader(path)
        rate = min(reader.info.fps, limits.video_fps)
        expected = reader.info.frames
        if expected is not None:
            seconds = min(expected / reader.info.fps, limits.video_seconds)
            progress.expected = max(1, min(round(seconds * rate), limits.video_frames))
        over_time, faceless, note = OverTime(), 0, None
        target = self.results / f"{secrets.token_urlsafe(24)}.webm"
        try:
            with AnnotatedVideo(target, rate) as video:
                try:
                    frames = self._frames(
                        reader, None, limits.video_seconds, rate, keep_pixels=True
                    )
                    with closing(frames):
                        for result, pixels in frames:
                            if progress.stop:
                                raise Refusal(503, "nobody waits for the video any more")
                            if pixels is not None:
                                video.write(result, pixels)
                            over_time.add(result)
                            faceless += not result.faces
                            progress.frames += 1
                            if progress.frames >= limits.video_frames:
                                break
                except DataError as error:  # what could be read is shown
                    if progress.frames == 0:
                        raise
                    note = str(error)
        except BaseException:
            video.path.unlink(missing_ok=True)
            raise
        if progress.frames == 0:
            video.path.unlink(missing_ok=True)
            raise DataError("the video has no frames")
        length = None if expected is None else expected / reader.info.fps
        if note is None and length is not None and length > over_time.end + 1:
            note = (
                f"The first {over_time.end:.0f} s of {length:.0f} s are shown; this server looks "
                f"at no more than {limits.video_seconds:g} s and {limits.video_frames:,} frames."
            )
        return VideoLook(progress.frames, faceless, over_time, video.path, note)

    def _frames(
        self,
        reader: VideoReader,
        faces: Faces | None,
        seconds: float,
        fps: float,
        keep_pixels: bool = False,
    ) -> Generator[tuple[PictureResult, Pixels | None], None, None]:
        """Yield results, until the server stops or the time is over."""
        deadline = time.monotonic() + self.limits.video_timeout
        found = predict_video(
            self.predictor,
            reader,
            faces=faces or self.faces,
            seconds=seconds,
            fps=fps if fps < reader.info.fps else None,
            keep_pixels=keep_pixels,
        )
        with closing(found):
            for item in found:
                if self.videos.stopping.is_set() or time.monotonic() > deadline:
                    raise Refusal(503, "the video took too long, or the server is stopping")
                yield item

    def _check_pixels(self, data: bytes) -> None:
        header = read_header(data)
        given, allowed = header.width * header.height, self.limits.pixels
        if given > allowed:
            raise Refusal(
                413,
                f"the picture has {header.width}x{header.height}, {given:,} pixels; at most "
                f"{allowed:,} are taken; make it smaller",
                given=given,
                allowed=allowed,
                setting="--max-pixels",
            )

    def kept(self, name: str) -> Path | None:
        """Return the annotated video of this name, or None."""
        path = self.results / name
        return path if _RESULT.fullmatch(name) and path.is_file() else None

    def sweep(self, older_than: float = KEPT_SECONDS) -> None:
        """Delete uploads and results that are older, in seconds."""
        before = time.time() - older_than
        for file in list(self.folder.rglob("*")):
            with suppress(OSError):
                if file.is_file() and file.stat().st_mtime < before:
                    file.unlink()
                elif file.is_dir() and file != self.results and not any(file.iterdir()):
                    file.rmdir()

    def forget(self, upload: Path, unless_newer: float) -> None:
        """Delete an upload of the page, unless the same has come in again since.

        Gradio names an upload's folder by its content, so two visitors may send the same file.
        """
        with suppress(OSError):
            if upload.is_relative_to(self.folder) and upload.stat().st_mtime <= unless_newer:
                upload.unlink()
                upload.parent.rmdir()


def _too_long(given: float, allowed: float) -> Refusal:
    return Refusal(
        413,
        f"the video has {given:.0f} s; at most {allowed:g} s are looked at; ask for a part of it: "
        f"?seconds={allowed:g}",
        given=round(given, 1),
        allowed=allowed,
        setting="--max-seconds",
    )
