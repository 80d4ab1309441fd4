"""The errors that a user can mend. The command line prints them as one line, exit status 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class AffectNetError(Exception):
    """Something the user can put right.

    The message says what was given, what is allowed and what to do next.
    """


class ConfigError(AffectNetError):
    """A flag, a YAML key or an argument is wrong."""


class DataError(AffectNetError):
    """A release, a dataset or an image cannot be used."""


class RunError(AffectNetError):
    """A run folder is missing, incomplete, or would be overwritten."""


class WeightsError(AffectNetError):
    """Weights or a checkpoint cannot be had, read, or do not fit the model."""


class Stopped(BaseException):
    """A signal asked the process to stop; nothing that was finished is lost.

    No `Exception`: like Ctrl-C it passes everything that carries on after an error.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        self.signal = signal_number
        self.status = 128 + signal_number
        """Exit status, as shells count it: 143 for SIGTERM, 138 for SIGUSR1 on Linux."""
        super().__init__(message or f"stopped by signal {signal_number}")


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Name the nearest allowed word, as `; did you mean 'x'?`, or nothing when none is near."""
    near = get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
