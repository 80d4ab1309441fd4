"""Stages of work that overlap: threads, joined by queues of bounded length.

Decoding, detection and the model all leave Python's lock alone while they compute, so threads keep
all cores at work; the bounds keep the memory constant however long the stream is.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END: Any = object()
_PATIENCE = 0.1
"""Seconds between two looks at whether the other side has gone."""


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def overlap(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield the items, produced in a thread of their own, at most `depth` ahead of the consumer.

    What the producer raises is raised here. Where the consumer stops early, the producer is closed.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    failed: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        source = iter(items)
        try:
            for item in source:
                if not put(item):
                    break
        except BaseException as error:  # handed over to the consumer
            failed.append(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            put(_END)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item
        if failed:
            raise failed[0]
    finally:
        stop.set()
        thread.join()


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Generator[R, None, None]:
    """Yield function(item) in the order of the items, computed by `workers` threads.

    At most `ahead` results wait or are being computed at any time.
    """
    pending: deque[Future[R]] = deque()
    source = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        for item in source:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(source, "close", None)
        if close is not None:
            close()


class Background(Generic[T]):
    """Runs `function` over what is given to it, in order, in one thread.

    A context manager: leaving it waits for the last item. What the function raises is raised by the
    next `give`, or on leaving; after that nothing more is done.
    """

    def __init__(self, function: Callable[[T], object], depth: int) -> None:
        self._function = function
        self._waiting: queue.Queue[Any] = queue.Queue(depth)
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def give(self, item: T) -> None:
        """Hand over one item; waits while `depth` items wait already."""
        if self._failed:
            raise self._failed.pop()
        self._waiting.put(item)

    def __enter__(self) -> "Background[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if self._failed:
            raise self._failed.pop()

    def _work(self) -> None:
        broken = False
        while (item := self._waiting.get()) is not _END:
            if broken:
                continue  # the giver must never wait for ever
            try:
                self._function(item)
            except BaseException as error:  # handed over to the giver
                self._failed.append(error)
                broken = True
