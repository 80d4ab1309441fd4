"""Errors that a user can fix, stops by a signal, and phrases that messages share.

The command line prints an `AffectNetError` as one line and exits with status 2.
"""

import errno
import math
import reprlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Final

STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""The signals that clusters send before they take a machine away."""
FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The `errno` of an `OSError` where there is no space for a file."""
NOTHING_LOST: Final = "nothing that was finished is lost"


class AffectNetError(Exception):
    """A user's mistake, or data that cannot be used.

    The message says what was given, what is allowed and what to do next.
    """


class ConfigError(AffectNetError):
    """A flag, a YAML key or an argument is wrong."""


class DataError(AffectNetError):
    """A release, a dataset or an image cannot be used."""


class RunError(AffectNetError):
    """A run folder is missing, incomplete, or would be overwritten."""


class WeightsError(AffectNetError):
    """Weights or a checkpoint cannot be downloaded or read, or do not fit the model."""


class Stopped(BaseException):
    """A signal asked the process to stop; nothing that was finished is lost.

    Not an `Exception`: like Ctrl-C, it is not caught by code that continues after an error.

    Attributes:
        signal: number of the signal.
        status: exit status, as in shells: 143 for SIGTERM, 138 for SIGUSR1 on Linux.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        self.signal = signal_number
        self.status = 128 + signal_number
        name = signal.Signals(signal_number).name
        super().__init__(message or f"stopped by {name}; {NOTHING_LOST}")


Limit = tuple[tuple[str, ...], Callable[[Any], bool], str]
"""Names of settings, the test that their values must pass unless None, and its description."""


def _flag(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} is {value}"


class Faults(list[str]):
    """Messages on everything that is wrong with the settings of a command.

    Starts with a message on each setting of `config` that is outside its limits; `given` says what
    a setting is.
    """

    def __init__(
        self,
        config: object = None,
        limits: Iterable[Limit] = (),
        given: Callable[[str, Any], str] = _flag,
    ) -> None:
        super().__init__(
            f"{given(name, value)}; it must be {allowed}"
            for names, passes, allowed in limits
            for name in names
            if (value := getattr(config, name)) is not None and not passes(value)
        )

    @contextmanager
    def caught(self, prefix: str = "") -> Iterator[None]:
        """Add the message of an `AffectNetError` that is raised in this context."""
        try:
            yield
        except AffectNetError as error:
            self.append(f"{prefix}{error}")

    def attempt(self, function: Callable[..., Any], *args: Any, default: Any = None) -> Any:
        """The result of the call; `default`, and a message, where it raises an error."""
        with self.caught():
            return function(*args)
        return default

    def raise_all(self, kind: type[AffectNetError] = ConfigError) -> None:
        """Raise one error with all messages, if there are any."""
        if self:
            raise kind("; ".join(dict.fromkeys(self)))


@contextmanager
def handle_signals(
    handler: Callable[[int, FrameType | None], object], numbers: Sequence[int] = STOP_SIGNALS
) -> Iterator[None]:
    """Call `handler` on these signals; the earlier handlers are restored on leaving.

    A signal that is ignored, as Ctrl-C is in background jobs, stays so. Does nothing outside the
    main thread, which alone may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    try:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on Ctrl-C and `Stopped` on the stop signals in this context.

    Where the exception would be lost or leave a lock taken for ever, it is raised a moment later:
    in the middle of an import, in callbacks whose exceptions Python ignores, and while a lock is
    taken or released.
    """
    hook = sys.unraisablehook

    def unraisable(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            _signal_again(signal.SIGINT)
        elif isinstance(lost.exc_value, Stopped):
            _signal_again(lost.exc_value.signal)
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        with handle_signals(_raise, (signal.SIGINT, *STOP_SIGNALS)):
            yield
    finally:
        sys.unraisablehook = hook


def _raise(number: int, frame: FrameType | None) -> None:
    if _is_taking_a_lock(frame) or _is_importing(frame):
        _signal_again(number)
        return
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


def _is_taking_a_lock(frame: FrameType | None) -> bool:
    """Whether a lock may be taken here before the `with` that releases it knows.

    Conditions, of which futures, events and queues consist, take and release their locks in
    functions written in Python. An exception there leaves the lock taken, and the next thread that
    needs it waits for ever.
    """
    if frame is None:
        return False
    name = frame.f_code.co_name
    if name in ("__enter__", "__exit__", "acquire", "release", "handle_signals"):
        return True
    if frame.f_globals is not vars(threading):
        return False
    # A condition is prepared for an exception from where it defines `gotit`, and then it waits.
    return "gotit" not in frame.f_locals and name not in ("join", "_wait_for_tstate_lock")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _signal_again(number: int) -> None:
    main = threading.main_thread().ident or 0
    if sys.platform == "win32":
        timer = threading.Timer(0.05, signal.raise_signal, [number])
    else:  # sent to the main thread, where it also ends a wait
        timer = threading.Timer(0.05, signal.pthread_kill, [main, number])
    timer.daemon = True
    timer.start()


@contextmanager
def hold_signals(patience: float = math.inf) -> Iterator[None]:
    """Hold Ctrl-C and the stop signals off until this context ends.

    A signal that comes more than `patience` seconds after the first one that is held is not held.
    """
    held: list[int] = []
    first = math.inf

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if time.monotonic() > first + patience:
            _raise(number, frame)
        first = min(first, time.monotonic())
        held.append(number)

    try:
        with handle_signals(hold, (signal.SIGINT, *STOP_SIGNALS)):
            yield
    finally:
        for number in held:
            signal.raise_signal(number)


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest allowed word, or an empty string."""
    near = get_close_matches(str(given), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def suggest_path(missing: Path) -> str:
    """As `suggest`, for a file or folder that is not there, from its neighbours' names."""
    folder = missing.parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return suggest(missing.name, names)


TRAIN_PACKAGES: Final = (
    *("torch", "torchvision", "timm", "lightning", "safetensors", "huggingface_hub"),
    *("onnx", "onnxscript", "pytorch_optimizer", "tensorboard"),
)
"""What `pip install 'affectnet[train]'` adds, by the names of the modules."""


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def need_train(what: str, hint: str = "") -> None:
    """Raise `ConfigError` with what to install if a package that `what` needs is missing."""
    missing = [name for name in TRAIN_PACKAGES if not installed(name)]
    if missing:
        first, others = missing[0], len(missing) - 1
        also = f" and {counted(others, 'other package')}, which are" if others else ", which is"
        raise ConfigError(
            f"{what} needs {first}{also} not installed; run `pip install 'affectnet[train]'`"
            f"{f', or {hint}' if hint else ''}"
        )


def check_choice(setting: str, given: str, allowed: Collection[str]) -> None:
    """Raise `ConfigError` unless `given`, the value of a setting, is one of those allowed."""
    if given not in allowed:
        raise ConfigError(
            f"the {setting} is '{given}'{suggest(given, allowed)}; it may be {', '.join(allowed)}"
        )


def shown(value: object) -> str:
    """Return a short form of a value that may be a stranger's: at most some 100 characters."""
    return printable(reprlib.repr(value))


def printable(text: str) -> str:
    """Return text that a terminal shows as it is: control characters become escapes.

    >>> print(printable("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_encoding(head: bytes, where: object) -> None:
    """Raise `DataError` where a table begins like text in UTF-16; `where` is named."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head.count(0) > len(head) // 4:
        raise DataError(
            f"{where} is text in UTF-16, or not a table; save it as CSV in UTF-8 (in Excel: "
            "'CSV UTF-8')"
        )


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: `1 face`, `3,999 faces`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"


def megabytes(size: float) -> str:
    """Return a size in bytes in megabytes: `12.3 MB`."""
    return f"{size / 1e6:,.1f} MB"
