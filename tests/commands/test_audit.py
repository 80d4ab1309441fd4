"""`affectnet audit` from end to end: its output, its files, and its exit status."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import write_faces
from PIL import Image

from affectnet import cli
from affectnet.commands.audit import audit
from affectnet.config import AuditConfig
from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import DatasetInfo, Face, open_split
from affectnet.data.writer import content_hash
from affectnet.errors import ConfigError, DataError, RunError
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS


def write_dataset(folder: Path, splits: dict[str, list[Face]], release: str = "folder") -> Path:
    folder.mkdir()
    counts = {}
    for name, faces in splits.items():
        write_faces(folder / f"{name}.arrow", faces)
        known = [face.expression for face in faces if face.expression is not None]
        n = np.bincount(known, minlength=8).tolist()
        counts[name] = dict(zip(EXPRESSIONS, n, strict=True))
    DatasetInfo(["drawn"], release, counts, {}, content_hash(folder), "0").write(folder)
    return folder


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return list(draw_faces(8, seed=2, size=64))


@pytest.fixture
def clean(faces: list[Face], tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "clean", {"train": faces[:48], "test": faces[48:]})


@pytest.fixture
def faulty(faces: list[Face], tmp_path: Path) -> Path:
    """A leak, a contradiction, a broken image, and ids that would run as script in a page."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(faces[0].image)).save(buffer, "JPEG", quality=60)
    train = [
        *faces[:48],
        Face("<script>alert(1)</script>", b"\xff\xd8 cut short", 0, 0.0, 0.0),
        Face("sad and glad", faces[50].image, EXPRESSIONS.index("sadness"), 0.9, 0.1),
    ]
    test = [*faces[51:], Face("leaked <b>", buffer.getvalue(), faces[0].expression, 0.0, 0.0)]
    return write_dataset(tmp_path / "faulty", {"train": train, "test": test})


def test_a_clean_dataset_passes_strictly(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(clean), "--strict"]) == 0
    output = capsys.readouterr().out
    assert "0 problems" in output
    assert "no image appears more than once" in output
    assert "64 faces" in output


def test_strict_reports_problems_by_the_status(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", str(faulty), "--strict"]) == 1
    output = capsys.readouterr().out
    assert "2 problems" in output
    assert "1 image in more than one split (1 of 14 test faces, 7.14%, are also in train)" in output
    assert "1 image cannot be decoded" in output
    assert "sad and glad" in output
    assert cli.main(["audit", str(faulty)]) == 0


def test_json_holds_every_finding(faulty: Path, faces: list[Face], tmp_path: Path) -> None:
    out = tmp_path / "new" / "audit.json"
    assert audit(AuditConfig(data=faulty, out=out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["passed"] is False
    (group,) = found["duplicates"]
    assert group["leak"] is True
    assert [face["id"] for face in group["faces"]] == [faces[0].id, "leaked <b>"]
    assert [face["split"] for face in group["faces"]] == ["train", "test"]
    (odd,) = [row for row in found["contradictions"] if row["id"] == "sad and glad"]
    assert odd["rule"] == "valence above 0.2"
    assert list(found["images"]["broken"]) == ["train/<script>alert(1)</script>"]
    assert found["images"]["sizes"] == {"64x64": 63}
    counts = DatasetInfo.read(faulty).counts
    assert found["counts"] == counts


def test_the_page_is_self_contained_and_runs_no_script(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.html"
    audit(AuditConfig(data=faulty, out=out))
    page = out.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "leaked &lt;b&gt;" in page
    for outside in ("http://", "https://", 'src="//', "@import", "url("):
        assert outside not in page
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "prefers-color-scheme: dark" in page


def test_planted_wrong_labels_are_listed(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = open_split(clean, "train")
    guess = split.expression.astype(int)
    guess[3] = (guess[3] + 4) % 8
    probs = np.full((len(split), 8), 0.01)
    probs[np.arange(len(split)), guess] = 0.93
    table = pd.DataFrame(probs, columns=list(PROBABILITY_COLUMNS)).assign(id=split.ids)
    file = tmp_path / "predictions.parquet"
    table.to_parquet(file)
    out = tmp_path / "audit.json"
    audit(AuditConfig(data=clean, predictions=file, out=out))
    output = capsys.readouterr().out
    assert "1 label of 48 in train likely wrong" in output
    assert "predict a split that it has not seen" in output
    found = json.loads(out.read_text(encoding="utf-8"))["likely_wrong_labels"]
    assert found["split"] == "train"
    (row,) = found["rows"]
    assert row["id"] == split.ids[3]
    assert row["suggested"] == EXPRESSIONS[guess[3]]
    page = tmp_path / "audit.html"
    audit(AuditConfig(data=clean, predictions=file, out=page))
    assert f"more likely {EXPRESSIONS[guess[3]]}" in page.read_text(encoding="utf-8")


def test_mistakes_are_refused_before_any_work(clean: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        audit(AuditConfig(data=clean, out=there))
    assert there.read_text() == "mine"
    audit(AuditConfig(data=clean, out=there, overwrite=True))
    assert there.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"\.html file for a page, or a \.json file"):
        audit(AuditConfig(data=clean, out=tmp_path / "audit.pdf"))
    with pytest.raises(DataError, match="is not a dataset"):
        audit(AuditConfig(data=tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no split 'val'"):
        audit(AuditConfig(data=clean, split="val"))
    write_dataset(tmp_path / "empty", {"train": []})
    with pytest.raises(DataError, match="has no faces"):
        audit(AuditConfig(data=tmp_path / "empty"))


def test_faces_without_any_label_are_audited(faces: list[Face], tmp_path: Path) -> None:
    bare = [Face(face.id, face.image) for face in faces[:5]]
    folder = write_dataset(tmp_path / "bare", {"test": bare})
    out = tmp_path / "audit.html"
    assert audit(AuditConfig(data=folder, out=out, strict=True)) == 0
    assert "5 faces of 5 without expression" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_real_faces_leak(ferplus: Path, tmp_path: Path) -> None:
    """FER+ has one photo in several crops; a random split puts them in both."""
    from affectnet.commands.ingest import ingest
    from affectnet.config import IngestConfig

    data = tmp_path / "ferplus"
    tars = (ferplus / "train_and_val_set.tar.gz", ferplus / "test_set.tar.gz")
    ingest(IngestConfig(sources=tars, out=data))
    out = tmp_path / "audit.json"
    assert audit(AuditConfig(data=data, out=out, strict=True)) == 1
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["release"] == "FER+ by majority (2016), its validation part as test"
    leaks = [group for group in found["duplicates"] if group["leak"]]
    leaked = {face["id"] for group in leaks for face in group["faces"] if face["split"] == "test"}
    assert 350 < len(leaked) < 450
    kinds = [group["kind"] for group in found["duplicates"]]
    assert kinds.count("same file") > 700
    assert found["contradictions"] == []
