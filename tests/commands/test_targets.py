"""A model trained on some of the targets: every command leaves the others empty and says so."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn import write_faces

from affectnet.cli import main
from affectnet.commands.train_settings import check_monitor, trained_targets
from affectnet.config import TrainConfig
from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import DatasetInfo
from affectnet.errors import ConfigError, RunError
from affectnet.inference.predictor import load
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import TARGETS, parse_config, untrained_note
from affectnet.report.card import model_card
from affectnet.report.run_figures import figures_of_run
from affectnet.report.runs import read_run
from affectnet.training.distillation import Distillation

NOTE = "the model was not trained on valence and arousal, so it does not predict them"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces; those of train have no valence and arousal, those of val and test have."""
    folder = tmp_path_factory.mktemp("data")
    counts = {}
    for seed, split in enumerate(("train", "val", "test")):
        faces = draw_faces(2, seed=seed, size=48)
        if split == "train":
            faces = [dataclasses.replace(face, valence=None, arousal=None) for face in faces]
        write_faces(folder / f"{split}.arrow", faces)
        counts[split] = dict.fromkeys(EXPRESSIONS, 2)
    DatasetInfo(["drawn"], "affectnet", counts, {}, "ab" * 32, "0.1.0").write(folder)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on these faces, trained and evaluated by the commands."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["--backbone", "resnet10t", "--epochs", "1", "--image-size", "48", "--workers", "0"]
    given = ["--data", str(data), "--runs", str(runs), "--name", "r", "--accelerator", "cpu"]
    assert main(["train", *given, *arguments, "--no-pretrained"]) == 0
    assert main(["evaluate", str(runs / "r"), "--data", str(data), "--no-figures"]) == 0
    return runs / "r"


