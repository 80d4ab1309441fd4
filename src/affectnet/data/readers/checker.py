"""Decoding of every image by threads, while the source is being read."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from affectnet.data.images import count_pixels, decode_image
from affectnet.data.readers.part import TRUNCATED, UNDECODABLE
from affectnet.data.readers.tarscan import HELD, Block
from affectnet.errors import DataError
from affectnet.threads import cores

_BYTES_A_TASK = 1 << 20
_LARGE = 4_000_000

Problem = tuple[str, str]
"""Reason and detail of a drop."""


class ImageChecker:
    """Threads that decode images of blocks, and give each block back once that is done.

    A context manager: leaving it waits for the threads.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(cores(), "check-image")
        self._held: deque[tuple[Block, list[Future[None]]]] = deque()
        self._one_large = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def check(self, block: Block, images: list[tuple[int, Callable[[str, str], None]]]) -> None:
        """Start on a block: `images` are indexes into it, with what to call on a fault."""
        tasks, group, size = [], [], 0
        for entry in images:
            group.append(entry)
            size += block.sizes[entry[0]]
            if size >= _BYTES_A_TASK:
                tasks.append(self._pool.submit(self._decode, block, group))
                group, size = [], 0
        if group:
            tasks.append(self._pool.submit(self._decode, block, group))
        if not tasks and not self._held:
            block.release()
            return
        self._held.append((block, tasks))
        while len(self._held) >= HELD:
            self._settle()

    def finish(self) -> None:
        """Wait for everything started."""
        while self._held:
            self._settle()

    def _settle(self) -> None:
        block, tasks = self._held.popleft()
        for task in tasks:
            task.result()
        block.release()

    def _decode(self, block: Block, images: list[tuple[int, Callable[[str, str], None]]]) -> None:
        for i, fault in images:
            start = block.starts[i]
            problem = self._problem(block.data[start : start + block.sizes[i]])
            if problem is not None:
                fault(*problem)

    def _problem(self, data: memoryview) -> Problem | None:
        if not len(data):
            return UNDECODABLE, "an empty file"
        try:
            if count_pixels(data) > _LARGE:
                with self._one_large:  # a few hundred megabytes each: not one in every thread
                    decode_image(data)
            else:
                decode_image(data)
        except DataError as error:
            detail = str(error).removeprefix("the image cannot be decoded: ")
            return (TRUNCATED if ends_early(data) else UNDECODABLE), detail
        return None


def ends_early(data: memoryview) -> bool:
    """Whether a JPEG or PNG lacks its end marker, the sign of a file cut short."""
    head, tail = bytes(data[:8]), bytes(data[-1024:])
    if head[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in tail
    return head == b"\x89PNG\r\n\x1a\n" and b"IEND" not in tail
