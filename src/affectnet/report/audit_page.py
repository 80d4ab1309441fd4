"""The audit of a dataset as an HTML page, and its findings for a report."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.audit.affect import RULES, contradictions, judge, summarise
from affectnet.data.audit.counts import recognise
from affectnet.data.audit.dataset_audit import Audit, audit_dataset, expression_name
from affectnet.data.audit.findings import Finding, Severity
from affectnet.data.audit.scan import DatasetRows
from affectnet.data.images import data_uri, decode_image
from affectnet.data.store import DatasetInfo, existing_splits, open_split
from affectnet.errors import DataError
from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS, N_EXPRESSIONS
from affectnet.report import html
from affectnet.run import write_beside
from affectnet.version import __version__

MOST_GROUPS: Final = 60
MOST_FACES: Final = 8  # per group of duplicates
MOST_ROWS: Final = 60  # contradictions, and likely wrong labels, with their images
MOST_SIZES: Final = 12
THUMBNAIL: Final = 96  # longest side of an image in the page, in pixels
AUDIT_NAME: Final = "audit.json"  # of a complete audit: `affectnet audit DIR --out DIR/audit.json`
MOST_SCANNED = 40_000  # faces whose images are checked for a report, in about ten seconds


def render_audit(audit: Audit) -> str:
    """Return the HTML page; lists of faces end at `MOST_GROUPS` and `MOST_ROWS`."""
    rows, affect = audit.rows, audit.affect
    moments = (of.tolist() for of in (affect.class_n, affect.class_mean, affect.class_std))
    groups = [
        {
            "kind": group.kind,
            "splits": group.splits,
            "leak": group.leak,
            "disputed": group.disputed,
            "more": max(0, len(group.rows) - MOST_FACES),
            "faces": [_face(audit, row) for row in _spread(audit, group.rows)],
        }
        for group in audit.duplicates[:MOST_GROUPS]
    ]
    odd = [
        _face(
            audit,
            found.row,
            f"{found.rule}: valence {rows.valence[found.row]:+.2f}, "
            f"arousal {rows.arousal[found.row]:+.2f}",
        )
        for found in audit.contradictions[:MOST_ROWS]
    ]
    return html.page(
        "audit.html.j2",
        audit=audit,
        title=f"Audit of {audit.folder.resolve().name}",
        problems=audit.number(Severity.PROBLEM),
        warnings=audit.number(Severity.WARNING),
        expressions=audit.classes,
        colours=COLOURS,
        columns=audit.count_columns(),
        bars={"valence": _bars(affect.valence), "arousal": _bars(affect.arousal)},
        plane=_plane(affect.plane),
        means=[row for row in zip(EXPRESSIONS, *moments, strict=True) if row[1]],
        circumplex=CIRCUMPLEX,
        rules=RULES,
        sizes=list(audit.images.sizes.items())[:MOST_SIZES],
        groups=groups,
        odd=odd,
        suspects=_suspects(audit),
        broken=[(audit.name(row), why) for row, why in audit.images.broken.items()][:MOST_ROWS],
        plain=[_face(audit, row) for row in audit.images.plain[:MOST_ROWS]],
    )


def _spread(audit: Audit, rows: Sequence[int]) -> list[int]:
    """Up to `MOST_FACES` rows of a group, alternating between its splits so that a leak shows."""
    place: dict[str, int] = {}
    turns = []
    for row in rows:
        split = audit.rows.split_of(row)
        place[split] = place.get(split, -1) + 1
        turns.append((place[split], row))
    return sorted(row for _, row in sorted(turns)[:MOST_FACES])


def _face(audit: Audit, row: int, detail: str = "") -> dict[str, str]:
    """A face of the page; `image` is a data URI, or '' if it cannot be decoded."""
    return {
        "image": _thumbnail(audit.image(row)),
        "name": audit.name(row),
        "expression": expression_name(int(audit.rows.expression[row])),
        "detail": detail,
    }


def _thumbnail(data: memoryview) -> str:
    try:
        image = Image.fromarray(decode_image(data))
    except DataError:
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return data_uri(image, "jpeg", 80)


def _suspects(audit: Audit) -> list[dict[str, str]]:
    if audit.suspects is None:
        return []
    found = audit.suspects.found
    return [
        _face(
            audit,
            row,
            f"more likely {EXPRESSIONS[found.suggested[i]]}, margin {found.margin[i]:+.2f}",
        )
        for i, row in enumerate(audit.suspects.rows[:MOST_ROWS].tolist())
    ]


def _bars(counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Bars of a histogram over [-1, 1], heights 0 to 100; bars that are not empty at least 1."""
    top, width = max(int(counts.max()), 1), 2 / len(counts)
    heights = [max(1.0, 100 * n / top) if n else 0.0 for n in counts.tolist()]
    return [
        {"x": -1 + i * width, "width": width, "height": height, "n": int(counts[i])}
        for i, height in enumerate(heights)
    ]


