"""Thread pipelines of bounded memory: `overlap`, `ordered_map` and `Background`.

Decoding, detection, hashing and the model all release Python's lock while they compute, so threads
use all cores. Each function bounds how far a thread runs ahead, so memory does not depend on the
length of the stream. Errors raised in a thread are raised again in the caller's.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Self, TypeVar

from affectnet.errors import ConfigError, hold_signals

T = TypeVar("T")
R = TypeVar("R")

_END: Any = object()
_PATIENCE = 2.0
"""Seconds for which Ctrl-C waits for threads, which would else use what is closed under them; after
that a second Ctrl-C leaves them alone."""


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_fork(process: int) -> None:
    """Raise `ConfigError` in a process that was forked from `process`, which loaded a model.

    A fork copies no threads, so the model would wait for its own for ever.
    """
    if os.getpid() != process:
        raise ConfigError(
            "the predictor was loaded before this process was forked, and would hang here; start "
            'processes by multiprocessing.get_context("spawn"), which can be given a predictor, or '
            "load it in each process"
        )


def overlap(
    items: Iterable[T], depth: int, halt: Callable[[], object] = lambda: None
) -> Generator[T, None, None]:
    """Yield the items, which one thread produces while the caller works on the previous ones.

    At most `depth` items wait. Closing the generator calls `halt`, which may make `items` end
    early, waits for the item that is being produced, and closes `items`.
    """
    source = iter(items)
    thread = _Thread()
    pending: deque[Future[T]] = deque()
    try:
        for _ in range(depth + 1):
            pending.append(thread.submit(next, source, _END))
        while (item := pending.popleft().result()) is not _END:
            pending.append(thread.submit(next, source, _END))
            yield item
    finally:
        with hold_signals(_PATIENCE):
            halt()
            for future in pending:
                future.cancel()
            thread.stop()
            _close(source)


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    ahead: int | None = None,
    cost: Callable[[T], float] | None = None,
) -> Generator[R, None, None]:
    """Yield function(item) in the order of the items, computed by several threads.

    The items themselves are taken in the caller's thread.

    Args:
        workers: threads; one per core where None.
        ahead: results that wait or are being computed, at most; twice `workers` where None.
        cost: how much of `ahead` an item takes; 1 where None.
    """
    workers = workers or cores()
    ahead = ahead or 2 * workers
    pending: deque[tuple[Future[R], float]] = deque()
    source = iter(items)
    pool = ThreadPoolExecutor(workers)
    total: float = 0
    try:
        for item in source:
            price = 1 if cost is None else cost(item)
            pending.append((pool.submit(function, item), price))
            total += price
            while total >= ahead:
                future, price = pending.popleft()
                total -= price
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        with hold_signals(_PATIENCE):
            pool.shutdown(cancel_futures=True)
            _close(source)


class Background(Generic[T]):
    """Calls `function` on each submitted item, in order, in one thread.

    A context manager: leaving it waits for the last item. An error of the function is raised by a
    later `submit` or on leaving; items after the one that failed are skipped.

    Args:
        depth: items that wait for the thread, at most. With 0, `submit` returns only when the item
            before has been processed, so that two buffers suffice for any number of items.
    """

    def __init__(self, function: Callable[[T], object], depth: int) -> None:
        self._function, self._depth = function, depth
        self._pending: deque[Future[None]] = deque()
        self._thread = _Thread()
        self._failed = False

    def submit(self, item: T) -> None:
        """Hand over one item; waits while `depth` items wait already."""
        while self._pending and (self._pending[0].done() or len(self._pending) > self._depth):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._run, item))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with hold_signals(_PATIENCE):
            self._thread.stop()
        for future in self._pending:
            future.result()

    def _run(self, item: T) -> None:
        if self._failed:
            return
        try:
            self._function(item)
        except BaseException:
            self._failed = True
            raise


class _Thread:
    """A thread that calls functions in order.

    It is a daemon, unlike the threads of an executor: a program can end while the thread waits for
    a camera or a disk.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put(partial(_call, future, function, args))
        return future

    def stop(self) -> None:
        """Wait until everything that was submitted has been called."""
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # while it waits, it holds no item


def _call(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)


def _close(source: Any) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()
