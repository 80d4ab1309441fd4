import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.cli import main
from affectnet.commands.ingest import ingest
from affectnet.commands.train import train
from affectnet.config import IngestConfig, TrainConfig
from affectnet.data.images import decode_image
from affectnet.data.splits import stratified_split
from affectnet.data.store import DatasetInfo, open_split
from affectnet.data.writer import content_hash
from affectnet.errors import AffectNetError, ConfigError, DataError, RunError
from affectnet.labels import EXPRESSIONS


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def jpeg(seed: int, size: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def face(part: str, name, label: int, image: bytes | None = None) -> dict[str, bytes]:
    return {
        f"{part}/images/{name}.jpg": image or jpeg(abs(hash(str(name))) % 1000),
        f"{part}/annotations/{name}_exp.npy": npy(str(label)),
        f"{part}/annotations/{name}_val.npy": npy("0.25"),
        f"{part}/annotations/{name}_aro.npy": npy("-0.5"),
    }


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def train_files(per_class: int = 5) -> dict[str, bytes]:
    return {
        k: v
        for i in range(8 * per_class)
        for k, v in face("train_set", i, i % 8, image=jpeg(i)).items()
    }


@pytest.fixture
def train_tar(tmp_path) -> Path:
    return tar(tmp_path / "train.tar", train_files())


def names(path: Path) -> set[str]:
    return {child.name for child in path.iterdir()}


def test_from_drawn_tars_to_a_dataset(drawn_tars, tmp_path, capsys):
    out = tmp_path / "dataset"
    assert main(["ingest", *map(str, drawn_tars), "--out", str(out)]) == 0
    assert names(out) == {
        "train.arrow",
        "val.arrow",
        "test.arrow",
        "dataset.json",
        "dropped.csv",
    }
    info = DatasetInfo.read(out)
    sizes = {name: len(open_split(out, name)) for name in ("train", "val", "test")}
    assert sizes == {"train": 8 * 19, "val": 8 * 5, "test": 8 * 6}
    for name, n in {"train": 19, "val": 5, "test": 6}.items():
        assert info.counts[name] == dict.fromkeys(EXPRESSIONS, n)
    assert info.dropped == {}
    assert info.release == "affectnet"
    assert info.settings["seed"] == 42
    assert content_hash(out) == info.content_hash
    train = open_split(out, "train")
    assert train.landmarks(0).shape == (68, 2)
    assert decode_image(train.image_bytes(0)).shape == (64, 64, 3)
    printed = capsys.readouterr().out
    assert "happiness" in printed
    assert "240" in printed
    assert "dropped: none" in printed


def test_split_is_the_documented_one(train_tar, tmp_path):
    ingest(IngestConfig((train_tar,), tmp_path / "d", val_fraction=0.4, seed=7))
    ids = [str(i) for i in range(40)]
    expected = stratified_split(ids, np.arange(40) % 8, 0.4, 7)
    assert open_split(tmp_path / "d", "val").ids == [ids[i] for i in np.flatnonzero(expected)]
    assert open_split(tmp_path / "d", "train").ids == [ids[i] for i in np.flatnonzero(~expected)]


def test_either_part_is_enough(train_tar, tmp_path):
    test_tar = tar(tmp_path / "test.tar", face("val_set", "1", 3))
    ingest(IngestConfig((train_tar,), tmp_path / "a"))
    ingest(IngestConfig((test_tar,), tmp_path / "b"))
    assert names(tmp_path / "a") >= {"train.arrow", "val.arrow"}
    assert "test.arrow" not in names(tmp_path / "a")
    assert names(tmp_path / "b") == {"test.arrow", "dataset.json", "dropped.csv"}
    ingest(IngestConfig((train_tar,), tmp_path / "c", val_fraction=0))
    assert "val.arrow" not in names(tmp_path / "c")
    assert len(open_split(tmp_path / "c", "train")) == 40


def test_classes_are_capped_and_the_rest_is_counted(train_tar, tmp_path, capsys):
    files = train_files() | face("val_set", "1", 3) | face("val_set", "2", 3)
    info = ingest(IngestConfig((tar(tmp_path / "x", files),), tmp_path / "d", max_per_class=3))
    both = [info.counts["train"][name] + info.counts["val"][name] for name in EXPRESSIONS]
    assert both == [3] * 8
    assert info.counts["test"]["surprise"] == 2
    assert info.settings["left_out_by_cap"] == 16
    assert "left out by --max-per-class 3: 16 faces" in capsys.readouterr().out
    assert info.dropped == {}
    assert train_tar.exists()


def test_faults_are_dropped_counted_and_listed(tmp_path, capsys):
    whole = jpeg(1, size=64)
    bad = {
        "no_val": ("missing annotation", {"val": None}),
        "garbled": ("unreadable annotation", {"exp": b"\x93NUMPY garbled"}),
        "cut": ("truncated image", {"image": whole[:-200]}),
        "text": ("undecodable image", {"image": b"hello"}),
        "label_9": ("label outside 0-7", {"exp": npy("9")}),
        "outside": ("valence or arousal outside [-1, 1]", {"aro": npy("-1.5")}),
        "uncertain": ("valence or arousal is -2", {"val": npy("-2"), "aro": npy("-2")}),
        "orphan": ("image without annotation", {"exp": None, "val": None, "aro": None}),
        "imageless": ("annotation without image", {"image": None}),
    }
    files = train_files()
    for name, (_, changes) in bad.items():
        made = face("train_set", name, 1, image=whole)
        for piece, content in changes.items():
            path = "images/{}.jpg" if piece == "image" else "annotations/{}_" + f"{piece}.npy"
            path = f"train_set/{path.format(name)}"
            if content is None:
                del made[path]
            else:
                made[path] = content
        files |= made
    twice = tar(tmp_path / "again.tar", face("train_set", "7", 7, image=jpeg(1000)))
    out = tmp_path / "d"
    info = ingest(IngestConfig((tar(tmp_path / "x.tar", files), twice), out))
    expected = {name: reason for name, (reason, _) in bad.items()} | {"7": "duplicate id"}
    with (out / "dropped.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert {row["id"]: row["reason"] for row in listed} == expected
    assert all(row["part"] == "train_set" and row["detail"] for row in listed)
    assert info.dropped == dict.fromkeys(expected.values(), 1)
    assert len(open_split(out, "train")) + len(open_split(out, "val")) == 39
    printed = capsys.readouterr().out
    assert all(reason in printed for reason in expected.values())
    # The rest can be trained on.
    run = train(
        TrainConfig(
            data=(out,),
            backbone="resnet10t",
            image_size=32,
            pretrained=False,
            epochs=1,
            workers=0,
            accelerator="cpu",
            runs=tmp_path / "runs",
        )
    )
    assert (run.model / "model.safetensors").is_file()


def test_soft_labels_from_side_files(drawn_tars, tmp_path, capsys):
    header = "id," + ",".join(EXPRESSIONS)
    table = tmp_path / "soft.csv"
    table.write_text(f"{header}\n0,1,1,0,0,0,0,0,0\n5,0,0,0,0,0,0,3,1\nnobody,1,0,0,0,0,0,0,0\n")
    config = IngestConfig(drawn_tars, tmp_path / "d", soft=(Path(f"test={table}"),))
    ingest(config)
    test = open_split(tmp_path / "d", "test")
    assert test.soft[test.ids.index("0")].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    assert test.soft[test.ids.index("5")].tolist() == [0, 0, 0, 0, 0, 0, 0.75, 0.25]
    assert np.isnan(test.soft).sum() == 8 * (48 - 2)
    printed = capsys.readouterr().out
    assert "2 faces of val_set" in printed
    assert "; 1 id not found" in printed
    with pytest.raises(DataError, match="are in both parts"):
        ingest(IngestConfig(drawn_tars, tmp_path / "e", soft=(table,)))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "changes", [{"val_fraction": 1.0}, {"val_fraction": -0.1}, {"max_per_class": 0}]
)
def test_settings_are_checked_before_anything_is_read(tmp_path, changes):
    with pytest.raises(ConfigError, match="at least"):
        ingest(IngestConfig((tmp_path / "absent",), tmp_path / "d", **changes))
    with pytest.raises(ConfigError, match="no source"):
        ingest(IngestConfig((), tmp_path / "d"))


def test_an_existing_dataset_stays_until_the_new_one_is_complete(train_tar, tmp_path):
    out = tmp_path / "d"
    ingest(IngestConfig((train_tar,), out))
    before = (out / "dataset.json").read_text()
    with pytest.raises(RunError, match="--overwrite"):
        ingest(IngestConfig((train_tar,), out))
    whole = train_tar.read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        ingest(IngestConfig((tmp_path / "cut.tar",), out, overwrite=True))
    assert (out / "dataset.json").read_text() == before
    assert len(open_split(out, "train")) == 32
    assert names(tmp_path) == {"d", "train.tar", "cut.tar"}
    ingest(IngestConfig((train_tar,), out, overwrite=True, val_fraction=0))
    assert len(open_split(out, "train")) == 40
    assert names(tmp_path) == {"d", "train.tar", "cut.tar"}


def test_overwrite_deletes_nothing_but_a_dataset(train_tar, tmp_path):
    thesis = tmp_path / "home" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(DataError, match=r"files that are not a dataset's \(thesis.tex\)"):
        ingest(IngestConfig((train_tar,), tmp_path / "home", overwrite=True))
    with pytest.raises(DataError, match="is a file"):
        ingest(IngestConfig((train_tar,), thesis, overwrite=True))
    assert thesis.read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    ingest(IngestConfig((train_tar,), tmp_path / "empty", overwrite=True))


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"../train_set/images/1.jpg": b"x"}, "leads out of"),
        ({"/train_set/images/1.jpg": b"x"}, "leads out of"),
        ({"pictures/1.jpg": b"x"}, "contains no part of AffectNet"),
        (face("train_set", "1", 8), "none of the 1 faces"),
    ],
)
def test_unusable_sources_give_one_line_and_leave_no_files(tmp_path, files, word, capsys):
    archive = tar(tmp_path / "x.tar", files)
    assert main(["ingest", str(archive), "--out", str(tmp_path / "sub" / "d")]) == 2
    captured = capsys.readouterr()
    assert word in captured.err
    assert captured.err.count("\n") == 1
    assert names(tmp_path) <= {"x.tar", "sub"}
    assert not (tmp_path / "sub").exists() or names(tmp_path / "sub") == set()


