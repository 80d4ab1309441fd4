import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.readers.release_part import Dropped, ReleasePart
from affectnet.data.readers.soft import apply_soft, read_soft
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS

NAMES = {"train": "train_set", "test": "val_set"}
HEADER = "id," + ",".join(EXPRESSIONS)


def part(name: str, ids, dropped=()) -> ReleasePart:
    n = len(ids)
    return ReleasePart(
        name=name,
        ids=list(ids),
        expression=np.zeros(n, np.int8),
        valence=np.zeros(n, np.float32),
        arousal=np.zeros(n, np.float32),
        sources=[],
        source=np.zeros(n, np.int16),
        place=np.zeros(n, np.int64),
        size=np.zeros(n, np.int64),
        landmark_file=None,
        landmark_place=np.full(n, -1),
        dropped=[Dropped(name, i, "label outside 0-7", "") for i in dropped],
    )


def write(path, *rows: str, header: str = HEADER):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def one_hot(name: str, column: int) -> str:
    return f"{name}," + ",".join("1" if c == column else "0" for c in range(8))


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 50), min_size=8, max_size=8).filter(any), min_size=1, max_size=20
    ),
    st.permutations(["id", *EXPRESSIONS, "further"]),
)
def test_columns_in_any_order_and_rows_of_any_sum(tmp_path_factory, votes, order):
    path = tmp_path_factory.getbasetemp() / "soft.csv"
    lines = []
    for i, row in enumerate(votes):
        cells = dict(zip(EXPRESSIONS, map(str, row), strict=True)) | {"id": f"f{i}", "further": "?"}
        lines.append(",".join(cells[name] for name in order))
    ids, values = read_soft(write(path, *lines, header=",".join(order)))
    assert ids == [f"f{i}" for i in range(len(votes))]
    expected = np.array(votes, float)
    np.testing.assert_allclose(values, expected / expected.sum(1, keepdims=True), rtol=1e-6)


def test_a_byte_order_mark_and_empty_lines_do_not_matter(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(("\ufeff" + HEADER + "\r\n\r\n" + one_hot("a", 2) + "\r\n").encode())
    ids, values = read_soft(path)
    assert ids == ["a"]
    assert values[0, 2] == 1


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("b,0,0,0,0,0,0,0,0", "not all 0"),
        ("b,1,0,0,0,0,0,0,-1", "0 or more"),
        ("b,nan,0,0,0,0,0,0,1", "a number is missing"),
        ("b,1e308,1e308,0,0,0,0,0,1", "0 or more"),
        ("b,inf,0,0,0,0,0,0,1", "0 or more"),
        ("b,1,0,0,x,0,0,0,1", "'x' is not a number"),
        ("b,1,0,0", "4 values, but there are 9 columns"),
        (one_hot("a", 1), "is on line 2 too"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path, row, word):
    path = write(tmp_path / "s.csv", one_hot("a", 0), row, one_hot("c", 0))
    with pytest.raises(DataError, match=rf"s\.csv, line 3: .*{word}"):
        read_soft(path)


def test_columns_are_checked(tmp_path):
    with pytest.raises(DataError, match="no column 'sadness'; did you mean 'sadnes'"):
        read_soft(write(tmp_path / "s.csv", header=HEADER.replace("sadness", "sadnes")))
    with pytest.raises(DataError, match="more than one column 'fear'"):
        read_soft(write(tmp_path / "s.csv", header=HEADER + ",fear"))
    with pytest.raises(DataError, match="no rows"):
        read_soft(write(tmp_path / "s.csv"))
    with pytest.raises(DataError, match="does not exist"):
        read_soft(tmp_path / "absent.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(DataError, match="not a table; save it as CSV in UTF-8"):
        read_soft(tmp_path / "binary")


def test_ids_that_are_not_utf8_are_refused(tmp_path):
    path = write(tmp_path / "s.csv", one_hot("a", 0))
    path.write_bytes(path.read_bytes() + one_hot("é", 1).encode("latin-1"))
    with pytest.raises(DataError, match=r"line 3: the id '\\udce9' is not text in UTF-8"):
        read_soft(path)


def test_files_find_their_part_by_their_ids(tmp_path):
    parts = {"train_set": part("train_set", "abc", "d"), "val_set": part("val_set", "xy")}
    files = [
        write(tmp_path / "t.csv", one_hot("y", 3)),
        write(tmp_path / "v.csv", one_hot("c", 1), one_hot("d", 2), one_hot("gone", 4)),
    ]
    matches = apply_soft([str(f) for f in files], parts, NAMES)
    assert [(m.part, m.matched, m.unmatched) for m in matches] == [
        ("val_set", 1, 0),
        ("train_set", 1, 1),
    ]
    assert parts["val_set"].soft[1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert np.isnan(parts["val_set"].soft[0]).all()
    assert parts["train_set"].soft[2, 1] == 1
    values, absent = parts["train_set"].soft_labels(np.arange(3))
    assert absent.tolist() == [True, True, False]
    assert values[2, 1] == 1


def test_ids_in_both_parts_are_refused(tmp_path):
    def parts():
        return {"train_set": part("train_set", "abc"), "val_set": part("val_set", "ab")}

    path = write(tmp_path / "s.csv", one_hot("a", 0), one_hot("b", 1))
    with pytest.raises(DataError, match=r"2 of them in train_set and 2 .*--soft train=s.csv or"):
        apply_soft([str(path)], parts(), NAMES)
    for name, chosen in NAMES.items():
        both = parts()
        apply_soft([f"{name}={path}"], both, NAMES)
        assert both[chosen].soft[1, 1] == 1
        assert [p.soft is None for n, p in both.items() if n != chosen] == [True]


def test_files_that_fit_nowhere_are_refused(tmp_path):
    parts = {"train_set": part("train_set", "abc")}
    path = write(tmp_path / "s.csv", one_hot("x", 0), one_hot("y", 1), one_hot("a", 1))
    with pytest.raises(DataError, match=r"only 1 of its 3 ids .*--soft train=s\.csv"):
        apply_soft([str(path)], parts, NAMES)
    with pytest.raises(DataError, match="val_set was not read, only train_set"):
        apply_soft([f"test={path}"], parts, NAMES)
    assert apply_soft([f"train={path}"], parts, NAMES)[0].unmatched == 2
    other = write(tmp_path / "o.csv", one_hot("x", 0))
    with pytest.raises(DataError, match="none of its 1 ids"):
        apply_soft([str(other)], parts, NAMES)


def test_an_id_in_two_files_is_refused(tmp_path):
    parts = {"train_set": part("train_set", "abc")}
    path = write(tmp_path / "s.csv", one_hot("a", 0))
    with pytest.raises(DataError, match=r"'a' .train_set. again"):
        apply_soft([str(path), str(path)], parts, NAMES)