@pytest.fixture(scope="module")
def affect_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that was trained on valence and arousal alone."""
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48)
    model.targets = ("valence", "arousal")
    folder = tmp_path_factory.mktemp("affect") / "model"
    model.save_pretrained(folder)
    return folder


def test_training_records_what_has_labels_and_a_loss(run: Path) -> None:
    assert json.loads((run / "model" / "config.json").read_text())["targets"] == ["expression"]
    assert AffectModel.from_pretrained(run).targets == ("expression",)


def test_targets_need_labels_and_a_loss() -> None:
    some, none = np.array([0.5, np.nan]), np.array([np.nan])
    labels = {"expression": np.array([-1, 3]), "valence": some, "arousal": none}
    config = TrainConfig(data=(), backbone="cvnet")
    assert trained_targets(config, labels) == ("expression", "valence")
    assert trained_targets(config, labels, ["arousal"]) == TARGETS
    for settings in ({"va_loss": "none"}, {"va_weight": 0.0}):
        assert trained_targets(dataclasses.replace(config, **settings), labels) == ("expression",)
    empty = labels | {"expression": np.array([-1]), "valence": none}
    with pytest.raises(ConfigError, match="nothing to train"):
        trained_targets(config, empty)
    monitor = dataclasses.replace(config, monitor="val_valence_ccc")
    with pytest.raises(ConfigError, match=r"is not trained; choose --monitor val_accuracy"):
        check_monitor(monitor, labels, ("expression",))


def test_evaluate_leaves_them_null_and_says_why(run: Path) -> None:
    folder = run / "evaluation" / "test"
    table = pq.read_table(folder / "predictions.parquet")
    for name in ("valence", "arousal"):
        assert table[name].null_count == 0
        assert table[f"{name}_pred"].null_count == len(table)
    assert all(table[name].null_count == 0 for name in PROBABILITY_COLUMNS)
    scores = json.loads((folder / "metrics.json").read_text())
    assert scores["expression"]["accuracy"]["value"] is not None
    assert scores["valence"]["ccc"]["value"] is None
    assert any("no valence and no arousal is predicted" in n for n in scores["protocol"]["notes"])


def test_the_card_and_the_report_name_the_trained_targets(run: Path) -> None:
    text = model_card(run)
    assert "trained on expression." in text
    assert NOTE.capitalize() in text
    assert "its valence" not in text
    assert "- arousal" not in text.partition("---\n\n")[0]
    missing = {figure.missing for figure in figures_of_run(read_run(run)) if figure.missing}
    assert "no face has annotated and predicted valence and arousal" in missing


def test_predict_writes_null_and_says_so_once(run: Path, photo_file: Path, tmp_path: Path, capsys):
    for form in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"r.{form}"
        given = ["predict", str(photo_file), "--model", str(run), "--out", str(out)]
        assert main([*given, "--annotate", str(tmp_path / form)]) == 0
        assert capsys.readouterr().out.count(NOTE) == 1
        assert (tmp_path / form / "astronaut.jpg").is_file()
    (row,) = csv.DictReader((tmp_path / "r.csv").open())
    assert row["expression"] in EXPRESSIONS
    assert (row["valence"], row["arousal"]) == ("", "")
    (face,) = json.loads((tmp_path / "r.jsonl").read_text())["faces"]
    assert (face["valence"], face["arousal"]) == (None, None)
    assert pq.read_table(tmp_path / "r.parquet")["valence"].to_pylist() == [None]
    assert main(["predict", str(photo_file), "--model", str(run)]) == 0
    assert "nan" not in capsys.readouterr().out


def test_without_expressions_there_is_none(affect_only: Path, photo_file: Path, capsys) -> None:
    predictor = load(affect_only)
    result = predictor.predict(photo_file)
    (face,) = result.faces
    assert face.expression is None
    assert math.isnan(face.probability)
    assert set(face.to_dict()["probabilities"].values()) == {None}
    assert -1 <= face.valence <= 1
    for figure in (face.plot(photo_file), result.plot(photo_file)):
        assert figure.axes
    frame = result.to_frame()
    assert frame["expression"].isna().all()
    assert frame["p_neutral"].isna().all()
    assert main(["predict", str(photo_file), "--model", str(affect_only)]) == 0
    assert "not trained on expression" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["expression", "affect"])
def test_a_video_has_neither_in_any_frame(
    kind: str, run: Path, affect_only: Path, walk: Path, tmp_path: Path
) -> None:
    model = run if kind == "expression" else affect_only
    out = tmp_path / "v.csv"
    given = ["predict", str(walk), "--model", str(model), "--out", str(out)]
    assert main([*given, "--annotate", str(tmp_path / "drawn")]) == 0
    rows = [row for row in csv.DictReader(out.open()) if row["face"]]
    assert rows
    empty = ("valence", "arousal") if kind == "expression" else ("expression", "p_neutral")
    assert {row[name] for row in rows for name in empty} == {""}
    assert any((tmp_path / "drawn").glob("walk.*"))


def test_the_onnx_file_obeys_alone(run: Path, photo_file: Path, tmp_path: Path, capsys) -> None:
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    assert main(["export", str(run), "--format", "onnx", "--out", str(out), "--faces", "16"]) == 0
    assert NOTE in capsys.readouterr().out
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    faces = np.zeros((2, 3, 48, 48), np.float32)
    probabilities, valence, arousal = session.run(None, {"faces": faces})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.isnan(valence).all()
    assert np.isnan(arousal).all()
    (face,) = load(out).predict(photo_file).faces
    (wanted,) = load(run).predict(photo_file).faces
    np.testing.assert_allclose(face.probabilities, wanted.probabilities, atol=1e-4)
    assert face.to_dict()["valence"] is None


@pytest.mark.parametrize("kind", ["expression", "affect"])
def test_the_page_shows_only_what_is_predicted(kind, run, affect_only, photo_file) -> None:
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    from affectnet.data.images import as_pixels
    from affectnet.inference.tracks import OverTime
    from affectnet.serve.results_page import curve_html, image_html

    result = load(run if kind == "expression" else affect_only).predict(photo_file)
    page = image_html(result, as_pixels(photo_file))
    assert ("an-circumplex" in page) == (kind == "affect")
    assert ("an-bar" in page) == (kind == "expression")
    over_time = OverTime()
    (face,) = result.faces
    over_time.add(dataclasses.replace(result, faces=(dataclasses.replace(face, track=1),)))
    curve = curve_html(over_time.courses(), 1.0)
    for text in (page, curve):
        assert "nan" not in re.sub('base64,[^"]*', "", text).lower()
    assert ("most often" in curve) == (kind == "expression")


def test_a_config_without_targets_has_all_and_impossible_ones_are_refused() -> None:
    base = AffectModel("cvnet", image_size=48).config()
    older = {name: value for name, value in base.items() if name != "targets"}
    assert parse_config(json.dumps(older), "c").targets == TARGETS
    assert untrained_note(TARGETS) is None
    for targets in ([], ["smile"], ["valence", "expression"], ["valence", "valence"], 3):
        with pytest.raises(RunError, match="targets"):
            parse_config(json.dumps(base | {"targets": targets}), "c")


def test_a_teacher_teaches_only_what_it_was_trained_on(affect_only: Path) -> None:
    torch.manual_seed(1)
    whole, part = AffectModel("cvnet", image_size=48), AffectModel.from_pretrained(affect_only)
    assert Distillation((whole, part)).taught == ("valence", "arousal")
    faces = torch.rand(2, 3, 48, 48)
    output, targets = whole(faces), part(faces)
    loss = Distillation((part,)).loss(output, targets)
    expected = (output.valence - targets.valence) ** 2 + (output.arousal - targets.arousal) ** 2
    torch.testing.assert_close(loss, expected.mean())
    part.targets = ()
    with pytest.raises(ConfigError, match="teach nothing"):
        Distillation((part,)).check(whole)
