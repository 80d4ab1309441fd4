"""The shipped weights: complete, small, and as good as their card states."""

import hashlib
import json
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

import affectnet
from affectnet.data.images import decode_image
from affectnet.errors import ConfigError
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import DEFAULT_MODEL, parse_config, read_config, shipped_model

PHOTO = Path(affectnet.__file__).parent / "photos" / "astronaut.jpg"


@pytest.fixture(scope="module")
def folder() -> Path:
    return shipped_model(DEFAULT_MODEL)


def test_the_files_are_those_that_were_measured(folder: Path) -> None:
    sums = dict(reversed(line.split()) for line in (folder / "SHA256").read_text().splitlines())
    assert sums.keys() == {"model.safetensors", "model.onnx"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (folder / name).stat().st_size <= 6_000_000
    with safe_open(folder / "model.safetensors", "pt") as file:
        floats = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert floats == {"F16", "I64"}


def test_the_onnx_file_has_the_weights_and_the_config_of_the_other(folder: Path) -> None:
    file = onnx.load(str(folder / "model.onnx"))
    # `python scripts/ship_cvnet.py` writes it again.
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert parse_config(metadata["affectnet"], "") == read_config(folder / "config.json")
    stored = {a.name.removeprefix("model."): a for a in file.graph.initializer}
    with safe_open(folder / "model.safetensors", "np") as weights:
        for name in weights.keys():  # noqa: SIM118
            if not name.endswith("num_batches_tracked"):
                given = onnx.numpy_helper.to_array(stored[f"{name}_half"])
                np.testing.assert_array_equal(given, weights.get_tensor(name))
                assert given.dtype == np.float16
    # It names no file of the machine that wrote it, and needs no newer ONNX than its operators.
    assert not any(len(node.metadata_props) or node.doc_string for node in file.graph.node)
    assert (file.ir_version, file.opset_import[0].version) == (8, 18)


def differences(faces: np.ndarray) -> np.ndarray:
    """Between ONNX Runtime and PyTorch, of each probability, valence and arousal."""
    ours = OnnxClassifier(shipped_model(DEFAULT_MODEL) / "model.onnx", "cpu")(faces)
    theirs = TorchClassifier(AffectModel.from_pretrained(DEFAULT_MODEL), "cpu")(faces)
    pairs = zip(ours[:3], theirs[:3], strict=True)  # neither has an embedding
    return np.concatenate([np.abs(a - b).ravel() for a, b in pairs])


def test_both_files_predict_the_same(drawn_crops: np.ndarray) -> None:
    assert differences(drawn_crops).max() < 1e-5


def test_both_files_predict_the_same_on_real_faces(ferplus: Path) -> None:
    with tarfile.open(ferplus / "test_set.tar.gz") as tar:
        images = (member for member in tar if member.name.endswith((".jpg", ".png")))
        data = [tar.extractfile(member).read() for member in islice(images, 200)]
    assert len(data) == 200
    assert differences(np.stack([decode_image(image, 48) for image in data])).max() < 1e-5


def test_it_loads_as_a_model_of_eight_classes_in_32_bits(folder: Path) -> None:
    model = AffectModel.from_pretrained(DEFAULT_MODEL)
    assert len(model.classes) == 8
    assert sum(weight.numel() for weight in model.parameters()) <= 3_000_000
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["preprocessing"]["margin"] == 0


def test_the_card_states_data_terms_and_limits(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("FER+", "research", "accuracy", "Limits", "emotion"):
        assert word.lower() in card.lower()


def test_the_astronaut_smiles() -> None:
    (face,) = affectnet.load().predict(PHOTO).faces
    assert face.expression == "happiness"
    assert face.valence > 0.3


def test_grey_and_colour_give_the_same_result() -> None:

    from PIL import Image

    photo = Image.open(PHOTO)
    predictor = affectnet.load()
    (colour,) = predictor.predict(photo).faces
    copied = photo.convert("L").convert("RGB")
    (found,) = predictor.predict(copied).faces
    assert found.expression == "happiness"
    (grey,) = predictor.predict(copied, [colour.box]).faces
    assert grey.probabilities == pytest.approx(colour.probabilities, abs=0.02)
    assert grey.valence == pytest.approx(colour.valence, abs=0.02)


def test_its_folder_contains_five_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "SHA256",
        "config.json",
        "model.onnx",
        "model.safetensors",
    ]


def test_calibrating_leaves_the_package_as_it_is(folder: Path, drawn: Path, tmp_path: Path) -> None:
    from affectnet.commands.evaluate import evaluate
    from affectnet.config import EvaluateConfig

    names = sorted(path.name for path in folder.iterdir())
    given = EvaluateConfig(
        runs=(Path(DEFAULT_MODEL),), data=drawn, out=tmp_path / "out", calibrate=True
    )
    with pytest.raises(ConfigError, match="is not changed; it is calibrated"):
        evaluate(given)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_metrics_on_real_faces(ferplus: Path, tmp_path: Path) -> None:
    from affectnet.commands.evaluate import evaluate
    from affectnet.commands.ingest import ingest
    from affectnet.config import EvaluateConfig, IngestConfig

    data = tmp_path / "ferplus"
    ingest(IngestConfig(sources=tuple(sorted(ferplus.glob("*.tar.gz"))), out=data, check="header"))
    evaluate(
        EvaluateConfig(
            runs=(Path(DEFAULT_MODEL),),
            data=data,
            out=tmp_path / "scores",
            flip=True,
            resamples=0,
            figures=False,
        )
    )
    scores = json.loads(next((tmp_path / "scores").rglob("metrics.json")).read_text())
    card = (shipped_model(DEFAULT_MODEL) / "README.md").read_text(encoding="utf-8")
    expression = scores["expression"]
    # The targets, which these weights reach (docs/cvnet.md).
    assert expression["accuracy"]["value"] >= 0.88
    assert f"{expression['accuracy']['value']:.3f}" in card
    assert expression["f1_macro"]["value"] >= 0.70
    assert expression["ece"]["value"] <= 0.03
    assert scores["valence"]["ccc"]["value"] >= 0.80
    assert scores["arousal"]["ccc"]["value"] >= 0.70
