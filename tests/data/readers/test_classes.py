import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.data.readers.classes import FERPLUS, ORDERS, RAFDB, Classes, find_class
from affectnet.errors import ConfigError
from affectnet.labels import EXPRESSIONS, WORDS


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Happy", "happiness"),
        (" SADNESS ", "sadness"),
        ("3_surprise", "surprise"),
        ("6-angry", "anger"),
        ("07. contempt", "contempt"),
        ("joy", "happiness"),
    ],
)
def test_words_mean_expressions(word, name):
    assert find_class(word) == EXPRESSIONS.index(name)


@pytest.mark.parametrize("word", ["", "3", "happy sad", "none", "other", "ang", "3_", "_happy"])
def test_other_words_have_no_meaning(word):
    assert find_class(word) is None


def test_names_have_a_meaning_and_numbers_have_none():
    classes = Classes()
    assert [classes.find(name) for name in EXPRESSIONS] == list(range(8))
    assert set(WORDS.values()) == set(EXPRESSIONS)
    with pytest.raises(KeyError):
        classes.find("0")


def test_orders():
    assert [Classes(["ferplus"]).find(str(i)) for i in range(8)] == [
        EXPRESSIONS.index(name) for name in FERPLUS
    ]
    assert [Classes(["RAFDB"]).find(str(i)) for i in range(1, 8)] == [
        EXPRESSIONS.index(name) for name in RAFDB
    ]
    assert set(ORDERS) == {"affectnet", "ferplus", "rafdb"}
    counted = Classes(["anger,contempt", "happy", "drop"])
    assert [counted.find(label) for label in ("0", "01", "2", "3", "sad")] == [6, 7, 1, None, 2]
    pairs = Classes(["a=anger", "B = drop", "1=joy"])
    assert [pairs.find(label) for label in ("A", "b", "1")] == [6, None, 1]


@pytest.mark.parametrize(
    ("order", "word"),
    [
        (["happy", "happiness"], "names happiness twice"),
        (["1=happy", "sad"], "give pairs only"),
        (["1=happy,1=sad"], "the label '1' twice"),
        (["hapiness"], "did you mean 'happiness'"),
        (["=happy"], "LABEL=NAME"),
        (["1="], "names ''"),
        (["0=happy", "00=sad"], "twice"),
    ],
)
def test_ambiguous_orders_are_refused(order, word):
    with pytest.raises(ConfigError, match=word):
        Classes(order)


@given(st.lists(st.text(max_size=12), max_size=6), st.text(max_size=8))
def test_any_text_is_read_or_refused(order, label):
    try:
        classes = Classes(order)
    except ConfigError:
        return
    try:
        found = classes.find(label)
    except KeyError:
        return
    assert found is None or 0 <= found < 8
