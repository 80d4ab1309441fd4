"""Live streams: frames of a browser's camera, one request each, with numbers of persons over time.

A stream has one frame in progress at a time, and an address as many as there are threads, so a
client with many streams waits for itself. Streams are forgotten some seconds after their last
frame. Beyond the most that are allowed, a new one takes the place of the oldest one of the address
that has the most.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

from affectnet.data.images import as_pixels, read_header
from affectnet.inference.pipeline import Faces, Pipeline
from affectnet.inference.result_files import FILM_COLUMNS, FORMATS
from affectnet.inference.results import PictureResult
from affectnet.inference.video import FrameByFrame
from affectnet.inference.video_reader import Frame
from affectnet.serve.overlay import boxes_svg, points_svg
from affectnet.serve.places import Gate, Limits, Refusal

FRAME_PIXELS: Final = 1920 * 1200
"""Of a frame at most; the page sends 640 x 480."""
MOST_BOXES: Final = 60
"""Faces that are drawn in a frame at most; all are in the result."""
IDLE_SECONDS: Final = 10.0
"""After which a stream without frames is forgotten."""


class _Stream:
    def __init__(self, predict: FrameByFrame) -> None:
        self.predict = predict
        self.last, self.time, self.frames = time.monotonic(), -1.0, 0
        self.busy = False
        self.lock = threading.Lock()


class Streams:
    """The live streams of a server. Used from one event loop.

    Args:
        predictor: the model.
        limits: of all requests.
        faces: as in `predict_video`.
    """

    def __init__(self, predictor: Pipeline, limits: Limits, faces: Faces) -> None:
        self.most = limits.streams
        self.gate = Gate("frames", limits.workers, limits.streams, limits.timeout)
        self._predictor, self._faces = predictor, faces
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def predict(self, name: str, at: float, address: str, data: bytes) -> dict[str, Any]:
        """Predict on the next frame of a stream.

        Args:
            name: of the stream, chosen by the client; a new one begins a stream.
            at: seconds since the stream's beginning; later than in the frame before.
            address: of the client.
            data: the encoded frame.

        Returns:
            The result as plain values, and how the page shows it.

        Raises `Refusal`, and `DataError` where the frame cannot be read.
        """
        turns = self._turns.setdefault(address, asyncio.Semaphore(self.gate.workers))
        with self._frame(name, at, address) as stream:
            async with turns, self.gate.place() as place:
                return await place.run(_predict, stream, at, data)

    def __len__(self) -> int:
        return len(self._streams)

    @contextmanager
    def _frame(self, name: str, at: float, address: str) -> Iterator[_Stream]:
        """Find or begin the stream, which is busy meanwhile."""
        stream = self._streams.get((address, name))
        if stream is None:
            self._make_room(address)
            stream = _Stream(FrameByFrame(self._predictor, faces=self._faces))
            self._streams[address, name] = stream
        if stream.busy:
            raise Refusal(
                429, "the frame before is still being processed; wait for its response", allowed=1
            )
        if at <= stream.time:
            raise Refusal(
                422,
                f"the time of the frame is {at:g} s, and that of the frame before was "
                f"{stream.time:g} s; send times that increase, or begin a stream of another name",
            )
        stream.busy = True
        try:
            yield stream
        finally:
            stream.busy, stream.last = False, time.monotonic()

    def _make_room(self, address: str) -> None:
        """Forget idle streams and, if there are too many, another one.

        Raises `Refusal` (503) where no address has more streams than this one.
        """
        now = time.monotonic()
        self._streams = {
            key: stream
            for key, stream in self._streams.items()
            if stream.busy or now - stream.last < IDLE_SECONDS
        }
        if len(self._streams) < self.most:
            return
        counts = Counter(address for address, _ in self._streams)
        busiest, most = counts.most_common(1)[0]
        if counts[address] + 1 >= most:
            raise Refusal(
                503,
                f"the server is busy: {len(self._streams)} live streams are open, which is the "
                "maximum; try again in a moment",
                given=len(self._streams) + 1,
                allowed=self.most,
                setting="--streams",
                retry_after=5,
            )
        del self._streams[next(key for key in self._streams if key[0] == busiest)]


def _predict(stream: _Stream, at: float, data: bytes) -> dict[str, Any]:
    header = read_header(data)
    if header.width * header.height > FRAME_PIXELS:
        raise Refusal(
            413,
            f"the frame has {header.width}x{header.height} pixels; at most {FRAME_PIXELS:,} are "
            "accepted in a stream; make it smaller",
            given=header.width * header.height,
            allowed=FRAME_PIXELS,
        )
    pixels = as_pixels(data)
    with stream.lock:  # a frame that took too long may still be in progress
        result = stream.predict(Frame(stream.frames, at, pixels))
        stream.time, stream.frames = at, stream.frames + 1
    return result.to_dict() | shown(result)


def shown(result: PictureResult) -> dict[str, str]:
    """Return how the page shows a frame, and its rows of a CSV file without the first line."""
    width, height = result.width or 1, result.height or 1
    csv = FORMATS[".csv"](FILM_COLUMNS).encode(result).decode()
    return {
        "boxes": boxes_svg(result.faces[:MOST_BOXES], width, height),
        "points": points_svg(result.faces),
        "csv": csv,
    }
