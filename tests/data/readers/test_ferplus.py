import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.data.readers.annotations import Bad
from affectnet.data.readers.ferplus import ANSWERS, majority, vote_shares
from affectnet.errors import ConfigError, DataError
from affectnet.labels import EXPRESSIONS

FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}


def votes(**given) -> str:
    counts = [str(given.get(answer.lower(), 0)) for answer in ANSWERS]
    return ",".join(counts)


def line(name: str, **given) -> str:
    return f'{name},"(0, 0, 48, 48)",{votes(**given)}'


def source(kit, lines: dict[str, list[str]], **others):
    files = dict(others)
    for split, listed in lines.items():
        for i, text in enumerate(listed):
            name = text.partition(",")[0]
            if name and "/" not in name:
                files.setdefault(f"{FOLDERS[split]}/{name}", kit.image(i, "PNG", 48, 48))
        files[f"{FOLDERS[split]}/label.csv"] = "\n".join([*listed, ""])
    return kit.write(files)


def test_votes_are_in_the_order_of_ferplus(kit):
    listed = [line(f"fer{i:07}.png", **{answer: 10}) for i, answer in enumerate(ANSWERS[:8])]
    top = source(kit, {"train": listed, "val": listed[:3], "test": listed[5:]})
    out, info = kit.ingest(top)
    assert info.release == "ferplus"
    assert info.settings["labels"] == "majority"
    faces = kit.rows(out)
    for i, answer in enumerate(ANSWERS[:8]):
        one = faces[f"fer{i:07}"]
        assert EXPRESSIONS[one.expression] == answer
        assert one.image == kit.image(i, "PNG", 48, 48)
        assert one.soft is None
        assert one.valence is None
    assert len(kit.rows(out, "val")) == len(kit.rows(out, "test")) == 3
    assert len(faces) == 8


RULE = [
    ({"neutral": 10}, "neutral"),
    (
        {"neutral": 4, "sadness": 3, "anger": 1, "fear": 1, "disgust": 1},
        "neutral",
    ),  # ones dropped: 4 of 7
    ({"neutral": 4, "sadness": 4, "anger": 2}, None),
    ({"neutral": 5, "sadness": 5}, None),
    ({"happiness": 3, "surprise": 2, "unknown": 2}, None),  # 3 of 7
    ({"happiness": 4, "unknown": 3}, "happiness"),
    ({"unknown": 6, "fear": 4}, "unknown"),
    ({"nf": 10}, "NF"),
    ({"neutral": 1, "fear": 1, "anger": 1}, None),
    ({}, None),
]


@pytest.mark.parametrize(("given", "expected"), RULE)
def test_the_majority_rule(given, expected):
    found = majority(np.array([int(n) for n in votes(**given).split(",")]))
    assert (None if found is None else ANSWERS[found]) == expected


@given(st.lists(st.integers(0, 10), min_size=10, max_size=10))
def test_shares_agree_with_the_rule(counts):
    counts = np.array(counts)
    left = [n if n > 1 else 0 for n in counts.tolist()]
    try:
        shares = vote_shares(counts)
    except Bad:
        assert sum(left[:8]) == 0 or max(left[8:]) > max(left[:8])
        return
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    for answer, n in zip(ANSWERS[:8], left, strict=False):
        assert shares[EXPRESSIONS.index(answer)] == pytest.approx(n / sum(left[:8]), abs=1e-6)
    winner = majority(counts)
    if winner is not None:
        assert EXPRESSIONS[int(shares.argmax())] == ANSWERS[winner]


def test_shares_keep_faces_without_a_majority(kit):
    listed = [
        line("a.png", happiness=6, surprise=4),
        line("b.png", happiness=5, surprise=5),
        line("c.png", unknown=6, fear=4),
        line("d.png", neutral=1, fear=1),
        line("e.png", nf=10),
    ]
    top = source(kit, {"train": listed})
    out, info = kit.ingest(top, labels="shares", val_fraction=0)
    faces = kit.rows(out)
    assert list(faces) == ["a", "b"]
    assert (faces["a"].expression, faces["b"].expression) == (1, None)
    np.testing.assert_allclose(faces["a"].soft, [0, 0.6, 0, 0.4, 0, 0, 0, 0], atol=1e-6)
    assert info.counts["train"]["unlabelled"] == 1
    assert kit.dropped(out) == {
        "c": "none, uncertain, unknown or no face",
        "d": "no majority among the votes",
        "e": "none, uncertain, unknown or no face",
    }
    out, _ = kit.ingest(top, val_fraction=0)
    assert list(kit.rows(out)) == ["a"]
    assert kit.dropped(out)["b"] == "no majority among the votes"


def test_broken_rows_are_dropped(kit):
    good = line("good.png", anger=9)
    listed = [
        good,
        line("", nf=10),
        line("gone.png", anger=9),
        line("../up.png", anger=9),
        line("few.png", anger=9)[:-4],
        line("text.png", anger="many"),
        line("minus.png", anger=-4, fear=9),
        line("half.png", anger=2.5),
        line("broken.png", anger=9),
    ]
    top = source(
        kit,
        {"train": listed},
        **{"FER2013Train/broken.png": b"text", "FER2013Train/unnamed.png": kit.image(0)},
    )
    (top / "FER2013Train" / "gone.png").unlink()
    out, _ = kit.ingest(top, val_fraction=0)
    assert list(kit.rows(out)) == ["good"]
    assert kit.dropped(out) == {
        "line 2": "missing annotation",
        "gone": "annotation without image",
        "../up": "unreadable id",
        "few": "unreadable annotation",
        "text": "unreadable annotation",
        "minus": "unreadable annotation",
        "half": "unreadable annotation",
        "broken": "undecodable image",
        "unnamed": "image without annotation",
    }


def test_columns_are_found_by_the_header(kit):
    header = "Usage,Image name,NF,unknown," + ",".join(reversed(ANSWERS[:8]))
    listed = [header, "Training,a.png,0,0,10,0,0,0,0,0,0,0"]
    top = source(kit, {"train": listed}, **{"FER2013Train/a.png": kit.image(0)})
    (top / "FER2013Train" / "Usage").unlink()
    (top / "FER2013Train" / "Training").unlink()
    out, _ = kit.ingest(top, val_fraction=0)
    assert kit.rows(out)["a"].expression == EXPRESSIONS.index("contempt")
    source(kit, {"train": ["name,neutral,happiness", "a.png,3,4"]})
    with pytest.raises(DataError, match=r"it needs the name of the image and the votes for"):
        kit.ingest(top)


def test_settings_that_do_not_apply_are_refused(kit):
    top = source(kit, {"train": [line("a.png", anger=9)]})
    with pytest.raises(ConfigError, match="--class-order does not apply to ferplus"):
        kit.ingest(top, class_order=("affectnet",))
    with pytest.raises(DataError, match="there is none of FER2013Train"):
        kit.ingest(kit.write({"x/y.txt": b""}, "other"), release="ferplus")
