"""What the audit says of the dataset behind a report, without taking the minutes of a whole one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from affectnet.data.audit.affect import contradictions, judge, summarise
from affectnet.data.audit.counts import recognise
from affectnet.data.audit.dataset_audit import audit_dataset
from affectnet.data.audit.findings import Finding, Severity
from affectnet.data.audit.scan import Rows
from affectnet.data.store import SPLITS, DatasetInfo, open_split
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.run import write_beside
from affectnet.version import __version__

AUDIT_NAME: Final = "audit.json"
"""Where a dataset folder keeps the whole audit: `affectnet audit DIR --out DIR/audit.json`."""
MOST_SCANNED: Final = 40_000
"""Faces of a dataset whose pictures are looked at for a report, once: some ten seconds at most."""


@dataclass(frozen=True)
class AuditSummary:
    """The findings about one dataset, the gravest first.

    Attributes:
        name: of the dataset's folder.
        findings: severity, topic and a sentence each.
        whole: whether the pictures were looked at too, or the labels alone.
    """

    name: str
    findings: list[Finding]
    whole: bool

    @property
    def advice(self) -> str:
        """What to do for the part that was left out."""
        return (
            "Only counts and labels were checked here. Duplicates, leaks between the splits and "
            f"broken pictures: affectnet audit {self.name} --out {self.name}/{AUDIT_NAME}, which "
            "the next report shows here."
        )

    def number(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity is severity for finding in self.findings)


def audit_summary(folder: Path, keep: Path | None = None) -> AuditSummary | None:
    """Audit a dataset as far as it is quick: the kept audit, a small set whole, or its labels.

    The audit that lies in the folder as `audit.json` is taken where its counts are the dataset's.
    None where nothing can be read of the dataset.

    Args:
        folder: of the dataset.
        keep: a folder where findings that took the looking at pictures are kept for the next time.
    """
    try:
        info = DatasetInfo.read(folder)
        kept = _kept(folder, info)
        if kept is not None:
            return _summary(folder, kept, whole=True)
        faces = sum(sum(counts.values()) for counts in info.counts.values())
        if faces <= MOST_SCANNED:
            return _summary(folder, _of_pictures(folder, info, keep), whole=True)
        return _summary(folder, _of_labels(folder, info), whole=False)
    except DataError:
        return None


def _summary(folder: Path, findings: list[Finding], whole: bool) -> AuditSummary:
    gravest = (Severity.PROBLEM, Severity.WARNING, Severity.INFO)
    ordered = sorted(findings, key=lambda finding: gravest.index(finding.severity))
    return AuditSummary(folder.resolve().name, ordered, whole)


def _kept(folder: Path, info: DatasetInfo) -> list[Finding] | None:
    """The findings of `audit.json`; None where there is none, or it is of other faces."""
    try:
        known: Any = json.loads((folder / AUDIT_NAME).read_text(encoding="utf-8"))
        counts = {
            split: {name: n for name, n in own.items() if n and name in EXPRESSIONS}
            for split, own in info.counts.items()
        }
        theirs = {
            split: {name: n for name, n in own.items() if n}
            for split, own in known["counts"].items()
        }
        if counts != theirs:
            return None
        return _read(known["findings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(findings: Any) -> list[Finding]:
    return [
        Finding(Severity(one["severity"]), str(one["topic"]), str(one["text"])) for one in findings
    ]


def _of_pictures(folder: Path, info: DatasetInfo, keep: Path | None) -> list[Finding]:
    """The whole audit, kept under the dataset's content hash."""
    place = keep / f"audit-{info.content_hash[:16]}.json" if keep else None
    if place is not None:
        try:
            known = json.loads(place.read_text(encoding="utf-8"))
            if known["version"] == __version__:
                return _read(known["findings"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # never made, or damaged: made now
    findings = audit_dataset(folder).findings
    if place is not None:
        told = [{"severity": f.severity, "topic": f.topic, "text": f.text} for f in findings]
        try:
            with write_beside(place) as new:
                new.write_text(json.dumps({"version": __version__, "findings": told}, indent=1))
        except OSError:
            pass  # a run on a read-only disk
    return findings


def _of_labels(folder: Path, info: DatasetInfo) -> list[Finding]:
    """What the counts and labels alone tell."""
    splits = {
        name: open_split(folder, name) for name in SPLITS if (folder / f"{name}.arrow").is_file()
    }
    rows = Rows.of(splits)
    counts = {
        name: np.bincount(part.expression[part.expression >= 0], minlength=N_EXPRESSIONS)
        for name, part in splits.items()
    }
    recognition = recognise(
        counts, info.release, sum(info.dropped.values()), info.settings.get("max_per_class")
    )
    labels = rows.expression, rows.valence, rows.arousal
    return [
        *recognition.findings,
        *judge(summarise(*labels), contradictions(*labels), *labels),
    ]
