"""What the server admits: limits, refusals, and queues of a bounded length."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

R = TypeVar("R")


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
        streams: live streams, each with one frame at a time.
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
    streams: int = 16
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
