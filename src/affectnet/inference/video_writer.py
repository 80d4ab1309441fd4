"""Annotated videos: drawn and encoded in a thread of their own while the next frames are read."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import cv2

from affectnet.data.images import Pixels
from affectnet.errors import ConfigError, DataError
from affectnet.inference.detector import quiet_opencv
from affectnet.inference.drawing import Traces, annotate
from affectnet.inference.results import PictureResult
from affectnet.threads import Background

CODECS: Final = {".webm": "VP80", ".mp4": "mp4v"}
"""VP8 plays in every browser. MPEG-4 part 2 is encoded ten times as fast and plays in desktop
players only. OpenCV's wheels carry no H.264 encoder, and VP9 takes five times as long as VP8."""
LARGEST_SIDES: Final = {".webm": 1280, ".mp4": 2048}
"""Long side of the frames at most, in pixels; encoding would take most of the time above."""
_DEPTH = 4
_LONGEST_GAP = 2.0


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Close stderr to C code for a moment: OpenCV's remark on VP8's tag obeys no log level."""
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


class AnnotatedVideo:
    """Writes a video with the faces drawn in; a context manager.

    The frame rate is constant; frames are repeated or left out so that every frame stands at its
    time, also where the source's rate varies. Sound is not copied.

    Args:
        path: the file, which ends in one of `CODECS`.
        fps: frames a second.

    Raises `ConfigError` for another ending.
    """

    def __init__(self, path: Path, fps: float) -> None:
        kind = path.suffix.lower()
        if kind not in CODECS:
            raise ConfigError(f"{path}: an annotated video ends in {' or '.join(CODECS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.fps = path, fps
        self._codec, self._largest = CODECS[kind], LARGEST_SIDES[kind]
        self._traces = Traces()
        self._writer: Any = None
        self._size = (0, 0)
        self._start: float | None = None
        self._written = 0
        self._last: Any = None
        self._background = Background(self._draw, _DEPTH)

    def write(self, result: PictureResult, pixels: Pixels) -> None:
        """Hand over the next frame; waits while several wait already."""
        self._background.submit((result, pixels))

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._background.__exit__(kind, error, trace)
        finally:
            if self._writer is not None:
                self._writer.release()

    def _draw(self, item: tuple[PictureResult, Pixels]) -> None:
        result, pixels = item
        self._traces.add(result)
        drawn: Any = annotate(pixels, result, self._traces, largest=self._largest)
        if self._writer is None:
            # Encoders of 4:2:0 want even sides.
            self._size = (max(2, drawn.shape[1] // 2 * 2), max(2, drawn.shape[0] // 2 * 2))
            self._writer = self._open()
        time = result.time or 0.0
        if self._start is None:
            self._start = time
        due = math.floor((time - self._start) * self.fps + 0.5) + 1 - self._written
        if due <= 0:
            return
        if drawn.shape[1::-1] != self._size:
            drawn = cv2.resize(drawn, self._size, interpolation=cv2.INTER_AREA)
        frame = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
        longest = max(1, round(_LONGEST_GAP * self.fps))
        for _ in range(min(due - 1, longest)):
            self._writer.write(self._last)
        self._writer.write(frame)
        self._last = frame
        self._written += due

    def _open(self) -> Any:
        with quiet_opencv(), _no_stderr():
            writer = cv2.VideoWriter(
                str(self.path),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter.fourcc(*self._codec),
                self.fps,
                self._size,
            )
        if not writer.isOpened():
            raise DataError(f"the annotated video {self.path} cannot be written")
        return writer
