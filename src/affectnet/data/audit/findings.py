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


@dataclass(frozen=True, slots=True)
class Topic:
    """What findings are about; its methods return a finding of each severity."""

    name: str

    def info(self, text: str) -> Finding:
        return Finding(Severity.INFO, self.name, text)

    def warning(self, text: str) -> Finding:
        return Finding(Severity.WARNING, self.name, text)

    def problem(self, text: str) -> Finding:
        return Finding(Severity.PROBLEM, self.name, text)


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
