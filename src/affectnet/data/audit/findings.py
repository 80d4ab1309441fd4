"""What an audit found, each with how much it matters."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters.

    `info` is worth knowing, `warning` is worth a look, and a `problem` makes results wrong or not
    comparable: with one, `affectnet audit --strict` ends with exit status 1.
    """

    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One plain sentence or two about the dataset."""

    severity: Severity
    topic: str
    text: str


def info(topic: str, text: str) -> Finding:
    """Make a finding that is worth knowing."""
    return Finding(Severity.INFO, topic, text)


def warning(topic: str, text: str) -> Finding:
    """Make a finding that is worth a look."""
    return Finding(Severity.WARNING, topic, text)


def problem(topic: str, text: str) -> Finding:
    """Make a finding that makes results wrong or not comparable."""
    return Finding(Severity.PROBLEM, topic, text)


def share(part: int, whole: int) -> str:
    """Say `part` of `whole` as a percentage with three figures, never a false 0 or 100."""
    if whole == 0:
        return "0%"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "under 0.01%"
    if part < whole and percent > 99.99:
        return "over 99.99%"
    return f"{percent:.3g}%"
