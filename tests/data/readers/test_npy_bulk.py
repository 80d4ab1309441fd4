import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.readers.npy import (
    NpyScalars,
    group_names,
    plain_numbers,
    plain_points,
    read_points,
)

ENDINGS = (b"_exp.npy", b"_val.npy", b".jpg")
STEMS = st.text("ab0_.", max_size=6).map(str.encode)
FOLDERS = st.sampled_from([b"", b"/", b"a/", b"train_set/images/", b"x/train_set/images/", b"./a/"])
NAMES = st.builds(
    lambda folder, stem, ending: folder + stem + ending,
    FOLDERS,
    STEMS,
    st.sampled_from([*ENDINGS, b".png", b"", b".npy", b"exp.npy"]),
).filter(bool)


def one_by_one(names):
    """The same by the definition."""
    groups, alone = {}, []
    for i, name in enumerate(names):
        folder, slash, file = name.rpartition(b"/")
        ending = next((e for e in ENDINGS if file.endswith(e) and len(file) > len(e)), None)
        if slash and ending and file[:1] != b"." and len(name) >= 8:
            groups.setdefault((folder, ending), []).append((i, file[: -len(ending)]))
        else:
            alone.append(i)
    return groups, alone


@settings(deadline=None, max_examples=300)
@given(st.lists(NAMES, max_size=40))
def test_names_are_grouped_by_folder_and_ending(names):
    groups, alone = group_names(names, ENDINGS)
    expected, expected_alone = one_by_one(names)
    if max(map(len, names), default=0) < 8:
        assert groups == []
        assert alone.tolist() == list(range(len(names)))
        return
    found = {
        (g.folder, g.ending): list(zip(g.members.tolist(), g.stems, strict=True)) for g in groups
    }
    assert found == expected
    assert alone.tolist() == expected_alone


def test_very_long_names_and_very_many_folders_are_left_alone():
    long = [b"a/" * 200 + b"1.jpg", b"a/1.jpg"]
    assert group_names(long, ENDINGS)[1].tolist() == [0, 1]
    many = [b"folder%02d/1.jpg" % i for i in range(40)]
    groups, alone = group_names(many, ENDINGS)
    assert len(groups) + len(alone) == 40
    assert 10 < len(groups) < 40


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def lay_out(files):
    """Put files behind one another with something between."""
    data, starts = bytearray(b"xyz"), []
    for file in files:
        starts.append(len(data))
        data += file + b"!"
    sizes = [len(file) for file in files]
    return memoryview(bytes(data)), np.array(starts, np.int64), np.array(sizes, np.int64)


NUMBERS = st.one_of(
    st.floats(-2, 2).map(lambda x: npy(str(x))),
    st.integers(-2, 12).map(lambda x: npy(str(x))),
    st.integers(-2, 12).map(npy),
    st.sampled_from([b"", npy([1, 2]), npy("1")[:-1], npy("é"), npy(["3"]), npy("nan")]),
    st.binary(max_size=200),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(NUMBERS, max_size=30))
def test_numbers_are_those_read_one_by_one(files):
    numbers, read = plain_numbers(*lay_out(files))
    for file, number, was_read in zip(files, numbers.tolist(), read.tolist(), strict=True):
        if was_read:
            np.testing.assert_equal(number, NpyScalars().read(file))


def test_numbers_of_the_usual_form_are_all_read():
    texts = ["0", "7", "-0.785714", "1e-05", "0.1", " 1 "]
    numbers, read = plain_numbers(*lay_out([npy(text) for text in texts]))
    assert read.all()
    assert numbers.tolist() == [float(text) for text in texts]


@pytest.mark.parametrize("bad", ["happy", "1_0", "\ud800", "9\0\0"])
def test_what_is_no_number_is_left_to_be_read_alone(bad):
    array = np.array(bad, "<U3") if "\0" in bad else np.array(bad)
    assert not plain_numbers(*lay_out([npy("1"), npy(array)]))[1][1]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_points_are_those_read_one_by_one(data):
    rng = np.random.default_rng(0)
    kinds = [
        rng.random(6),
        rng.random(6) * 1e300,
        np.full(6, np.nan),
        rng.random((3, 2)),
        rng.random(6).astype("f4"),
        rng.random(5),
    ]
    chosen = data.draw(st.lists(st.integers(0, len(kinds) - 1), max_size=12))
    files = [npy(kinds[i]) for i in chosen]
    points, read = plain_points(*lay_out(files), 3)
    assert read.tolist() == [i == 0 for i in chosen]
    assert [row.tobytes() for row in points] == [read_points(npy(kinds[0]), 3)] * len(points)
