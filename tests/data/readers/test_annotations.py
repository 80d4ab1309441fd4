import io
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.readers.annotations import (
    Bad,
    affect,
    as_text,
    find_key,
    number,
    open_csv,
    points,
    read_npy_number,
    read_npy_points,
    shares,
)
from affectnet.errors import DataError

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=200,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(" 0.5 ", 0.5), ("1e-3", 0.001), (3, 3.0), ("", None), (None, None), ("nan", None)],
)
def test_numbers(value, expected):
    assert number(value, "x") == expected


@pytest.mark.parametrize("value", ["1_0", "one", True, [1], {}, b"1", 10**400])
def test_values_that_are_not_numbers(value):
    with pytest.raises(Bad):
        number(value, "x")


@given(anything)
def test_anything_is_read_or_bad(value):
    for read in (
        lambda v: number(v, "x"),
        lambda v: affect(v, "x"),
        points,
        lambda v: shares(v, "x"),
    ):
        try:
            found = read(value)
        except Bad:
            continue
        assert found is None or np.isfinite(found).all() or math.isinf(found)
    assert as_text(value) is None or as_text(value)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=136, max_size=136))
def test_landmarks_in_every_form(flat):
    expected = np.array(flat, np.float32).reshape(68, 2)
    pairs = expected.tolist()
    for form in (flat, pairs, ";".join(map(repr, flat)), str(flat), expected):
        np.testing.assert_array_equal(points(form), expected)


def test_shares_are_divided_by_their_sum():
    assert shares([2, 2, 0, 0, 0, 0, 0, 4], "x").tolist() == [0.25, 0.25, 0, 0, 0, 0, 0, 0.5]


def test_keys():
    assert find_key({"Meta_Data": 1, "x": 2}, "meta-data") == 1
    assert find_key({}, "meta-data") is None


def test_csv_rows_come_with_their_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfa,b\r\n\r\n"x, y",2\n\xff,3')
    with open_csv(file, lambda *_: None) as rows:
        assert list(rows) == [(1, ["a", "b"]), (3, ["x, y", "2"]), (4, ["\udcff", "3"])]
    file.write_text('a\n"b\nc')
    with pytest.raises(DataError, match="line 2: a quote opens"), open_csv(file, print) as rows:
        list(rows)
    file.write_text("a" * 200_000)
    with pytest.raises(DataError, match="not CSV"), open_csv(file, print) as rows:
        list(rows)
    with pytest.raises(DataError, match="does not exist"), open_csv(tmp_path, print) as rows:
        list(rows)


def save(array, version=None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.array("0.5"),
        np.array(["0.5"]),
        np.array("0.5", "<U30"),
        np.array("0.5", ">U5"),
        np.array(b"0.5"),
        np.array([b"0.5"], "S9"),
        np.array(0.5),
        np.array([0.5], np.float32),
        np.array(0.5, ">f8"),
        np.array(0.5, np.float16),
        np.array([[0.5]])[0],
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_way_to_write_one_number(array, version):
    assert read_npy_number(save(array, version)) == 0.5


@settings(deadline=None)
@given(st.integers(-(2**40), 2**40))
def test_npy_integers(value):
    for array in (np.array(value), np.array(str(value)), np.array([value])):
        assert read_npy_number(save(array)) == value


@settings(deadline=None)
@given(st.floats(allow_nan=False))
def test_npy_floats_are_exact(value):
    for _ in range(2):  # once read, once remembered
        assert read_npy_number(save(np.array(value))) == value
        assert read_npy_number(save(np.array(repr(value)))) == value


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"12", r"not a \.npy"),
        (save(np.array("1"))[:-1], ""),
        (save(np.array("happy")), "'happy' is not a number"),
        (save(np.array("1_0")), "not a number"),
        (save(np.array("")), "not a number"),
        (save(np.array([1, 2])), "shape"),
        (save(np.array([[1]])), "shape"),
        (save(np.array(True)), "type bool"),
        (save(np.array(1j)), "type complex128"),
        (save(np.array("2020-01-01", "M8[D]")), "type datetime64"),
        (b"\x93NUMPY\x01\x00", ""),
        (bytes(100_000), "bytes instead"),
    ],
    ids=range(13),
)
def test_files_without_a_number_give_a_reason(data, word):
    problem = read_npy_number(data)
    assert isinstance(problem, str)
    assert problem
    assert re.search(word, problem)


def test_pickles_are_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "pickled objects, which can run code" in read_npy_number(buffer.getvalue())


def test_text_that_is_not_unicode():
    for dtype in ("<U1", ">U1"):
        damaged = save(np.array("1", dtype))[:-4] + b"\xff\xff\xff\x7f"
        assert read_npy_number(damaged) == "text that is not Unicode"
    damaged = save(np.full(136, "1"))[:-4] + b"\xff\xff\xff\x7f"
    assert read_npy_points(damaged, 68) == "text that is not Unicode"


def test_a_forged_shape_takes_no_memory():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    assert isinstance(read_npy_number(forged), str)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_give_a_number_or_a_sentence(data):
    array = data.draw(st.sampled_from([np.array("0.25"), np.array(1.5), np.array([7])]))
    whole = bytearray(save(array))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for forged in (bytes(whole), bytes(whole[:cut])):
        assert isinstance(read_npy_number(forged), float | str)
        assert isinstance(read_npy_points(forged, 68), bytes | str)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "<i4", "U12"])
@pytest.mark.parametrize("shape", [(136,), (68, 2), (1, 136)])
def test_npy_points_in_every_form(dtype, shape):
    points = np.arange(136).astype(dtype)
    read = read_npy_points(save(points.reshape(shape)), 68)
    np.testing.assert_array_equal(np.frombuffer(read, "<f4"), np.arange(136, dtype="f4"))


def test_points_in_column_order():
    points = np.asfortranarray(np.arange(136.0).reshape(68, 2))
    read = read_npy_points(save(points), 68)
    np.testing.assert_array_equal(np.frombuffer(read, "<f4"), np.arange(136, dtype="f4"))


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros(135), "135 numbers"),
        (np.zeros(136, bool), "type bool"),
        (np.full(136, np.nan), "finite"),
        (np.full(136, 1e300), "finite"),
        (np.full(136, "x"), "not numbers"),
    ],
)
def test_bad_points_give_a_reason(array, word):
    assert word in read_npy_points(save(array), 68)
