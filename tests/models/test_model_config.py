"""The model that a name stands for, and files that are refused unread."""

import pickle
from pathlib import Path

import pytest
import torch

from affectnet.errors import RunError, WeightsError
from affectnet.models import model_config as shipped
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import local_path, resolve_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    AffectModel("cvnet", image_size=48).save_pretrained(folder / "model")
    return folder


def test_paths_and_names(run: Path, tmp_path: Path) -> None:
    model = run / "model"
    for given in (run, str(run), model, model / "model.safetensors"):
        assert resolve_model(given) == model
    onnx = tmp_path / "m.onnx"
    onnx.touch()
    assert resolve_model(str(onnx)) == onnx
    assert resolve_model("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "", "a\0b", "x" * 5000])
def test_names_without_a_model(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"no model at|contains no config\.json"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "last.ckpt", "model.pkl"])
def test_pickles_are_refused_unread_with_the_reason(name: str, tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / name).write_bytes(pickle.dumps(Mine()))
    with pytest.raises(WeightsError, match="can run code"):
        resolve_model(tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="can run code"):
        AffectModel.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_shipped_name_is_the_shipped_model(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "WEIGHTS_FOLDER", tmp_path / "weights")
    for call in (resolve_model, lambda name: local_path(Path(name)), AffectModel.from_pretrained):
        with pytest.raises(WeightsError, match="contains no weights of 'cvnet'; give a model"):
            call("cvnet")
    AffectModel.from_pretrained(run).save_pretrained(tmp_path / "weights" / "cvnet")
    assert resolve_model("cvnet") == local_path(Path("cvnet")) == tmp_path / "weights" / "cvnet"
    assert AffectModel.from_pretrained("cvnet").classes
    # An existing path comes first.
    AffectModel.from_pretrained(run).save_pretrained(tmp_path / "cvnet")
    assert resolve_model("cvnet") == local_path(Path("cvnet")) == Path("cvnet")


def test_half_a_model_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((run / "model/model.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"no config\.json; copy both"):
        resolve_model(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="is not a model"):
        resolve_model(tmp_path / "notes.txt")
