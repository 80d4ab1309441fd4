import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data import writer as writing
from affectnet.data.readers.archive import Spool
from affectnet.data.readers.release_part import ReleasePart
from affectnet.data.store import SCHEMA, Split
from affectnet.data.writer import (
    content_hash,
    known,
    numbers,
    numbers_column,
    split_writer,
    text_column,
    write_splits,
)
from affectnet.errors import DataError


class Images:
    """A source that holds its images in memory."""

    name = "memory"

    def __init__(self, images: list[bytes]) -> None:
        self.images = images

    def read_into(self, places, targets):
        for place, target in zip(places, targets, strict=True):
            target[:] = self.images[place]


@pytest.fixture
def part(tmp_path):
    return make_part(tmp_path, 2500)


def make_part(folder, n: int) -> ReleasePart:
    rng = np.random.default_rng(0)
    images = [rng.bytes(int(size)) for size in rng.integers(0, 900, n)]
    spool = Spool(folder)
    points = rng.random((n, 136)).astype("<f4")
    places = [spool.append(row.tobytes()) if i % 3 else -1 for i, row in enumerate(points)]
    soft = rng.random((n, 8)).astype(np.float32)
    soft[::4] = np.nan
    half = n // 2
    return ReleasePart(
        name="train_set",
        ids=[f"é{i}" for i in range(n)],
        expression=rng.integers(-1, 8, n).astype(np.int8),
        valence=np.where(rng.random(n) < 0.1, np.nan, rng.uniform(-1, 1, n)).astype(np.float32),
        arousal=rng.uniform(-1, 1, n).astype(np.float32),
        sources=[Images(images[:half]), Images(images[half:])],
        source=np.array([i >= half for i in range(n)], np.int16),
        place=np.array([i % half if i < 2 * half else half for i in range(n)], np.int64),
        size=np.array([len(image) for image in images], np.int64),
        landmark_file=spool,
        landmark_place=np.array(places, np.int64),
        dropped=[],
        soft=soft,
    )


def test_rows_come_out_as_they_went_in(tmp_path, part, monkeypatch):
    monkeypatch.setattr(writing, "BATCH_BYTES", 50_000)
    rows = np.random.default_rng(1).permutation(2500)[:2100]
    done = []
    write_splits(tmp_path, {"val": (part, rows)}, done.append)
    assert sum(done) == 2100
    split = Split(tmp_path / "val.arrow")
    assert split.schema.equals(SCHEMA)
    assert max(batch.num_rows for batch in split.batches()) < 200
    assert split.ids == [part.ids[row] for row in rows]
    np.testing.assert_array_equal(split.expression, part.expression[rows])
    np.testing.assert_array_equal(split.valence, part.valence[rows])
    np.testing.assert_array_equal(split.arousal, part.arousal[rows])
    np.testing.assert_array_equal(split.soft, part.soft[rows])
    points, absent = part.landmarks(rows)
    for i, row in enumerate(rows.tolist()):
        source = part.sources[part.source[row]]
        assert bytes(split.image_bytes(i)) == source.images[part.place[row]]
        if i % 50 == 0:
            assert (split.landmarks(i) is None) == absent[i] == (row % 3 == 0)
            if not absent[i]:
                np.testing.assert_array_equal(split.landmarks(i).ravel(), points[i])


def test_images_larger_than_a_batch_come_alone(tmp_path, part, monkeypatch):
    monkeypatch.setattr(writing, "BATCH_BYTES", 10)
    write_splits(tmp_path, {"val": (part, np.arange(40))}, lambda _: None)
    sizes = [len(Split(tmp_path / "val.arrow").image_bytes(i)) for i in range(40)]
    assert sizes == part.size[:40].tolist()


