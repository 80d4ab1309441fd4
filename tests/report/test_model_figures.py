from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectnet.data.images import decode_image
from affectnet.data.store import open_split
from affectnet.errors import DataError, RunError
from affectnet.models.affect_model import AffectModel
from affectnet.report import model_figures as module
from affectnet.report.model_figures import (
    EACH,
    OVERLAYS,
    STEPS,
    affordable,
    cached_arrays,
    figures_of_model,
    model_figures_for_report,
    seconds_per_face,
)
from affectnet.report.runs import EvaluatedRun, read_run


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    path = make_run("cvnet")
    torch.manual_seed(0)
    AffectModel("cvnet", image_size=48).save_pretrained(path / "model")
    return path


def test_all_four_figures_are_drawn(run: Path, faces: Path) -> None:
    found = {one.name: one for one in figures_of_model(run, faces, most=40, method="pca")}
    assert set(found) == {"attention-wrong", "attention-right", "attention-mean", "feature-map"}
    assert all(one.title and one.caption and one.alt and not one.missing for one in found.values())

    p = read_run(run, "test").predictions
    sure = np.argsort(-p.confidence, kind="stable")
    wrong = [row for row in sure if not p.right[row]]
    surest = [next(row for row in wrong if p.expression[row] == c) for c in range(8)]
    first = sorted(surest, key=wrong.index)
    assert len(wrong) > OVERLAYS
    shown = [a for a in found["attention-wrong"].draw().axes if len(a.get_images()) == 1]
    assert len(shown) == OVERLAYS
    split = open_split(faces, "test")
    for axes, row in zip(shown[:8], first, strict=True):
        expected = decode_image(split.face(split.ids.index(p.ids[row])).image, 48)
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), expected)

    titles = [a.get_title(loc="left") for a in found["attention-mean"].draw().axes]
    assert titles[:2] == [f"neutral, {min(EACH, 14)}", f"happiness, {min(EACH, 14)}"]
    figure = found["feature-map"].draw()
    assert sum(len(marks.get_offsets()) for marks in figure.axes[0].collections) == 40
    assert figure.axes[0].get_xlabel().startswith("40 of 112 faces")


def test_the_model_is_loaded_when_a_figure_is_drawn(run: Path, faces: Path) -> None:
    found = figures_of_model(read_run(run, "test"), faces)
    (run / "model/model.safetensors").unlink()
    with pytest.raises(Exception, match=r"model\.safetensors"):
        found[0].draw()


def test_faces_missing_from_the_dataset_are_left_out(run: Path, faces: Path) -> None:
    known = read_run(run, "test")
    known.predictions.ids[:] = [f"gone-{i}" for i in range(len(known.predictions))]
    missing = {one.name: one.missing for one in figures_of_model(known, faces)}
    assert missing["attention-wrong"] == "no face in the dataset is predicted wrong"
    assert missing["attention-mean"]


def test_a_missing_model_or_dataset(make_run: Callable[..., Path], run: Path, faces: Path) -> None:
    with pytest.raises(RunError, match="contains no trained model"):
        figures_of_model(make_run("bare"), faces)
    with pytest.raises(DataError):
        figures_of_model(run, faces / "nowhere")


def test_arrays_are_stored(run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [one.draw() for one in figures_of_model(run, faces, most=40, method="pca")]
    monkeypatch.delattr(AffectModel, "from_pretrained")  # loading the model again would fail
    again = [one.draw() for one in figures_of_model(run, faces, most=40, method="pca")]
    for one, other in zip(first, again, strict=True):
        assert len(one.axes) == len(other.axes)
    marks = [
        np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
        for figure in (first[3], again[3])
    ]
    np.testing.assert_array_equal(marks[0], marks[1])


def test_a_slow_model_gets_fewer_faces(
    run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "seconds_per_face", lambda _: 0.5)
    found = {one.name: one for one in model_figures_for_report(read_run(run, "test"), [faces])}
    shown = [a for a in found["attention-wrong"].draw().axes if len(a.get_images()) == 1]
    assert len(shown) == 6  # 0.75 s each with the backward pass, six seconds
    titles = [a.get_title(loc="left") for a in found["attention-mean"].draw().axes]
    assert titles[:2] == ["neutral, 1", "happiness, 1"]
    with pytest.raises(RunError, match=r"processes only 12 faces in 6 s here"):
        found["feature-map"].draw()
    figure, reason = found["feature-map"].draw_or_reason()
    assert figure is None
    assert reason.startswith("Map of the features: this model processes only 12 faces")


def test_a_report_without_a_model_or_a_dataset_names_the_reason(
    make_run: Callable[..., Path], run: Path
) -> None:
    (figure,) = model_figures_for_report(read_run(run, "test"), [])
    assert figure.missing == "the dataset was not found"
    (figure,) = model_figures_for_report(read_run(make_run("bare"), "test"), [run])
    assert "contains no trained model" in figure.missing or "no dataset" in figure.missing


@given(st.floats(1e-6, 100), st.floats(0.1, 60), st.integers(1, 5000))
def test_the_largest_affordable_number_of_faces(cost: float, seconds: float, most: int):
    n = affordable(cost, seconds, most)
    assert 1 <= n <= most
    assert n == 1 or n * cost <= seconds
    assert n == most or n in STEPS
    assert all(more * cost > seconds for more in STEPS if n < more <= most)


def test_timing_leaves_the_model_unchanged() -> None:
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert seconds_per_face(model) > 0
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.fixture
def evaluated(make_run) -> EvaluatedRun:
    return read_run(make_run("cached"), "test")


def test_arrays_are_computed_once_until_something_changes(evaluated: EvaluatedRun) -> None:
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"points": np.full((2, 2), len(calls))}

    def result(key: str = "tsne") -> int:
        return int(cached_arrays(evaluated, "map", key, compute)["points"][0, 0])

    assert (result(), result()) == (1, 1)
    assert result("pca") == 2
    evaluated.folder.model.mkdir()
    weights = evaluated.folder.model / "model.safetensors"
    weights.write_bytes(b"weights")
    assert (result("pca"), result("pca")) == (3, 3)
    weights.write_bytes(b"other weights")
    assert result("pca") == 4
    file = evaluated.folder.evaluation("test") / "predictions.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    assert result("pca") == 5
    place = evaluated.folder.evaluation("test") / "explained" / "map.npz"
    for damage in (b"", b"PK", place.read_bytes()[:-40]):
        place.write_bytes(damage)
        assert result("pca") == len(calls)
    assert len(calls) == 8


def test_nothing_is_stored_where_the_folder_cannot_be_written(evaluated: EvaluatedRun) -> None:
    place = evaluated.folder.evaluation("test") / "explained"
    place.write_text("a file in the way of the folder")
    assert cached_arrays(evaluated, "map", "", lambda: {"a": np.ones(1)})["a"][0] == 1
    assert place.read_text().startswith("a file")
    assert not list(Path(place.parent).glob("*.tmp"))
