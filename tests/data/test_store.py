import io
import json
import multiprocessing
import os
import pickle
import random
import traceback

import cv2
import numpy as np
import pyarrow as pa
import pytest
from drawn import write_faces
from PIL import Image, ImageFilter

from affectnet.data.store import (
    SCHEMA,
    DatasetInfo,
    Face,
    Split,
    brightness,
    image_columns,
    open_split,
    sharpness,
)
from affectnet.data.writer import split_writer
from affectnet.errors import DataError


def jpeg(value: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value % 256, 255 - value % 256, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def faces(n: int) -> list[Face]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        soft = rng.random(8).astype(np.float32)
        made.append(
            Face(
                id=f"face{i}",
                image=jpeg(i) + bytes(i % 7),
                expression=None if i % 5 == 0 else i % 8,
                valence=None if i % 3 == 0 else float(np.float32(rng.uniform(-1, 1))),
                arousal=None if i % 4 == 0 else float(np.float32(rng.uniform(-1, 1))),
                landmarks=None if i % 2 else (rng.random((68, 2)) * 224).astype(np.float32),
                soft=None if i % 6 == 0 else soft / soft.sum(),
            )
        )
    return made


def write(path, rows):
    write_faces(path, rows)
    return Split(path)


def same(a: Face, b: Face) -> bool:
    def arrays(x, y):
        return (x is None and y is None) or np.array_equal(x, y)

    return (
        (a.id, a.image, a.expression, a.valence, a.arousal)
        == (b.id, b.image, b.expression, b.valence, b.arousal)
        and arrays(a.landmarks, b.landmarks)
        and arrays(a.soft, b.soft)
    )


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 2500])
def test_what_is_written_is_read(tmp_path, n):
    rows = faces(n)
    split = write(tmp_path / "train.arrow", rows)
    assert len(split) == n
    assert split.ids == [face.id for face in rows]
    assert split.schema.equals(SCHEMA)
    assert split.expression.dtype == np.int8
    assert split.valence.dtype == split.arousal.dtype == split.soft.dtype == np.float32
    assert split.soft.shape == (n, 8)
    nan = float("nan")
    for i, face in enumerate(rows):
        assert bytes(split.image_bytes(i)) == face.image
        assert split.expression[i] == (-1 if face.expression is None else face.expression)
        for name in ("valence", "arousal"):
            known = getattr(face, name)
            np.testing.assert_equal(
                getattr(split, name)[i], np.float32(nan if known is None else known)
            )
        np.testing.assert_array_equal(
            split.soft[i], np.full(8, nan) if face.soft is None else face.soft
        )
    for i in {0, n // 2, n - 1} & set(range(n)):
        assert same(split.face(i), rows[i])
        assert (split.landmarks(i) is None) == (rows[i].landmarks is None)


def test_batches_of_odd_lengths_are_found(tmp_path):
    rows = faces(60)
    whole = write(tmp_path / "whole.arrow", rows)
    table = pa.table({name: whole.column(name) for name in SCHEMA.names}, schema=SCHEMA)
    batch = table.combine_chunks().to_batches()[0]
    with split_writer(tmp_path / "pieces.arrow") as writer:
        for start, stop in [(0, 1), (1, 1), (1, 30), (30, 31), (31, 60)]:
            writer.write_batch(batch.slice(start, stop - start))
    pieces = Split(tmp_path / "pieces.arrow")
    assert all(same(pieces.face(i), rows[i]) for i in range(60))
    np.testing.assert_array_equal(pieces.soft, whole.soft)


def test_rows_outside_the_split_are_refused(tmp_path):
    split = write(tmp_path / "val.arrow", faces(3))
    for row in (-1, 3):
        with pytest.raises(IndexError, match=f"row {row} of a split of 3 rows"):
            split.image_bytes(row)


def test_images_are_views_of_the_mapped_file(tmp_path):
    split = write(tmp_path / "val.arrow", faces(3))
    before = pa.total_allocated_bytes()
    views = [split.image_bytes(i) for i in range(3)]
    assert pa.total_allocated_bytes() == before
    assert all(view.readonly for view in views)
    inner = {memoryview(view.obj).nbytes for view in views}
    assert len(inner) == 1, "all rows of a batch are views of one buffer"


def test_labels_cannot_be_changed_by_accident(tmp_path):
    split = write(tmp_path / "val.arrow", faces(30))
    with pytest.raises(ValueError, match="read-only"):
        split.expression[0] = 3
    assert split.expression is split.expression


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same(tmp_path, method):
    split = write(tmp_path / "train.arrow", faces(1100))
    assert len(pickle.dumps(split)) < 1000
    rows = range(0, len(split), 97)
    # A function of the package: a spawned process cannot import this file.
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(Split.face, [(split, row) for row in rows])
    assert [(f.id, f.image, f.valence) for f in found] == [
        (f.id, f.image, f.valence) for f in map(split.face, rows)
    ]


def test_extra_columns_stay_readable(tmp_path):
    schema = SCHEMA.append(pa.field("age", pa.int16()))
    plain = write(tmp_path / "plain.arrow", faces(3))
    columns = [plain.column(name).combine_chunks() for name in SCHEMA.names]
    with split_writer(tmp_path / "more.arrow", schema) as writer:
        columns.append(pa.array([30, None, 50], pa.int16()))
        writer.write_batch(pa.record_batch(columns, schema=schema))
    split = Split(tmp_path / "more.arrow")
    assert split.column("age").to_pylist() == [30, None, 50]
    with pytest.raises(DataError, match="no column 'valense'; did you mean 'valence'"):
        split.column("valense")


def test_damaged_files_are_data_errors(tmp_path):
    path = tmp_path / "train.arrow"
    write(path, faces(50))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole[: len(whole) // 2], b"x" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="affectnet ingest"):
            Split(path)
    with pytest.raises(DataError, match="affectnet ingest"):
        Split(tmp_path / "absent.arrow")


def stored(path, offsets):
    """Return where a sequence of int64 offsets lies in a file."""
    return path.read_bytes().index(np.array(offsets, np.int64).tobytes())


@pytest.mark.parametrize("value", [2**62, -1, 10**6, 0])
def test_wrong_offsets_are_refused_instead_of_read(tmp_path, value):
    rows = faces(30)
    path = tmp_path / "val.arrow"
    write(path, rows)
    ends = np.cumsum([0, *(len(face.image) for face in rows)])
    at = stored(path, ends) + 8 * 15
    data = bytearray(path.read_bytes())
    data[at : at + 8] = np.int64(value).tobytes()
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as a split"):
        Split(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": [b"a", b"\xff\xfe"]}, "UTF8|UTF-8"),
        ({"id": [b"a", None]}, "without id"),
        ({"image": [b"x", None]}, "without id or image"),
        ({"expression": [0, 99]}, "labels outside 0 to 7"),
        ({"valence": [0.5, 7.0]}, "valence or arousal outside"),
        ({"arousal": [np.inf, None]}, "valence or arousal outside"),
    ],
)
def test_impossible_content_is_refused(tmp_path, change, says):
    values = {"id": [b"a", b"b"], "image": [b"x", b"y"]} | change
    columns = {
        field.name: pa.array(values.get(field.name, [None, None]), field.type)
        if field.name != "id"
        else pa.array(values["id"], pa.binary()).view(pa.string())
        for field in SCHEMA
    }
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    with split_writer(tmp_path / "val.arrow", loose) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=loose))
    with pytest.raises(DataError, match=says):
        Split(tmp_path / "val.arrow")


