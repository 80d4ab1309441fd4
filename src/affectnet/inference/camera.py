"""Cameras, by OpenCV."""

import time as clock
from collections.abc import Callable, Generator
from typing import Any

import cv2
import numpy as np

from affectnet.errors import DataError
from affectnet.inference.video_reader import Frame, Thinning, VideoInfo


class Camera:
    """Reads a camera frame by frame; a context manager, used as `VideoReader`.

    Args:
        number: of the camera, from 0.

    Raises `DataError` where it cannot be opened.
    """

    start = 0.0

    def __init__(self, number: int) -> None:
        log: Any = cv2.utils.logging
        level = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)  # affectnet reports errors itself
        self._capture = cv2.VideoCapture(number)
        log.setLogLevel(level)
        if not self._capture.isOpened():
            raise DataError(
                f"there is no camera {number} that can be opened; the page of `affectnet serve` "
                "uses the browser's"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.info = VideoInfo(
            fps if 0.1 <= fps <= 1000 else 25.0,
            None,
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(
        self,
        *,
        stride: int = 1,
        fps: float | None = None,
        seconds: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[Frame, None, None]:
        """Yield the frames with the times at which they come; see `VideoReader.frames`."""
        selected, number, start = Thinning(stride, fps), 0, clock.monotonic()
        while not stop() and self._capture.grab():
            time = clock.monotonic() - start
            if seconds is not None and time >= seconds:
                return
            if selected(number, time):
                whole, frame = self._capture.retrieve()
                if whole and frame is not None and frame.size:
                    grey = frame.ndim == 2
                    way = cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB
                    yield Frame(number, time, np.asarray(cv2.cvtColor(frame, way), np.uint8))
            number += 1
        if number == 0 and not stop():
            raise DataError("no frame can be read")
