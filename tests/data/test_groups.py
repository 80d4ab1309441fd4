"""Duplicates and columns that keep faces together, from ingest to training and evaluation."""

import io
import json
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from affectnet.commands.audit import audit
from affectnet.commands.evaluate import evaluate
from affectnet.commands.ingest import ingest
from affectnet.config import AuditConfig, EvaluateConfig, IngestConfig
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.drawn.release import draw_faces
from affectnet.data.groups import join_values
from affectnet.data.readers.release_part import ReleasePart
from affectnet.data.store import COPIES, DatasetInfo, JoinedSplit, open_split
from affectnet.errors import ConfigError, DataError
from affectnet.labels import EXPRESSIONS

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def faces() -> list[tuple[bytes, int]]:
    """Distinct noise-like faces with labels."""
    made = []
    for i, face in enumerate(draw_faces(6, seed=9, size=48)):
        noise = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        coarse = Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)
        made.append((png(Image.blend(Image.open(io.BytesIO(face.image)), coarse, 0.7)), i % 8))
    return made


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def copy(data: bytes) -> bytes:
    """The same face, brighter and as a JPEG."""
    buffer = io.BytesIO()
    ImageEnhance.Brightness(Image.open(io.BytesIO(data))).enhance(1.1).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source(faces, tmp_path_factory):
    """Class folders: 40 faces for training, 12 of them twice, and 8 for the test, 3 of them so."""
    top = tmp_path_factory.mktemp("source") / "faces"
    files = {
        f"train/{EXPRESSIONS[label]}/{i}.png": data for i, (data, label) in enumerate(faces[:40])
    }
    files |= {f"train/{EXPRESSIONS[y]}/{i}b.jpg": copy(d) for i, (d, y) in enumerate(faces[:12])}
    files |= {f"test/{EXPRESSIONS[y]}/{i}.png": d for i, (d, y) in enumerate(faces[40:45])}
    files |= {f"test/{EXPRESSIONS[faces[i][1]]}/c{i}.jpg": copy(faces[i][0]) for i in (3, 20, 30)}
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("grouped") / "dataset"
    ingest(IngestConfig((source,), out, val_fraction=0.3))
    return out


def numbers(folder, split: str) -> set[str]:
    """Which pictures a split contains, by their number."""
    names = [name.rpartition("/")[2] for name in open_split(folder, split).ids]
    return {name.strip("c").partition(".")[0].removesuffix("b") for name in names}


def leaks(folder) -> list[set[str]]:
    out = folder.parent / f"{folder.name}.json"
    audit(AuditConfig(folder, out=out, overwrite=True))
    found = json.loads(out.read_text())["duplicates"]
    return [{face["split"] for face in group["faces"]} for group in found if group["leak"]]


def test_duplicates_stay_together(dataset, source, tmp_path):
    assert not numbers(dataset, "train") & numbers(dataset, "val")
    assert not any({"train", "val"} <= splits for splits in leaks(dataset))
    ingest(IngestConfig((source,), tmp_path / "apart", val_fraction=0.3, group="none"))
    assert len(numbers(tmp_path / "apart", "train") & numbers(tmp_path / "apart", "val")) >= 3
    assert any({"train", "val"} <= splits for splits in leaks(tmp_path / "apart"))
    assert DatasetInfo.read(tmp_path / "apart").copies is None
    assert open_split(tmp_path / "apart", "test").copied_in(SPLITS) is None


def test_copies_of_the_test_part_are_recorded(dataset):
    info = DatasetInfo.read(dataset)
    assert info.copies == {"val": 0, "test": 3}
    assert {word for s in SPLITS for word in open_split(dataset, s).column(COPIES).to_pylist()} == {
        "none", "train", "val", "test"
    }  # fmt: skip
    assert info.settings["group"] == "duplicates"
    for split in SPLITS:
        opened = open_split(dataset, split)
        copied = opened.copied_in([name for name in SPLITS if name != split])
        names = [name.rpartition("/")[2] for name in opened.ids]
        wanted = [
            name.startswith("c") if split == "test" else
            name.partition(".")[0].removesuffix("b") in {"3", "20", "30"} for name in names
        ]  # fmt: skip
        assert copied.tolist() == wanted
        assert not opened.copied_in([split]).any()
    test = open_split(dataset, "test")
    two = JoinedSplit([test, open_split(dataset, "train")]).copied_in(["train", "val"])
    assert np.flatnonzero(two).tolist() == np.flatnonzero(test.copied_in(["train", "val"])).tolist()


@pytest.mark.parametrize("threads", [1, 5])
def test_the_ids_do_not_depend_on_threads_or_order(threads, dataset, source, tmp_path, monkeypatch):
    monkeypatch.setattr("affectnet.threads.cores", lambda: threads)
    monkeypatch.setattr("affectnet.data.readers.engine.cores", lambda: threads)
    ingest(IngestConfig((source,), tmp_path / "again", val_fraction=0.3))
    for split in SPLITS:
        assert open_split(tmp_path / "again", split).ids == open_split(dataset, split).ids
    before, after = DatasetInfo.read(dataset), DatasetInfo.read(tmp_path / "again")
    assert (before.content_hash, before.copies) == (after.content_hash, after.copies)


