import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.readers.npy import NpyScalars, read_points


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
    assert NpyScalars().read(save(array, version)) == 0.5


@settings(deadline=None)
@given(st.integers(-(2**40), 2**40))
def test_integers(value):
    for array in (np.array(value), np.array(str(value)), np.array([value])):
        assert NpyScalars().read(save(array)) == value


@settings(deadline=None)
@given(st.floats(allow_nan=False))
def test_floats_come_back_exactly(value):
    reader = NpyScalars()
    for _ in range(2):  # once read, once remembered
        assert reader.read(save(np.array(value))) == value
        assert reader.read(save(np.array(repr(value)))) == value


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"12", r"no \.npy"),
        (save(np.array("1"))[:-1], ""),
        (save(np.array("happy")), "'happy' is no number"),
        (save(np.array("1_0")), "no number"),
        (save(np.array("")), "no number"),
        (save(np.array([1, 2])), "shape"),
        (save(np.array([[1]])), "shape"),
        (save(np.array(True)), "type bool"),
        (save(np.array(1j)), "type complex128"),
        (save(np.array("2020-01-01", "M8[D]")), "type datetime64"),
        (b"\x93NUMPY\x01\x00", ""),
        (bytes(100_000), "bytes where"),
    ],
    ids=range(13),
)
def test_what_is_no_number_is_told(data, word):
    problem = NpyScalars().read(data)
    assert isinstance(problem, str)
    assert problem
    assert re.search(word, problem)


def test_pickles_are_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "allow_pickle" in NpyScalars().read(buffer.getvalue())


def test_text_that_is_no_unicode():
    for dtype in ("<U1", ">U1"):
        damaged = save(np.array("1", dtype))[:-4] + b"\xff\xff\xff\x7f"
        assert NpyScalars().read(damaged) == "text that is no Unicode"
    damaged = save(np.full(136, "1"))[:-4] + b"\xff\xff\xff\x7f"
    assert read_points(damaged, 68) == "text that is no Unicode"


def test_a_forged_shape_takes_no_memory():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    assert isinstance(NpyScalars().read(forged), str)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_give_a_number_or_a_sentence(data):
    array = data.draw(st.sampled_from([np.array("0.25"), np.array(1.5), np.array([7])]))
    whole = bytearray(save(array))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for forged in (bytes(whole), bytes(whole[:cut])):
        assert isinstance(NpyScalars().read(forged), float | str)
        assert isinstance(read_points(forged, 68), bytes | str)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "<i4", "U12"])
@pytest.mark.parametrize("shape", [(136,), (68, 2), (1, 136)])
def test_points_in_every_form(dtype, shape):
    points = np.arange(136).astype(dtype)
    read = read_points(save(points.reshape(shape)), 68)
    np.testing.assert_array_equal(np.frombuffer(read, "<f4"), np.arange(136, dtype="f4"))


def test_points_in_column_order():
    points = np.asfortranarray(np.arange(136.0).reshape(68, 2))
    read = read_points(save(points), 68)
    np.testing.assert_array_equal(np.frombuffer(read, "<f4"), np.arange(136, dtype="f4"))


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros(135), "135 numbers"),
        (np.zeros(136, bool), "type bool"),
        (np.full(136, np.nan), "finite"),
        (np.full(136, 1e300), "finite"),
        (np.full(136, "x"), "no numbers"),
    ],
)
def test_bad_points_are_told(array, word):
    assert word in read_points(save(array), 68)