def _plane(plane: NDArray[np.int64]) -> list[dict[str, float]]:
    """Cells of the circumplex with faces; opacity grows with the logarithm of their number."""
    top = math.log1p(max(int(plane.max()), 1))
    side = 2 / len(plane)
    return [
        {
            "x": -1 + column * side,
            "y": -1 + row * side,
            "side": side,
            "opacity": round(0.08 + 0.72 * math.log1p(int(plane[row, column])) / top, 3),
            "n": int(plane[row, column]),
        }
        for row, column in zip(*np.nonzero(plane), strict=True)
    ]


@dataclass(frozen=True)
class AuditSummary:
    """The findings about one dataset, most severe first.

    `name` is that of its folder; `complete` is whether the images were checked too, or counts and
    labels only.
    """

    name: str
    findings: list[Finding]
    complete: bool

    @property
    def advice(self) -> str:
        """How to check what was left out."""
        return (
            "Only counts and labels were checked here. To check for duplicates, leaks between "
            f"splits and damaged images, run: affectnet audit {self.name} --out "
            f"{self.name}/{AUDIT_NAME}; the next report shows its findings."
        )


def audit_summary(folder: Path, cache: Path | None = None) -> AuditSummary | None:
    """Audit a dataset quickly: from `audit.json`, completely if small, or by its labels only.

    `audit.json` in the folder is used if its counts match those of the dataset. None if the
    dataset cannot be read.

    The folder `cache` stores the findings of a complete audit for the next report.
    """
    try:
        info = DatasetInfo.read(folder)
        findings = _stored_audit(folder, info)
        complete = True
        if findings is None:
            faces = sum(sum(counts.values()) for counts in info.counts.values())
            complete = faces <= MOST_SCANNED
            findings = (
                _complete_audit(folder, info, cache) if complete else _label_audit(folder, info)
            )
    except DataError:
        return None
    severities = (Severity.PROBLEM, Severity.WARNING, Severity.INFO)
    ordered = sorted(findings, key=lambda finding: severities.index(finding.severity))
    return AuditSummary(folder.resolve().name, ordered, complete)


def _stored_audit(folder: Path, info: DatasetInfo) -> list[Finding] | None:
    """The findings of `audit.json`; None if there are none, or if they are about other faces."""
    try:
        stored: Any = json.loads((folder / AUDIT_NAME).read_text(encoding="utf-8"))
        counts = {
            split: {name: n for name, n in own.items() if n and name in EXPRESSIONS}
            for split, own in info.counts.items()
        }
        theirs = {
            split: {name: n for name, n in own.items() if n}
            for split, own in stored["counts"].items()
        }
        return _findings(stored["findings"]) if counts == theirs else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _findings(stored: Any) -> list[Finding]:
    return [
        Finding(Severity(one["severity"]), str(one["topic"]), str(one["text"])) for one in stored
    ]


def _complete_audit(folder: Path, info: DatasetInfo, cache: Path | None) -> list[Finding]:
    """The findings of the complete audit, stored under the dataset's content hash."""
    path = cache / f"audit-{info.content_hash[:16]}.json" if cache else None
    if path is not None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["version"] == __version__:
                return _findings(stored["findings"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged: audit again
    findings = audit_dataset(folder).findings
    if path is not None:
        rows = [{"severity": f.severity, "topic": f.topic, "text": f.text} for f in findings]
        try:
            with write_beside(path) as new:
                new.write_text(json.dumps({"version": __version__, "findings": rows}, indent=1))
        except OSError:
            pass  # a run on a read-only disk
    return findings


def _label_audit(folder: Path, info: DatasetInfo) -> list[Finding]:
    """The findings from counts and labels only."""
    splits = {name: open_split(folder, name) for name in existing_splits(folder)}
    rows = DatasetRows.of(splits)
    counts = {
        name: np.bincount(split.expression[split.expression >= 0], minlength=N_EXPRESSIONS)
        for name, split in splits.items()
    }
    dropped = sum(info.dropped.values())
    recognition = recognise(counts, info.release, dropped, info.settings.get("max_per_class"))
    labels = rows.expression, rows.valence, rows.arousal
    return [
        *recognition.findings,
        *judge(summarise(*labels), contradictions(*labels), *labels),
    ]
