"""The audit findings in a report: complete if that is quick, stored, never of other faces."""

import json
import shutil
from pathlib import Path

import pytest

from affectnet.commands.audit import audit
from affectnet.config import AuditConfig
from affectnet.data.audit.findings import Severity
from affectnet.data.store import DatasetInfo
from affectnet.report import audit_page
from affectnet.report.audit_page import audit_summary


@pytest.fixture
def mine(faces: Path, tmp_path: Path) -> Path:
    return shutil.copytree(faces, tmp_path / "mine")


def test_a_small_dataset_is_audited_completely_and_once(
    mine: Path, tmp_path: Path, monkeypatch
) -> None:
    cache = tmp_path / "cache"
    first = audit_summary(mine, cache)
    assert first is not None
    assert first.complete
    assert {finding.topic for finding in first.findings} >= {"duplicates", "images"}
    order = [Severity.PROBLEM, Severity.WARNING, Severity.INFO]
    severities = [order.index(finding.severity) for finding in first.findings]
    assert severities == sorted(severities)
    (stored,) = cache.iterdir()
    monkeypatch.delattr(audit_page, "audit_dataset")  # a second audit would fail
    assert audit_summary(mine, cache) == first
    known = json.loads(stored.read_text()) | {"version": "0.0.0"}
    stored.write_text(json.dumps(known))
    with pytest.raises(NameError):
        audit_summary(mine, cache)


def test_a_large_dataset_is_checked_by_labels_until_audited(mine: Path, monkeypatch) -> None:
    monkeypatch.setattr(audit_page, "MOST_SCANNED", 10)
    monkeypatch.delattr(audit_page, "audit_dataset")
    quick = audit_summary(mine)
    assert quick is not None
    assert not quick.complete
    assert quick.findings
    assert "images" not in {finding.topic for finding in quick.findings}
    assert "affectnet audit mine --out mine/audit.json" in quick.advice
    audit(AuditConfig(data=mine, out=mine / "audit.json"))
    complete = audit_summary(mine)
    assert complete is not None
    assert complete.complete
    texts = {one["text"] for one in json.loads((mine / "audit.json").read_text())["findings"]}
    assert {finding.text for finding in complete.findings} == texts
    assert {finding.text for finding in quick.findings} <= texts


def test_an_audit_of_other_faces_or_a_damaged_one_is_ignored(mine: Path, monkeypatch) -> None:
    monkeypatch.setattr(audit_page, "MOST_SCANNED", 10)
    counts = DatasetInfo.read(mine).counts
    other = {"counts": {"test": counts["test"] | {"fear": 1}}, "findings": []}
    for text in (json.dumps(other), "[1, 2]", "{", json.dumps({"counts": counts})):
        (mine / "audit.json").write_text(text)
        found = audit_summary(mine)
        assert found is not None
        assert not found.complete


def test_an_unreadable_dataset_has_no_summary(tmp_path: Path) -> None:
    assert audit_summary(tmp_path / "nowhere") is None