LIMITED = """
import resource, sys
from affectnet.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main(["ingest", {source!r}, "--out", {out!r}, "--overwrite"]))
"""


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("limit", [1, 10_000])
def test_a_full_disk_gives_one_line_and_the_old_dataset_stays(train_tar, tmp_path, limit, packed):
    if packed:
        subprocess.run(["gzip", str(train_tar)], check=True)
        train_tar = train_tar.with_name("train.tar.gz")
    out = tmp_path / "d"
    ingest(IngestConfig((train_tar,), out))
    before = content_hash(out)
    code = LIMITED.format(limit=limit, source=str(train_tar), out=str(out))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"the disk of {out} is full" in done.stderr
    assert done.stderr.count("\n") == 1
    assert names(tmp_path) == {train_tar.name, "d"}
    assert content_hash(out) == before


def test_altered_images_are_found(drawn, tmp_path, capsys):
    copied = tmp_path / "copied"
    shutil.copytree(drawn, copied)
    assert main(["ingest", "--verify", str(copied)]) == 0
    assert "unchanged since ingest" in capsys.readouterr().out
    image = bytes(open_split(copied, "val").image_bytes(5))
    file = copied / "val.arrow"
    file.write_bytes(file.read_bytes().replace(image, image[:-40] + b"x" + image[-39:]))
    assert main(["ingest", "--verify", str(copied)]) == 2
    assert "was changed after ingest: the hash of its ids, labels" in capsys.readouterr().err
    assert main(["audit", str(copied), "--strict"]) == 1
    assert "ids, labels or images were changed after ingest" in capsys.readouterr().out
    assert main(["ingest", "x.tar", "--verify", str(copied)]) == 2
    assert "leave out sources and --out" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_files(train_tar, tmp_path, number):
    code = """
import sys, time
from affectnet.data.readers import engine
decode = engine.decode_image
def slow(data):
    print("reading", flush=True)
    time.sleep(0.2)
    return decode(data)
engine.decode_image = slow
from affectnet.cli import main
sys.exit(main(["ingest", sys.argv[1], "--out", sys.argv[2]]))
"""
    out = tmp_path / "d"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(train_tar), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "reading\n"
        assert any(".tmp" in name for name in names(tmp_path))
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in errors
    assert names(tmp_path) == {"train.tar"}


