import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.report.page import embed_json, explored, strips_of, telling_rows
from affectnet.report.runs import read_run
from affectnet.report.samples import Album, FaceSource


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_embedded_json_is_safe_and_the_same(value):
    text = embed_json({"x": value})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"x": value}


def test_embedded_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_json([float("nan")])


def test_strips_are_the_surest_and_have_pictures(two_runs, faces):
    run, album = read_run(two_runs[1], "test"), Album(10**6)
    wrong, right = strips_of(run, FaceSource([faces], "test"), album)
    assert (wrong.title, right.title) == ("Most confidently wrong", "Most confidently right")
    for strip, kind in ((wrong, False), (right, True)):
        assert len(strip.faces) == 12
        assert all((face["t"] == face["p"]) == kind for face in strip.faces)
        sure = [face["c"] for face in strip.faces]
        assert sure == sorted(sure, reverse=True)
        assert all(face["picture"] == album.pictures[face["f"]] for face in strip.faces)
    assert wrong.faces[0]["c"] == pytest.approx(
        run.predictions.confidence[~run.predictions.right].max(), abs=6e-4
    )


def test_the_explorer_marks_the_fair_sample(two_runs, faces):
    run = read_run(two_runs[0], "test")
    known = explored(run, [3, 5], FaceSource([faces], "test"), Album(0))
    assert known["n"] == len(known["rows"]) == 112
    assert all(row["s"] == 1 and row["f"] is None for row in known["rows"])
    assert [row["id"] for row in known["rows"][:2]] == [run.predictions.ids[i] for i in (3, 5)]


def test_unknown_values_are_null(make_run, faces):
    run = read_run(make_run("half", expression=-1, arousal=np.nan), "test")
    row = explored(run, [0], FaceSource([faces], "test"), Album(0))["rows"][0]
    assert row["t"] == -1
    assert row["a"] is None
    assert isinstance(row["v"], float)
    json.dumps(row, allow_nan=False)


def test_many_runs_share_the_gallery(two_runs):
    run = read_run(two_runs[0], "test")
    assert len(telling_rows(run, 8)) <= 60 < len(telling_rows(run, 1))
