"""Threads that keep the order, hand over errors, stop when asked, and stay within their bounds."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from affectnet.errors import raise_on_signals
from affectnet.threads import Background, ordered_map, overlap


def counted(n: int, made: list[int]) -> Iterator[int]:
    try:
        for i in range(n):
            made.append(i)
            yield i
    finally:
        made.append(-1)


def test_overlap_keeps_order_and_bound() -> None:
    made: list[int] = []
    items = overlap(counted(100, made), 3)
    for i, item in enumerate(items):
        assert item == i
        if i < 90:
            assert len(made) <= i + 1 + 3 + 2
    assert made[-1] == -1


def test_the_producers_error_reaches_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = overlap(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


@pytest.mark.parametrize(
    "use",
    [
        "items = overlap(source(), 2); print(next(items))",
        "items = overlap(source(), 2); print(next(items)); raise ValueError",
        "background = Background(lambda _: event.wait(), 2); background.submit(0); print(0)",
    ],
)
def test_a_program_can_end_while_a_thread_is_blocked(use: str) -> None:
    code = f"""
import threading
from affectnet.threads import Background, overlap
event = threading.Event()
def source():
    yield 0
    event.wait()
{use}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "0\n"
    assert done.returncode == ("raise" in use)


@pytest.mark.parametrize("way", ["overlap", "map"])
def test_stopping_early_closes_the_producer(way: str) -> None:
    made: list[int] = []
    source = counted(10**6, made)
    items = overlap(source, 2) if way == "overlap" else ordered_map(abs, source, 2, 4)
    assert next(items) == 0
    before = threading.active_count()
    items.close()
    assert made[-1] == -1
    assert len(made) < 20
    assert threading.active_count() <= before


def test_ordered_map_keeps_order_and_bound() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def work(i: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002 * (i % 3))
        with lock:
            running[0] -= 1
        return i * i

    made: list[int] = []
    for i, square in enumerate(ordered_map(work, counted(60, made), 4, ahead=6)):
        assert square == i * i
        assert len([m for m in made if m >= 0]) <= i + 6
    assert 1 < most[0] <= 4


def test_ordered_map_limits_the_sum_of_costs() -> None:
    made: list[int] = []
    costs = [1, 1, 5, 1, 1, 1, 1, 9, 1, 1]
    results = ordered_map(costs.__getitem__, counted(10, made), 2, 6, cost=costs.__getitem__)
    for i, result in enumerate(results):
        assert result == costs[i]
        assert sum(costs[i + 1 : len(made) - 1]) < 6


def test_ordered_map_hands_over_errors_at_their_place() -> None:
    results = ordered_map(lambda i: 6 // (3 - i), range(9), 2, 4)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_background_works_in_order_and_waits_at_the_end() -> None:
    done: list[int] = []

    def work(i: int) -> None:
        time.sleep(0.001)
        done.append(i)

    with Background(work, 2) as background:
        for i in range(20):
            background.submit(i)
    assert done == list(range(20))


def test_background_hands_over_its_error_and_never_blocks() -> None:
    def fail(i: int) -> None:
        raise OSError(f"disk full at {i}")

    with pytest.raises(OSError, match="disk full at 0"), Background(fail, 1) as background:
        for i in range(50):
            background.submit(i)


def test_background_of_depth_0_waits_for_the_item_before() -> None:
    running: list[int] = []
    done: list[int] = []

    def work(i: int) -> None:
        running.append(i)
        time.sleep(0.005)
        done.append(i)

    with Background(work, 0) as background:
        for i in range(5):
            background.submit(i)
            assert len(done) >= i
    assert running == done == list(range(5))


def test_the_defaults_use_every_core() -> None:
    assert list(ordered_map(abs, range(-50, 0))) == list(range(50, 0, -1))


def test_closing_an_overlap_halts_items_that_go_on_and_on() -> None:
    halted = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        while not halted.is_set():  # works without an item to give
            time.sleep(0.001)

    stream = overlap(items(), 2, halted.set)
    assert next(stream) == 0
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5
    assert halted.is_set()


STOPS = """
import itertools, signal, sys
from affectnet.errors import raise_on_signals
from affectnet.threads import Background, ordered_map, overlap

def consume(items):
    for _ in items:
        pass

def background():
    with Background(abs, 1) as thread:
        consume(map(thread.submit, itertools.count()))

USES = {
    "overlap": lambda: consume(overlap(itertools.count(), 1)),
    "map": lambda: consume(ordered_map(abs, itertools.count(), 1)),
    "background": background,
}

def stop_at(point, use):
    passed = 0

    def look(frame, event, _):
        nonlocal passed
        passed += event in ("call", "c_return")
        if passed == point:
            sys.setprofile(None)
            signal.getsignal(signal.SIGINT)(signal.SIGINT, frame)

    try:
        with raise_on_signals():
            sys.setprofile(look)
            use()
    except KeyboardInterrupt:
        return
    finally:
        sys.setprofile(None)

for point in range(1, int(sys.argv[2])):
    print("stopped at", point, flush=True)
    stop_at(point, USES[sys.argv[1]])
"""


@pytest.mark.parametrize("points", [120, pytest.param(600, marks=pytest.mark.slow)])
def test_a_signal_stops_threads_wherever_python_handles_it(points: int) -> None:
    """After the call of each function: also while a lock is taken, where it used to hang."""
    uses = {
        use: subprocess.Popen(
            [sys.executable, "-c", STOPS, use, str(points)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for use in ("overlap", "map", "background")
    }
    try:
        for use, process in uses.items():
            out, err = process.communicate(timeout=points)
            assert process.returncode == 0, f"{use}: {err}"
            assert out.splitlines()[-1] == f"stopped at {points - 1}"
    finally:
        for process in uses.values():
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a thread")
@pytest.mark.parametrize("way", ["overlap", "map", "background"])
def test_a_signal_does_not_leave_threads_at_work(way: str) -> None:
    """What they work on is closed after them, also where the signal comes while they are ending."""
    done: list[int] = []
    begun = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            begun.set()
            main = threading.main_thread().ident or 0
            threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT]).start()
            time.sleep(0.4)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        if way == "background":
            with Background(work, 1) as background:
                background.submit(0)
                background.submit(1)
        else:
            two = range(2)
            items = overlap(map(work, two), 1) if way == "overlap" else ordered_map(work, two, 1)
            next(items)
            begun.wait()
            items.close()
    assert done == [0, 1]
