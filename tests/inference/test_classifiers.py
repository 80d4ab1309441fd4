"""An exported model predicts what PyTorch predicts, and needs no torch to do it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from affectnet.data.drawn.release import draw_faces
from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.inference.classifiers import CONFIG_KEY, EXPORT_KEY, OnnxClassifier, normalised
from affectnet.inference.predictor import Predictor, load

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Block())
"""


def without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that cannot import some packages."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_same_numbers_as_pytorch_on_a_photo(
    predictor: Predictor, onnx_file: Path, uint8_file: Path, photo_file: Path
) -> None:
    (ours,) = predictor.predict(photo_file).faces
    for file in (onnx_file, uint8_file):
        (theirs,) = load(file).predict(photo_file).faces
        assert theirs.box == ours.box
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
        assert theirs.valence == pytest.approx(ours.valence, abs=1e-4)
        assert theirs.arousal == pytest.approx(ours.arousal, abs=1e-4)


def test_every_batch_size(predictor: Predictor, onnx_file: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), np.uint8)
    loaded = OnnxClassifier(onnx_file)
    for n in (1, 2, 9):
        for a, b in zip(loaded(crops[:n])[:3], predictor.classifier(crops[:n])[:3], strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_metadata_of_the_file(onnx_file: Path, model_dir: Path) -> None:
    output = {p.key: p.value for p in onnx.load(str(onnx_file)).metadata_props}
    assert json.loads(output[CONFIG_KEY]) == json.loads((model_dir / "config.json").read_text())
    layout = json.loads(output[EXPORT_KEY])
    assert layout["precision"] == "fp32"
    assert layout["input"].startswith("faces: float32 RGB, (n, 3, 48, 48)")
    loaded = OnnxClassifier(onnx_file)
    assert loaded.size == 48
    assert loaded.interpolation == "bilinear"
    assert loaded.session.get_inputs()[0].shape[0] == "n"


def test_predict_runs_without_torch(
    onnx_file: Path, predictor: Predictor, photo_file: Path, tmp_path: Path, walk: Path
) -> None:
    out = tmp_path / "r.json"
    args = ["predict", str(photo_file), str(walk), "--model", str(onnx_file), "--out", str(out)]
    args += ["--annotate", str(tmp_path / "d")]
    code = (
        f"from affectnet import cli; status = cli.main({args})"
        "\nassert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = without({"torch", "timm", "lightning", "torchvision"}, code)
    assert done.returncode == 0, done.stderr
    output = json.loads(out.read_text())
    assert len(output) == 21
    (face,) = predictor.predict(photo_file).faces
    assert output[0]["faces"][0]["valence"] == pytest.approx(face.valence, abs=1e-4)
    assert (tmp_path / "d" / f"{walk.stem}_over_time.png").is_file()


def test_files_that_cannot_be_used(onnx_file: Path, tmp_path: Path) -> None:
    def stripped(**metadata: str) -> Path:
        model = onnx.load(str(onnx_file))
        known = {p.key: p.value for p in model.metadata_props}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {k: v for k, v in (known | metadata).items() if v})
        onnx.save(model, str(tmp_path / "m.onnx"))
        return tmp_path / "m.onnx"

    with pytest.raises(WeightsError, match="does not contain the model's configuration"):
        OnnxClassifier(stripped(**{CONFIG_KEY: ""}))
    with pytest.raises(RunError, match="not the config"):
        OnnxClassifier(stripped(**{CONFIG_KEY: "{}"}))
    with pytest.raises(RunError, match="incomplete"):
        OnnxClassifier(stripped(**{EXPORT_KEY: "{}"}))
    data = onnx_file.read_bytes()
    for damaged in (b"", b"no model", data[: len(data) // 2]):
        (tmp_path / "m.onnx").write_bytes(damaged)
        with pytest.raises(WeightsError, match="not a whole ONNX model"):
            OnnxClassifier(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="cuda"):
        OnnxClassifier(onnx_file, "cuda")


def test_normalised_follows_the_definition() -> None:
    faces = np.stack([np.full((4, 4, 3), (0, 51, 255), np.uint8)] * 2)
    images = normalised(faces, np.array([0.5, 0, 0.5], np.float32), np.array([1, 2, 4], np.float32))
    assert images.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(images[1, :, 3, 3], [-0.5, 0.1, 0.125], atol=1e-6)


def test_crops_get_the_numbers_of_pytorch(predictor: Predictor, uint8_file: Path) -> None:
    images = [face.image for face in draw_faces(1, seed=3, size=80)]
    ours = predictor.predict(images, faces="none")
    for a, b in zip(ours, load(uint8_file).predict(images, faces="none"), strict=True):
        np.testing.assert_allclose(b.faces[0].probabilities, a.faces[0].probabilities, atol=1e-4)
