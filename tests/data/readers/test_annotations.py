import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.data.readers.annotations import (
    Bad,
    affect,
    as_text,
    find_key,
    number,
    open_csv,
    points,
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
def test_no_numbers(value):
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
    with pytest.raises(DataError, match="no CSV"), open_csv(file, print) as rows:
        list(rows)
    with pytest.raises(DataError, match="does not exist"), open_csv(tmp_path, print) as rows:
        list(rows)
