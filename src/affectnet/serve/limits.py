"""What the web page and the HTTP API accept, and the bounded queue in front of the model."""

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
    """What is accepted; everything beyond is refused with the figure and the setting.

    Attributes:
        picture_bytes, video_bytes: of an upload.
        pixels: of a picture, told from its header.
        video_seconds, video_frames: of a video that are looked at.
        video_fps: frames of a second of video that are looked at, at most.
        workers: pictures that are worked on at the same time; videos come one by one.
        waiting: requests that may wait beside those; videos: `videos_waiting`.
        timeout, video_timeout: seconds for one request, waiting included.
    """

    picture_bytes: int = 20 * 2**20
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
    """A request that is turned away.

    Args:
        status: of the HTTP answer.
        message: what was given, what is allowed and what to do.
        given, allowed: the figures, where there are any.
        setting: the flag that changes the limit.
        retry_after: seconds after which another try makes sense.
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
        told = {"given": self.given, "allowed": self.allowed, "setting": self.setting}
        return {"error": str(self)} | {name: v for name, v in told.items() if v is not None}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the HTTP answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def too_large(given: int | None, allowed: int, setting: str) -> Refusal:
    """Return the refusal of an upload; `given` is None where its end was not waited for."""
    said = "more" if given is None else f"{given:,} bytes"
    return Refusal(
        413,
        f"the upload has {said}; at most {allowed:,} bytes are taken; send a smaller file, or "
        f"start the server with a larger {setting}",
        given=given,
        allowed=allowed,
        setting=setting,
    )


class Gate:
    """Lets a bounded number of requests in, and a few of them at a time at the model.

    Args:
        what: the word for what it lets in, in messages.
        workers: how many are worked on at the same time.
        waiting: how many may wait beside them.
        timeout: seconds from admission to the answer.

    Used from one event loop.
    """

    def __init__(self, what: str, workers: int, waiting: int, timeout: float) -> None:
        self.what, self.workers, self.waiting, self.timeout = what, workers, waiting, timeout
        self.inside = 0
        self.stopping = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"affectnet-{what}")

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        """Take a place for the time of a request; raises `Refusal` (503) where none is free."""
        if self.stopping.is_set():
            raise Refusal(503, "the server is stopping", retry_after=10)
        allowed = self.workers + self.waiting
        if self.inside >= allowed:
            raise Refusal(
                503,
                f"the server is busy: {self.inside} {self.what} are worked on or waiting, which is "
                "as many as it takes; try again in a moment",
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
        """Let nobody in any more, and drop those that wait."""
        self.stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


class Place:
    """One request's place inside a gate; it is free again when its work has really ended."""

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self.gate, self.loop = gate, loop
        self.deadline = loop.time() + gate.timeout
        self._work: Future[Any] | None = None

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """Run the function in a thread when its turn comes; `Refusal` (503) beyond the timeout."""
        future = self.gate._pool.submit(function, *args)
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
        """Give the place back, at once or when the thread that cannot be stopped is done."""
        if self._work is None or self._work.done():
            self.gate.inside -= 1
        else:
            self._work.add_done_callback(self._leave_later)

    def _leave_later(self, _: object) -> None:
        def leave() -> None:
            self.gate.inside -= 1

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(leave)
