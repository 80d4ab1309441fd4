"""The audit's part of a report: whole where that is quick, kept, and never of other faces."""

import json
import shutil
from pathlib import Path

import pytest

from affectnet.commands.audit import audit
from affectnet.config import AuditConfig
from affectnet.data.audit.findings import Severity
from affectnet.data.store import DatasetInfo
from affectnet.report import audit_summary as data_audit
from affectnet.report.audit_summary import audit_summary


@pytest.fixture
def mine(faces: Path, tmp_path: Path) -> Path:
    return shutil.copytree(faces, tmp_path / "mine")


def test_a_small_dataset_is_audited_whole_and_kept(mine: Path, tmp_path: Path, monkeypatch) -> None:
    keep = tmp_path / "keep"
    first = audit_summary(mine, keep)
    assert first is not None
    assert first.whole
    assert {finding.topic for finding in first.findings} >= {"duplicates", "images"}
    order = [Severity.PROBLEM, Severity.WARNING, Severity.INFO]
    severities = [order.index(finding.severity) for finding in first.findings]
    assert severities == sorted(severities)
    (kept,) = keep.iterdir()
    monkeypatch.delattr(data_audit, "audit_dataset")  # a second look would fail
    assert audit_summary(mine, keep) == first
    known = json.loads(kept.read_text()) | {"version": "0.0.0"}
    kept.write_text(json.dumps(known))
    with pytest.raises(NameError):
        audit_summary(mine, keep)


def test_a_large_one_by_its_labels_until_it_was_audited(mine: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_audit, "MOST_SCANNED", 10)
    monkeypatch.delattr(data_audit, "audit_dataset")
    quick = audit_summary(mine)
    assert quick is not None
    assert not quick.whole
    assert quick.findings
    assert "images" not in {finding.topic for finding in quick.findings}
    assert "affectnet audit mine --out mine/audit.json" in quick.advice
    audit(AuditConfig(data=mine, out=mine / "audit.json"))
    whole = audit_summary(mine)
    assert whole is not None
    assert whole.whole
    told = {one["text"] for one in json.loads((mine / "audit.json").read_text())["findings"]}
    assert {finding.text for finding in whole.findings} == told
    assert {finding.text for finding in quick.findings} <= told


def test_an_audit_of_other_faces_or_a_damaged_one_is_not_believed(mine: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_audit, "MOST_SCANNED", 10)
    counts = DatasetInfo.read(mine).counts
    other = {"counts": {"test": counts["test"] | {"fear": 1}}, "findings": []}
    for text in (json.dumps(other), "[1, 2]", "{", json.dumps({"counts": counts})):
        (mine / "audit.json").write_text(text)
        found = audit_summary(mine)
        assert found is not None
        assert not found.whole


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert audit_summary(tmp_path / "nowhere") is None
