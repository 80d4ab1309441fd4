"""The findings of an audit: sentences with a severity."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters.

    A `problem` makes results wrong or not comparable, so `affectnet audit --strict` exits with
    status 1; a `warning` should be checked; `info` is only informative.
    """

    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One or two sentences about the dataset."""

    severity: Severity
    topic: str
    text: str


def info(topic: str, text: str) -> Finding:
    """Return an informative finding."""
    return Finding(Severity.INFO, topic, text)


def warning(topic: str, text: str) -> Finding:
    """Return a finding that should be checked."""
    return Finding(Severity.WARNING, topic, text)


def problem(topic: str, text: str) -> Finding:
    """Return a finding that makes results wrong or not comparable."""
    return Finding(Severity.PROBLEM, topic, text)


def percentage(part: int, whole: int) -> str:
    """Format `part` of `whole` with three digits; only an exact 0% or 100% is written so."""
    if whole == 0:
        return "0%"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "under 0.01%"
    if part < whole and percent > 99.99:
        return "over 99.99%"
    return f"{percent:.3g}%"
