from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from affectnet.data.images import decode_image
from affectnet.data.store import open_split
from affectnet.errors import DataError, RunError
from affectnet.models.affect_model import AffectModel
from affectnet.report import model_figures as effort
from affectnet.report.contents import draw_or_say
from affectnet.report.model_figures import EACH, OVERLAYS, explaining_drawings, model_drawings
from affectnet.report.runs import read_run


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    path = make_run("cvnet")
    torch.manual_seed(0)
    AffectModel("cvnet", image_size=48).save_pretrained(path / "model")
    return path


def test_all_four_draw_what_they_name(run: Path, faces: Path) -> None:
    drawings = {one.name: one for one in model_drawings(run, faces, most=40, method="pca")}
    assert set(drawings) == {"attention-wrong", "attention-right", "attention-mean", "feature-map"}
    assert all(
        one.title and one.caption and one.alt and not one.missing for one in drawings.values()
    )

    p = read_run(run, "test").predictions
    sure = np.argsort(-p.confidence, kind="stable")
    wrong = [row for row in sure if not p.right[row]]
    surest = [next(row for row in wrong if p.expression[row] == c) for c in range(8)]
    first = sorted(surest, key=wrong.index)
    assert len(wrong) > OVERLAYS
    shown = [a for a in drawings["attention-wrong"].draw().axes if len(a.get_images()) == 1]
    assert len(shown) == OVERLAYS
    split = open_split(faces, "test")
    for axes, row in zip(shown[:8], first, strict=True):
        expected = decode_image(split.face(split.ids.index(p.ids[row])).image, 48)
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), expected)

    titles = [a.get_title(loc="left") for a in drawings["attention-mean"].draw().axes]
    assert titles[:2] == [f"neutral, {min(EACH, 14)}", f"happiness, {min(EACH, 14)}"]
    figure = drawings["feature-map"].draw()
    assert sum(len(marks.get_offsets()) for marks in figure.axes[0].collections) == 40
    assert figure.axes[0].get_xlabel().startswith("40 of 112 faces")


def test_nothing_is_loaded_before_it_is_drawn(run: Path, faces: Path) -> None:
    drawings = model_drawings(read_run(run, "test"), faces)
    (run / "model/model.safetensors").unlink()
    with pytest.raises(Exception, match=r"model\.safetensors"):
        drawings[0].draw()


def test_faces_that_are_in_no_dataset_are_left_out(run: Path, faces: Path) -> None:
    known = read_run(run, "test")
    known.predictions.ids[:] = [f"gone-{i}" for i in range(len(known.predictions))]
    missing = {one.name: one.missing for one in model_drawings(known, faces)}
    assert missing["attention-wrong"] == "no face in the dataset is predicted wrong"
    assert missing["attention-mean"]


def test_what_is_not_there_is_told(make_run: Callable[..., Path], run: Path, faces: Path) -> None:
    with pytest.raises(RunError, match="holds no trained model"):
        model_drawings(make_run("bare"), faces)
    with pytest.raises(DataError):
        model_drawings(run, faces / "nowhere")


def test_what_was_computed_is_kept(run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [one.draw() for one in model_drawings(run, faces, most=40, method="pca")]
    monkeypatch.delattr(AffectModel, "from_pretrained")  # a second look at the model would fail
    again = [one.draw() for one in model_drawings(run, faces, most=40, method="pca")]
    for one, other in zip(first, again, strict=True):
        assert len(one.axes) == len(other.axes)
    marks = [
        np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
        for figure in (first[3], again[3])
    ]
    np.testing.assert_array_equal(marks[0], marks[1])


def test_a_slow_model_is_asked_about_fewer_faces(
    run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effort, "seconds_per_face", lambda _: 0.5)
    drawings = {one.name: one for one in explaining_drawings(read_run(run, "test"), [faces])}
    shown = [a for a in drawings["attention-wrong"].draw().axes if len(a.get_images()) == 1]
    assert len(shown) == 6  # 0.75 s each with the way back, six seconds
    titles = [a.get_title(loc="left") for a in drawings["attention-mean"].draw().axes]
    assert titles[:2] == ["neutral, 1", "happiness, 1"]
    with pytest.raises(RunError, match=r"12 faces are all .* in 6 s here"):
        drawings["feature-map"].draw()
    figure, why = draw_or_say(drawings["feature-map"])
    assert figure is None
    assert why.startswith("Which faces are alike to it: 12 faces")


def test_a_report_goes_on_without_a_model_or_a_dataset(
    make_run: Callable[..., Path], run: Path
) -> None:
    (told,) = explaining_drawings(read_run(run, "test"), [])
    assert told.missing == "the dataset was not found"
    (told,) = explaining_drawings(read_run(make_run("bare"), "test"), [run])
    assert "holds no trained model" in told.missing or "no dataset" in told.missing