SLOW = """
import sys, time
from affectnet.data.readers import engine
decode = engine.decode_image
def slow(data):
    print("reading", flush=True)
    sys.stdin.readline()
    return decode(data)
engine.decode_image = slow
from affectnet.cli import main
sys.exit(main(["ingest", *sys.argv[1:]]))
"""


@contextmanager
def waiting_ingest(*args):
    """Another process that ingests, and waits within the first image until its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "reading\n"
        yield process
        process.kill()


def test_the_second_of_two_is_refused_and_the_first_completes(train_tar, tmp_path, capsys):
    out = tmp_path / "d"
    with waiting_ingest(train_tar, "--out", out) as process:
        assert main(["ingest", str(train_tar), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"another process (process {process.pid} on " in error
        process.communicate()
        assert process.returncode == 0
    assert names(tmp_path) == {"train.tar", "d"}
    assert content_hash(out) == DatasetInfo.read(out).content_hash


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_put_there_in_the_meantime_stays(train_tar, tmp_path, overwrite):
    out = tmp_path / "d"
    before = None
    if overwrite:
        ingest(IngestConfig((train_tar,), out))
        before = content_hash(out)
    with waiting_ingest(train_tar, "--out", out, *["--overwrite"] * overwrite) as process:
        out.mkdir(exist_ok=True)
        (out / "notes.txt").write_text("years of work")
        _, error = process.communicate()
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert ("notes.txt" if overwrite else "created by someone else") in error
    assert (out / "notes.txt").read_text() == "years of work"
    assert names(tmp_path) == {"train.tar", "d"}
    if overwrite:
        assert content_hash(out) == before


def test_a_killed_ingest_leaves_nothing_after_the_next(train_tar, tmp_path):
    out = tmp_path / "d"
    with waiting_ingest(train_tar, "--out", out) as process:
        process.kill()
    assert names(tmp_path) != {"train.tar"}
    ingest(IngestConfig((train_tar,), out))
    assert names(tmp_path) == {"train.tar", "d"}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_broken_archives_make_a_dataset_or_one_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("broken")
    archive = tar(folder / "x.tar", train_files(1))
    whole = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))
        whole[at : at + len(noise)] = noise
    archive.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    out = folder / "d"
    try:
        ingest(IngestConfig((archive,), out))
        made = True
    except AffectNetError:
        made = False
    assert names(folder) == {"x.tar", "d"} if made else {"x.tar"}
    if made:
        assert content_hash(out) == json.loads((out / "dataset.json").read_text())["content_hash"]


def test_real_faces_equal_their_source_row_by_row(ferplus, tmp_path):
    out = tmp_path / "d"
    soft = (ferplus / "train_and_val_soft.csv", ferplus / "test_soft.csv")
    tars = [ferplus / "test_set.tar.gz", ferplus / "train_and_val_set.tar.gz"]
    info = ingest(IngestConfig(tuple(tars), out, soft=soft))
    assert info.dropped == {}
    splits = {name: open_split(out, name) for name in ("train", "val", "test")}
    assert len(splits["train"]) + len(splits["val"]) == 25_045
    assert len(splits["test"]) == 3_191
    where = {
        ("val_set" if name == "test" else "train_set", face_id): (split, row)
        for name, split in splits.items()
        for row, face_id in enumerate(split.ids)
    }
    shares = {}
    for path, part in zip(soft, ("train_set", "val_set"), strict=True):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = np.array([float(row[name]) for name in EXPRESSIONS])
                shares[part, row["id"]] = values / values.sum()
    seen, numbers = set(), {}
    for path in tars:
        with tarfile.open(path) as archive:
            for member in archive:
                part, kind, name = member.name.split("/")
                content = archive.extractfile(member).read()
                if kind == "images":
                    split, row = where[part, name.removesuffix(".jpg")]
                    assert split.image_bytes(row) == content
                    if row % 10 == 0:
                        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
                        np.testing.assert_array_equal(decode_image(split.image_bytes(row)), pixels)
                    seen.add((part, name.removesuffix(".jpg")))
                else:
                    face_id, piece = name.removesuffix(".npy").rsplit("_", 1)
                    split, row = where[part, face_id]
                    column = {"exp": "expression", "val": "valence", "aro": "arousal"}[piece]
                    if content not in numbers:  # they repeat, and NumPy takes its time
                        numbers[content] = np.float32(np.load(io.BytesIO(content)).item())
                    assert getattr(split, column)[row] == numbers[content]
    assert seen == set(where)
    expected = np.array([shares[key] for key in where])
    found = np.concatenate([split.soft for split in splits.values()])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert splits["test"].landmarks(0) is None
