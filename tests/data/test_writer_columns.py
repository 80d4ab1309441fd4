import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.writer import known, numbers, numbers_column, text_column


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text(texts):
    column = text_column(texts)
    column.validate(full=True)
    assert column.equals(pa.array(texts, pa.string()))


@pytest.mark.parametrize("kind", [pa.int8(), pa.float32(), pa.float64(), pa.int64()])
@settings(deadline=None)
@given(values=st.lists(st.none() | st.integers(-100, 100)), begin=st.integers(0, 20))
def test_numbers(kind, values, begin):
    absent = np.array([value is None for value in values], bool)
    filled = np.array([value or 0 for value in values], kind.to_pandas_dtype())
    column = numbers_column(kind, filled, absent)
    column.validate(full=True)
    assert column.equals(pa.array(values, kind))
    assert column.null_count == absent.sum()
    for made in (column, pa.array(values, kind)):
        part = made.slice(begin)
        np.testing.assert_array_equal(known(part), ~absent[begin:])
        np.testing.assert_array_equal(numbers(part)[known(part)], filled[begin:][~absent[begin:]])


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 9), min_size=3, max_size=3)), st.integers(0, 5))
def test_lists(rows, begin):
    kind = pa.list_(pa.float32(), 3)
    absent = np.array([row is None for row in rows], bool)
    filled = np.array([row or [0] * 3 for row in rows], np.float32).reshape(-1, 3)
    column = numbers_column(kind, filled, absent)
    column.validate(full=True)
    assert column.to_pylist() == pa.array(rows, kind).to_pylist()
    for made in (column, pa.array(rows, kind)):
        part = made.slice(begin)
        np.testing.assert_array_equal(known(part), ~absent[begin:])
        assert numbers(part).shape == (max(0, len(rows) - begin), 3)
        np.testing.assert_array_equal(numbers(part)[known(part)], filled[begin:][~absent[begin:]])
