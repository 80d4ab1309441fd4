"""Annotated videos: drawn and encoded in a thread of their own while the next frames are read."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import cv2

from affectnet.errors import DataError
from affectnet.inference.annotate import Traces, annotate
from affectnet.inference.faces import quiet_opencv
from affectnet.inference.images import Pixels
from affectnet.inference.results import PictureResult
from affectnet.inference.stages import Background

CODEC: Final = "mp4v"
"""MPEG-4 part 2: OpenCV's wheels carry no H.264 encoder, and VP9 takes twenty times as long."""
_DEPTH = 4
_LONGEST_GAP = 2.0


class AnnotatedVideo:
    """Writes an MP4 with the faces drawn in; a context manager.

    The frame rate is constant; frames are repeated or left out so that every frame stands at its
    time, also where the source's rate varies. Sound is not copied.

    Args:
        path: the file, which ends in `.mp4`.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.fps = path, fps
        self._traces = Traces()
        self._writer: Any = None
        self._size = (0, 0)
        self._start: float | None = None
        self._written = 0
        self._last: Any = None
        self._background = Background(self._draw, _DEPTH)

    def write(self, result: PictureResult, pixels: Pixels) -> None:
        """Hand over the next frame; waits while several wait already."""
        self._background.give((result, pixels))

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
        drawn: Any = annotate(pixels, result, self._traces)
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
        with quiet_opencv():
            writer = cv2.VideoWriter(
                str(self.path),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter.fourcc(*CODEC),
                self.fps,
                self._size,
            )
        if not writer.isOpened():
            raise DataError(f"the annotated video {self.path} cannot be written")
        return writer
