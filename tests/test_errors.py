"""Lists of faults, handling of signals, and phrases that messages share."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from affectnet.errors import (
    ConfigError,
    DataError,
    Faults,
    Stopped,
    counted,
    handle_signals,
    megabytes,
)

LIMITS = [
    (("batch_size", "epochs"), lambda value: value >= 1, "at least 1"),
    (("ema",), lambda value: 0 < value < 1, "between 0 and 1"),
]


def test_all_faults_are_raised_as_one_error() -> None:
    faults = Faults(SimpleNamespace(batch_size=0, epochs=3, ema=1.0), LIMITS)
    with faults.caught("--teacher: "):
        raise DataError("there is no such model")
    with pytest.raises(ConfigError) as caught:
        faults.raise_all()
    assert str(caught.value) == (
        "--batch-size is 0; it must be at least 1; --ema is 1.0; it must be between 0 and 1; "
        "--teacher: there is no such model"
    )


def test_settings_within_their_limits_or_none_raise_nothing() -> None:
    Faults(SimpleNamespace(batch_size=1, epochs=1, ema=None), LIMITS).raise_all()


def test_other_errors_are_not_caught() -> None:
    with pytest.raises(ZeroDivisionError), Faults(None).caught():
        raise ZeroDivisionError


def test_signals_are_handled_and_handlers_restored() -> None:
    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="signal 15"), handle_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    handlers = []

    def work() -> None:
        with handle_signals(print):
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_numbers_with_their_units() -> None:
    assert (counted(1, "face"), counted(3999, "face")) == ("1 face", "3,999 faces")
    assert megabytes(12_345_678) == "12.3 MB"
