"""Errors that a user can fix, and phrases that messages share.

The command line prints an `AffectNetError` as one line and exits with status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


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
        super().__init__(message or f"stopped by signal {signal_number}")


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest allowed word, or an empty string."""
    near = get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: `1 face`, `3,999 faces`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"