def test_sources_are_read_by_one_thread(source, tmp_path, monkeypatch):
    """Two threads that read a temporary file at once would get each other's images."""
    readers = set()
    read = ReleasePart.images

    def watched(part, rows):
        readers.add(threading.get_ident())
        return read(part, rows)

    monkeypatch.setattr(ReleasePart, "images", watched)
    monkeypatch.setattr("affectnet.threads.cores", lambda: 8)
    ingest(IngestConfig((source,), tmp_path / "d", val_fraction=0.3))
    assert readers == {threading.get_ident()}


def test_training_can_leave_leaks_out(dataset, source, tmp_path):
    kept = AffectDataModule(dataset, image_size=16)
    dropped = AffectDataModule(dataset, image_size=16, leaks="drop")
    for module in (kept, dropped):
        module.setup()
    left_out = 0
    for name in SPLITS:
        rows, fewer = kept.rows(name), dropped.rows(name)
        copied = open_split(dataset, name).copied_in(["test"])
        np.testing.assert_array_equal(fewer, rows[~copied])
        left_out += len(rows) - len(fewer)
    assert left_out == 4  # picture 3 twice, 20, 30
    assert len(dropped.test_dataloader().dataset) == 8
    ingest(IngestConfig((source,), tmp_path / "unknown", val_fraction=0.3, group="none"))
    unknown = AffectDataModule(tmp_path / "unknown", image_size=16, leaks="drop")
    unknown.setup("fit")
    with pytest.raises(DataError, match="without --group none"):
        unknown.rows("train")


def test_scores_without_duplicates_stand_next_to_the_others(dataset, tmp_path, capsys):
    test = open_split(dataset, "test")
    copied = test.copied_in(["train", "val"])
    predicted = np.where(copied, test.expression, (test.expression + 1) % 8)
    lines = ["id,expression_pred", *(f"{n},{p}" for n, p in zip(test.ids, predicted, strict=True))]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    evaluate(
        EvaluateConfig(
            predictions=tmp_path / "p.csv", truth=dataset, out=tmp_path / "m.json", resamples=0
        )
    )
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["expression"]["accuracy"]["value"] == pytest.approx(3 / 8)
    slices = {one["slice"]: one for one in metrics["slices"]["duplicates"]["slices"]}
    assert {name: one["n"] for name, one in slices.items()} == {
        "also in train or val": 3, "not in train or val": 5
    }  # fmt: skip
    assert slices["not in train or val"]["expression"]["accuracy"]["value"] == 0
    assert slices["also in train or val"]["expression"]["accuracy"]["value"] == 1
    assert "not in train or val" in capsys.readouterr().out


def test_a_column_keeps_its_values_together(faces, tmp_path):
    lines = ["path,expression,person,split"]
    for i, (data, label) in enumerate(faces):
        (tmp_path / f"{i}.png").write_bytes(data)
        person = "" if i % 7 == 0 else f"p{i % 11}"
        lines.append(f"{i}.png,{EXPRESSIONS[label]},{person},train")
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    config = IngestConfig((tmp_path / "faces.csv",), tmp_path / "d", group="person")
    ingest(config)
    persons = {
        split: {p for p in open_split(tmp_path / "d", split).column("person").to_pylist() if p}
        for split in ("train", "val")
    }
    assert not persons["train"] & persons["val"]
    assert len(persons["train"]) + len(persons["val"]) == 11
    assert len(persons["val"]) >= 1
    (tmp_path / "own.csv").write_text(
        (tmp_path / "faces.csv").read_text().replace("train", "val", 3)
    )
    with pytest.raises(ConfigError, match="a validation part of its own"):
        ingest(IngestConfig((tmp_path / "own.csv",), tmp_path / "o", group="person"))
    with pytest.raises(DataError, match="no column 'preson'; did you mean 'person'"):
        ingest(IngestConfig((tmp_path / "faces.csv",), tmp_path / "e", group="preson"))


def test_a_release_without_the_column_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match=r"--group person: folder has no such column; give dupl"):
        ingest(IngestConfig((source,), tmp_path / "d", group="person"))


def test_values_join_sets() -> None:
    sets = np.array([5, 5, 2, 3, 9])
    joined = join_values(sets, ["a", None, "b", "a", None])
    assert joined[0] == joined[1] == joined[3]
    assert len({joined[0], joined[2], joined[4]}) == 3


@pytest.mark.slow
def test_real_faces_from_a_folder_and_a_tar_give_the_same_ids(ferplus, tmp_path):
    """FER+ has duplicates within its training part, and between it and its test part."""
    with tarfile.open(ferplus / "train_and_val_set.tar.gz") as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    test = ferplus / "test_set.tar.gz"
    ingest(IngestConfig((ferplus / "train_and_val_set.tar.gz", test), tmp_path / "tar"))
    ingest(IngestConfig((tmp_path / "folder", test), tmp_path / "dir"))
    ingest(IngestConfig((tmp_path / "folder", test), tmp_path / "none", group="none"))
    for split in SPLITS:
        assert open_split(tmp_path / "tar", split).ids == open_split(tmp_path / "dir", split).ids
    assert DatasetInfo.read(tmp_path / "tar").copies == DatasetInfo.read(tmp_path / "dir").copies
    assert not any({"train", "val"} <= splits for splits in leaks(tmp_path / "tar"))
    assert any({"train", "val"} <= splits for splits in leaks(tmp_path / "none"))
