"""The runtime that a model gets, the same numbers from each, and what is said without PyTorch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from affectnet.errors import ConfigError
from affectnet.inference.classifiers import CONFIG_KEY, EXPORT_KEY, OnnxClassifier
from affectnet.inference.predictor import Predictor, load
from affectnet.inference.results import PictureResult
from affectnet.inference.runtime import open_classifier

WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "lightning"):
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Block())
from affectnet import cli
for line in sys.stdin.read().splitlines():
    status = cli.main(line.split())
    print("status", status)
"""


def without_torch(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run commands in a process that cannot import PyTorch."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )


def numbers(*results: PictureResult) -> np.ndarray:
    return np.array(
        [[*face.probabilities, face.valence, face.arousal] for r in results for face in r.faces]
    )


@pytest.fixture(scope="module")
def run(model_dir: Path, uint8_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the small model and its ONNX file, as `affectnet export RUN` leaves it."""
    folder = tmp_path_factory.mktemp("runtime") / "run"
    shutil.copytree(model_dir, folder / "model")
    shutil.copy(uint8_file, folder / "model" / "model.onnx")
    return folder


def test_the_model_of_the_package_needs_no_torch(photo_file: Path, tmp_path: Path) -> None:
    done = without_torch(f"predict {photo_file} --out {tmp_path / 'r.json'}")
    assert done.stdout.endswith("status 0\n"), done.stderr
    (found,) = json.loads((tmp_path / "r.json").read_text())
    (face,) = load().predict(photo_file).faces
    assert found["faces"][0]["valence"] == pytest.approx(face.valence, abs=1e-6)
    assert isinstance(open_classifier("cvnet"), OnnxClassifier)


def test_commands_that_need_torch_say_what_to_install(model_dir: Path, tmp_path: Path) -> None:
    lines = (
        "train --data none",
        "benchmark --data none --backbones cvnet --out none",
        f"export {model_dir} --out {tmp_path / 'x.onnx'}",
        f"demo --out {tmp_path / 'demo'}",
        f"predict 0 --model {model_dir}",
        "predict 0 --model runs/none",
        "train --help",
    )
    done = without_torch(*lines)
    errors = done.stderr.splitlines()
    assert len(errors) == 6, done.stderr
    for line in errors:
        assert "needs torch and 3 other packages, which are not installed" in line
        assert "run `pip install 'affectnet[train]'`" in line
    assert "copy model.onnx as well" in errors[-2]
    assert "runs/none is not a folder here, and as a model of the Hugging Face Hub it" in errors[-1]
    assert done.stdout.count("status 2") == 6
    assert done.stdout.endswith("status 0\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_run_by_the_file_next_to_its_weights(
    run: Path, predictor: Predictor, photo_file: Path, tmp_path: Path
) -> None:
    exported = load(run)
    assert isinstance(exported.classifier, OnnxClassifier)
    np.testing.assert_allclose(
        numbers(exported.predict(photo_file)), numbers(predictor.predict(photo_file)), atol=1e-4
    )
    done = without_torch(f"predict {photo_file} --model {run} --out {tmp_path / 'r.csv'}")
    assert done.stdout.endswith("status 0\n"), done.stderr


def changed(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def test_a_file_that_does_not_belong_to_the_weights_is_refused(run: Path, tmp_path: Path) -> None:
    other = changed(run, tmp_path / "config")
    text = (other / "model" / "config.json").read_text()
    config = json.loads(text) | {"temperature": 2.0}
    (other / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"another configuration.*affectnet export .* --overwrite"
    ):
        load(other)

    other = changed(run, tmp_path / "weights")
    with (other / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    with pytest.raises(ConfigError, match="not made from the weights"):
        load(other)

    import onnx

    other = changed(run, tmp_path / "precision")
    file = onnx.load(str(other / "model" / "model.onnx"))
    known = {entry.key: entry.value for entry in file.metadata_props}
    layout = json.loads(known[EXPORT_KEY]) | {"precision": "int8"}
    del file.metadata_props[:]
    onnx.helper.set_model_props(
        file, {CONFIG_KEY: known[CONFIG_KEY], EXPORT_KEY: json.dumps(layout)}
    )
    onnx.save(file, str(other / "model" / "model.onnx"))
    with pytest.raises(ConfigError, match="less precise"):
        load(other)


def test_providers_and_devices(run: Path, model_dir: Path, onnx_file: Path) -> None:
    assert isinstance(load(run, provider="CPUExecutionProvider").classifier, OnnxClassifier)
    with pytest.raises(ConfigError, match=r"no provider openvinoo; it has .*cpu"):
        load(run, provider="openvinoo")
    with pytest.raises(ConfigError, match=r"affectnet export .*model` first"):
        load(model_dir, provider="cpu")
    with pytest.raises(ConfigError, match="both given"):
        load(run, provider="cpu", device="cuda")
    with pytest.raises(ConfigError, match="give the provider coreml"):
        load(onnx_file, device="mps")
    with pytest.raises(ConfigError, match="may be auto, cpu, cuda, mps"):
        load(run, device="tpu")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_reported(device: str, run: Path) -> None:
    torch = pytest.importorskip("torch")
    if (torch.cuda if device == "cuda" else torch.backends.mps).is_available():
        assert load(run, device=device).classifier.device.type == device
        return
    why = r" \(.*(NVIDIA|CUDA).*\)" if device == "cuda" else ""
    with pytest.raises(ConfigError, match=f"use the device {device} here{why}; it can use cpu"):
        load(run, device=device)


def test_the_model_of_the_package_has_the_numbers_of_evaluate_and_of_pytorch(
    drawn: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    import pyarrow.parquet as pq

    from affectnet.commands.evaluate import evaluate
    from affectnet.config import EvaluateConfig
    from affectnet.data.store import open_split
    from affectnet.inference.torch_classifier import TorchClassifier
    from affectnet.labels import PROBABILITY_COLUMNS
    from affectnet.models.affect_model import AffectModel

    scored = EvaluateConfig(
        runs=(Path("cvnet"),), data=drawn, out=tmp_path / "e", resamples=0, figures=False
    )
    evaluate(scored)
    (file,) = (tmp_path / "e").rglob("predictions.parquet")
    table = pq.read_table(file)
    columns = (*PROBABILITY_COLUMNS, "valence_pred", "arousal_pred")
    expected = np.stack([table[name].to_numpy() for name in columns], axis=1)
    split = open_split(drawn, "test")
    images = [bytes(split.image_bytes(i)) for i in range(len(split))]
    pytorch = Predictor(TorchClassifier(AffectModel.from_pretrained("cvnet"), "cpu"))
    for predictor in (load(), pytorch):
        results = predictor.predict(images, faces="none")
        np.testing.assert_allclose(numbers(*results), expected, atol=1e-4)
