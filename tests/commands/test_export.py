"""`affectnet export` from the outside."""

import shutil
from pathlib import Path

import pytest
import torch

from affectnet import cli
from affectnet.commands.export import export
from affectnet.config import ExportConfig
from affectnet.errors import ConfigError, RunError
from affectnet.inference.predictor import load
from affectnet.models.affect_model import AffectModel

PHOTO = Path(__file__).parents[1] / "files" / "astronaut.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("m") / "run"
    AffectModel("cvnet", image_size=48).save_pretrained(folder / "model")
    return folder


def test_a_run_becomes_a_file_that_predicts(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "m.onnx"
    assert cli.main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "on 256 drawn faces" in output
    assert "largest difference" in output
    assert "float32 RGB (n, 3, 48, 48), any n" in output
    (ours,), (theirs,) = load(run).predict(PHOTO).faces, load(out).predict(PHOTO).faces
    assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-4)
    assert cli.main(["export", str(run), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_faces_of_a_dataset_compare_and_calibrate(run, drawn: Path, tmp_path, capsys) -> None:
    config = ExportConfig(
        str(run), tmp_path / "m.onnx", int8=True, preprocess=True, data=drawn, faces=24
    )
    found = export(config)
    assert found.faces == 24
    output = capsys.readouterr().out
    assert f"24 faces of {drawn} (val)" in output
    assert "int8, takes uint8 RGB (n, 48, 48, 3)" in output


def test_mistakes_are_reported_at_once_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as output:
        export(ExportConfig(str(run), tmp_path / "m.pt", int8=True, fp16=True, faces=0))
    for part in ("--int8 and --fp16", "ends in .onnx", "--faces is 0"):
        assert part in str(output.value)
    with pytest.raises(RunError, match="no model at"):
        export(ExportConfig(str(tmp_path / "none"), tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_run_is_written_next_to_its_weights(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "run" / "model")
    run = str(tmp_path / "run")
    export(ExportConfig(run, faces=8))
    assert (tmp_path / "run" / "model" / "model.onnx").is_file()
    with pytest.raises(RunError, match="--overwrite"):
        export(ExportConfig(run, faces=8))
    for other in ({"int8": True}, {"fp16": True}, {"prior": "uniform"}):
        with pytest.raises(ConfigError, match="give another with --out FILE"):
            export(ExportConfig(run, overwrite=True, **other))
    with pytest.raises(ConfigError, match="cvnet is not a run folder"):
        export(ExportConfig("cvnet", overwrite=True))