def test_splits_without_rows_get_no_file(tmp_path, part):
    empty = np.array([], np.int64)
    write_splits(tmp_path, {"train": (part, np.arange(3)), "val": (part, empty)}, lambda _: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.arrow"]


def test_hash_of_the_files_is_the_same_for_any_batches(tmp_path, part, monkeypatch):
    splits = {"train": (part, np.arange(2000)), "val": (part, np.arange(2000, 2500))}
    first = write_splits(tmp_path, splits, lambda _: None)
    assert content_hash(tmp_path) == first
    monkeypatch.setattr(writing, "BATCH_BYTES", 7000)
    assert write_splits(tmp_path, splits, lambda _: None) == first
    assert content_hash(tmp_path) == first


@pytest.mark.parametrize("column", SCHEMA.names)
def test_hash_sees_every_column(tmp_path, part, column):
    first = write_splits(tmp_path, {"train": (part, np.arange(50))}, lambda _: None)
    # Read into memory: the file is replaced below.
    table = pa.ipc.open_file((tmp_path / "train.arrow").read_bytes()).read_all()
    cells = table.column(column).to_pylist()
    at = next(i for i, cell in enumerate(cells) if cell is not None)
    for value in CHANGES[column](cells[at]):
        altered = [*cells[:at], value, *cells[at + 1 :]]
        columns = [
            pa.array(altered, SCHEMA.field(name).type)
            if name == column
            else table.column(name).combine_chunks()
            for name in SCHEMA.names
        ]
        with split_writer(tmp_path / "train.arrow") as writer:
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        assert content_hash(tmp_path) != first


CHANGES = {
    "id": lambda old: [old + "x", "x" + old[1:]],
    "image": lambda old: [old + b"x", bytes([old[0] ^ 1]) + old[1:]],
    "expression": lambda old: [(old + 1) % 8, None],
    "valence": lambda old: [-old, None],
    "arousal": lambda old: [-old, None],
    "landmarks": lambda old: [[*old[1:], old[0]], None],
    "soft": lambda old: [[*old[1:], old[0]], None],
}


def test_failing_sources_leave_no_file(tmp_path, part):
    def fail(*_):
        raise DataError("gone")

    part.sources[1].read_into = fail
    with pytest.raises(DataError, match="gone"):
        write_splits(tmp_path, {"train": (part, np.arange(2500))}, lambda _: None)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
from test_writer import make_part
from affectnet.data.writer import write_splits
folder = Path({out!r})
part = make_part(folder, 2500)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_splits(folder, {{"train": (part, np.arange(2500))}}, lambda _: None)
except OSError as error:
    print(error.errno, [p.name for p in folder.iterdir()])
"""


@pytest.mark.parametrize("limit", [1000, 1_000_000, 2_000_000])
def test_a_full_disk_is_an_os_error_and_leaves_no_file(tmp_path, limit):
    folder = str(Path(__file__).parent)
    code = FULL_DISK.format(folder=folder, out=str(tmp_path), limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{errno.EFBIG} []", done.stderr


def test_a_failed_writer_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), split_writer(tmp_path / "train.arrow"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_columns_of_text(texts):
    column = text_column(texts)
    column.validate(full=True)
    assert column.equals(pa.array(texts, pa.string()))


@pytest.mark.parametrize("kind", [pa.int8(), pa.float32(), pa.float64(), pa.int64()])
@settings(deadline=None)
@given(values=st.lists(st.none() | st.integers(-100, 100)), begin=st.integers(0, 20))
def test_columns_of_numbers(kind, values, begin):
    absent = np.array([value is None for value in values], bool)
    filled = np.array([value or 0 for value in values], kind.to_pandas_dtype())
    column = numbers_column(kind, filled, absent)
    column.validate(full=True)
    assert column.equals(pa.array(values, kind))
    assert column.null_count == absent.sum()
    for made in (column, pa.array(values, kind)):
        piece = made.slice(begin)
        np.testing.assert_array_equal(known(piece), ~absent[begin:])
        np.testing.assert_array_equal(numbers(piece)[known(piece)], filled[begin:][~absent[begin:]])


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 9), min_size=3, max_size=3)), st.integers(0, 5))
def test_columns_of_lists(rows, begin):
    kind = pa.list_(pa.float32(), 3)
    absent = np.array([row is None for row in rows], bool)
    filled = np.array([row or [0] * 3 for row in rows], np.float32).reshape(-1, 3)
    column = numbers_column(kind, filled, absent)
    column.validate(full=True)
    assert column.to_pylist() == pa.array(rows, kind).to_pylist()
    for made in (column, pa.array(rows, kind)):
        piece = made.slice(begin)
        np.testing.assert_array_equal(known(piece), ~absent[begin:])
        assert numbers(piece).shape == (max(0, len(rows) - begin), 3)
        np.testing.assert_array_equal(numbers(piece)[known(piece)], filled[begin:][~absent[begin:]])
