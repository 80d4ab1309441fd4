"""Lists of faults, handling of signals, and phrases that messages share."""

import importlib
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from affectnet.errors import (
    ConfigError,
    DataError,
    Faults,
    Stopped,
    counted,
    handle_signals,
    hold_signals,
    megabytes,
    raise_on_signals,
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
    with pytest.raises(Stopped, match="stopped by SIGTERM"), handle_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_are_held_off_come_afterwards() -> None:
    done = []
    with pytest.raises(Stopped), raise_on_signals(), hold_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("all of it")
    assert done == ["all of it"]
    with pytest.raises(KeyboardInterrupt), raise_on_signals(), hold_signals():
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("full")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_is_not_lost_in_a_callback_that_ignores_exceptions() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    with pytest.raises(Stopped), raise_on_signals():
        one = Last()
        del one
        time.sleep(5)


def test_a_signal_in_an_import_waits_for_its_end(tmp_path, monkeypatch) -> None:
    (tmp_path / "slow_module.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "except BaseException:\n"
        "    pass\n"
        "whole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        importlib.import_module("slow_module")
        time.sleep(5)
    assert sys.modules["slow_module"].whole


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
