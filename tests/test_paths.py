"""Public functions take paths as text wherever they take `Path`."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import affectnet
from affectnet import evaluation, figures, report
from affectnet.data.audit.dataset_audit import audit_dataset
from affectnet.data.audit.mislabels import suspect_labels
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.drawn.release import write_affectnet_tars
from affectnet.data.store import DatasetInfo, Split, existing_splits, open_split
from affectnet.data.writer import content_hash
from affectnet.evaluation.prediction_files import read_table
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.onnx_export import export_onnx
from affectnet.inference.result_files import ResultWriter
from affectnet.inference.video import predict_video
from affectnet.models.affect_model import AffectModel
from affectnet.models.backbones import create_backbone
from affectnet.models.model_config import resolve_model
from affectnet.run import RunFolder
from affectnet.training.prediction import calibrate, forward_split, predict_split

PUBLIC = [
    *(
        getattr(room, name)
        for room in (affectnet, evaluation, figures, report)
        for name in dir(room)
    ),
    *(audit_dataset, suspect_labels, AffectDataModule, write_affectnet_tars, existing_splits),
    *(open_split, Split, DatasetInfo.read, DatasetInfo.write, content_hash, read_table),
    *(OnnxClassifier, export_onnx, ResultWriter, predict_video, AffectModel, create_backbone),
    *(AffectModel.from_pretrained, AffectModel.save_pretrained, evaluation.Scores.write),
    *(resolve_model, calibrate, forward_split, predict_split, affectnet.Predictor.video),
]


def test_no_public_function_insists_on_path() -> None:
    checked = 0
    for function in PUBLIC:
        if not callable(function) or not getattr(function, "__module__", "").startswith(
            "affectnet"
        ):
            continue
        for parameter in inspect.signature(function).parameters.values():
            kind = str(parameter.annotation)
            if "Path" in kind:
                assert "str" in kind, f"{function.__qualname__}: {parameter}"
                checked += 1
    assert checked > 30


def test_text_works_as_a_path(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(drawn)
    assert audit_dataset(data).passed
    assert content_hash(data) == DatasetInfo.read(data).content_hash
    split = open_split(data, existing_splits(data)[0])
    assert len(Split(str(split.path))) == len(split)
    assert RunFolder("runs/a").config == Path("runs/a/config.yaml")
    counts = figures.confusion_counts(np.array([0, 1]), np.array([0, 1]))
    (file,) = figures.save_figure(figures.confusion_matrix(counts), ".", "c", dpi=50)
    assert file == Path("c.png")
    truth = {"expression": [0, 1], "id": ["a", "b"]}
    scores = evaluation.evaluate(truth, {"expression_pred": [0, 1], "id": ["a", "b"]}, resamples=0)
    scores.write("m.json")
    assert json.loads(Path("m.json").read_text())["n"] == 2
    Path("t.csv").write_text("id,expression,expression_pred\na,0,0\nb,1,1\n")
    assert evaluation.read_truth("t.csv").ids == ["a", "b"]
    assert evaluation.read_predictions("t.csv").ids == ["a", "b"]
    evaluation.write_predictions(read_table("t.csv"), "t.parquet")
    assert read_table("t.parquet").num_rows == 2