def read_all(path):
    """Read everything in a split; exit with 3 for anything but a `DataError`."""
    try:
        split = Split(path)
        for row in range(len(split)):
            split.face(row)
        assert len(split.soft) == len(split.ids) == len(split)
    except DataError:
        pass
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_mutated_files_are_read_or_refused(tmp_path, count):
    """In a process each: a wrong offset would end it by a segmentation fault."""
    write(tmp_path / "whole.arrow", faces(40))
    whole, path = (tmp_path / "whole.arrow").read_bytes(), tmp_path / "val.arrow"
    patterns = [b"\xff" * 8, bytes(8), (2**62).to_bytes(8, "little"), b"\xff\xff\xff\x7f", b"\x80"]
    for seed in range(count):
        draw, data = random.Random(seed), bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            at, way = draw.randrange(max(1, len(data))), draw.randrange(8)
            token = draw.choice([*patterns, draw.randbytes(8)])
            if way < 6:
                data[at : at + len(token)] = token
            elif way == 6:
                del data[at : at + draw.randint(1, 64)]
            elif draw.random() < 0.3:
                del data[at:]
        path.write_bytes(data)
        child = os.fork()
        if child == 0:
            read_all(path)
        assert os.waitpid(child, 0)[1] == 0, f"seed {seed}"


def test_a_file_of_another_schema_is_refused(tmp_path):
    table = pa.table({"id": ["a"], "image": pa.array([b"x"], pa.binary())})
    with (
        pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(DataError, match="no column 'image' of type large_binary"):
        Split(tmp_path / "t.arrow")


def info() -> DatasetInfo:
    return DatasetInfo(
        source=["a.tar", "b.tar"],
        release="affectnet-8",
        counts={"train": {"neutral": 3}},
        dropped={"duplicate id": 1},
        content_hash="00",
        version="0",
        settings={"seed": 42, "val_fraction": 0.2},
    )


def test_dataset_json_comes_back(tmp_path):
    info().write(tmp_path)
    assert DatasetInfo.read(tmp_path) == info()
    assert json.loads((tmp_path / "dataset.json").read_text())["settings"]["seed"] == 42


def test_open_split_names_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"has no dataset.json.*affectnet ingest"):
        open_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"does not exist.*affectnet ingest"):
        open_split(tmp_path / "absent", "train")
    info().write(tmp_path)
    write(tmp_path / "train.arrow", faces(2))
    write(tmp_path / "val.arrow", faces(1))
    assert len(open_split(tmp_path, "train")) == 2
    with pytest.raises(
        DataError, match="no split 'vall'; did you mean 'val'\\?; it has train, val"
    ):
        open_split(tmp_path, "vall")


def test_damaged_dataset_json_is_a_data_error(tmp_path):
    for text in ("{", "[]", '{"source": []}', "\xff"):
        (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError):
            DatasetInfo.read(tmp_path)


def test_brightness_is_that_of_pillow_in_grey():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=float)
    assert brightness(image) == pytest.approx(grey.mean() / 255, abs=0.003)
    assert brightness(np.full((5, 5, 3), 255, np.uint8)) == pytest.approx(1.0)


def test_sharpness_is_that_of_opencv_and_falls_with_blur():
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    grey = image @ np.array([0.299, 0.587, 0.114])
    theirs = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1].var()
    assert sharpness(image) == pytest.approx(theirs)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    assert sharpness(blurred) < sharpness(image) / 10
    assert sharpness(np.zeros((2, 2, 3), np.uint8)) == 0.0


def test_columns_follow_the_rows(drawn):
    split = open_split(drawn, "test")
    columns = image_columns(split, ["brightness", "sharpness"])
    assert list(columns) == ["brightness", "sharpness"]
    assert all(column.shape == (len(split),) for column in columns.values())
    assert ((columns["brightness"] > 0) & (columns["brightness"] < 1)).all()
    assert np.ptp(columns["sharpness"]) > 0
    assert image_columns(split, []) == {}
