"""Export: every precision and layout, compared before it is kept; refused and nothing left."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image
from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.inference import onnx_export as export
from affectnet.inference.classifiers import ModelOutput, OnnxClassifier
from affectnet.inference.onnx_export import compare, export_onnx
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel


@pytest.fixture(scope="module")
def model(model_dir: Path) -> AffectModel:
    model = AffectModel.from_pretrained(model_dir)
    model.temperature = 1.5
    return model


def test_fp32_is_pytorch_with_its_temperature(model, drawn_crops, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = export_onnx(model, tmp_path / "m.onnx", drawn_crops)
    assert found.faces == 64
    assert found.largest < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    images = (drawn_crops / 255 - np.array(model.preprocessing.mean)) / np.array(
        model.preprocessing.std
    )
    with torch.no_grad():
        output = model(torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32))
    expected = torch.softmax(output.logits / 1.5, dim=1)
    given = OnnxClassifier(tmp_path / "m.onnx")(drawn_crops)
    np.testing.assert_allclose(given.probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(given.valence, output.valence, atol=1e-4)
    assert expected.max(dim=1).values.std() > 0.01  # the faces do get different numbers
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(RunError, match="--overwrite"):
        export_onnx(model, tmp_path / "m.onnx", drawn_crops)


def test_int8_is_smaller_and_close(
    model_dir, drawn_crops, tmp_path: Path, uint8_file: Path
) -> None:
    with pytest.raises(ConfigError, match="calibration"):
        export_onnx(
            AffectModel.from_pretrained(model_dir),
            tmp_path / "m.onnx",
            drawn_crops,
            precision="int8",
        )
    # Heads stay as they are, so a correction of the class fractions is exact, one by -inf too.
    model = AffectModel.from_pretrained(model_dir)
    model.prior = (1 / 8,) * 8
    target = tmp_path / "target.json"
    target.write_text("[3, 1, 1, 1, 1, 1, 1, 0]")
    model.correct_prior(str(target))
    target.unlink()
    found = export_onnx(
        model,
        tmp_path / "m.onnx",
        drawn_crops[32:],
        calibration=drawn_crops[:32],
        precision="int8",
    )
    assert 1e-5 < found.mean < export.MAX_MEAN_DIFFERENCE["int8"]
    assert found.agreement >= 0.9
    assert (OnnxClassifier(tmp_path / "m.onnx")(drawn_crops).probabilities[:, 7] == 0).all()
    size = (tmp_path / "m.onnx").stat().st_size
    assert size < 0.35 * uint8_file.stat().st_size
    kinds = {t.data_type for t in onnx.load(str(tmp_path / "m.onnx")).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_fp16_is_half_the_size(model, drawn_crops, tmp_path: Path, uint8_file: Path) -> None:
    found = export_onnx(model, tmp_path / "m.onnx", drawn_crops, precision="fp16", inside=False)
    assert 0 < found.largest < export.MAX_DIFFERENCE["fp16"]
    assert (tmp_path / "m.onnx").stat().st_size < 0.6 * uint8_file.stat().st_size
    assert model.heads.expression.weight.dtype == torch.float32


def test_a_file_that_predicts_otherwise_is_not_kept(
    model, drawn_crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_text("the old one")
    monkeypatch.setitem(export.MAX_MEAN_DIFFERENCE, "fp16", 1e-12)
    with pytest.raises(
        WeightsError, match=r"mean difference .* at most 1e-12.*nothing was written"
    ):
        export_onnx(model, tmp_path / "m.onnx", drawn_crops, precision="fp16", overwrite=True)
    assert (tmp_path / "m.onnx").read_text() == "the old one"
    assert len(list(tmp_path.iterdir())) == 1


def scores(probabilities: list[list[float]], valence: list[float]) -> ModelOutput:
    values = np.array(valence, np.float32)
    return ModelOutput(np.array(probabilities, np.float32), values, values)


def test_the_comparison_is_correct() -> None:
    first = scores([[0.9, 0.1], [0.4, 0.6]], [0.0, 1.0])
    other = scores([[0.8, 0.2], [0.6, 0.4]], [0.0, 0.9])
    found = compare(first, other)
    assert found.largest == pytest.approx(0.2)
    assert found.mean == pytest.approx((0.1 + 0.1 + 0.2 + 0.2 + 0.1 + 0.1) / 8)
    assert found.agreement == 0.5
    assert "50.0% of faces" in (found.fault("int8") or "")
    assert compare(first, first).fault("fp32") is None
    broken = scores([[np.nan, 0.2], [0.6, 0.4]], [0.0, 0.9])
    assert compare(first, broken).fault("fp32") is not None
    assert compare(first, broken).fault("int8") is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("cvnet", 224),
        ("efficientnet_b0", 112),
        ("convnext_tiny", 112),
        ("resnet50", 112),
        ("swinv2_tiny_window8_256", 256),
        ("regnety_032", 96),
        ("vgg19", 64),
    ],
)
def test_every_kind_of_backbone(backbone: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AffectModel(backbone, image_size=size).eval()
    faces = np.stack([decode_image(f.image, size) for f in draw_faces(1, seed=1, size=96)])
    for inside in (True, False):
        found = export_onnx(model, tmp_path / "m.onnx", faces, inside=inside, overwrite=True)
        assert found.largest < 1e-4
        loaded, ours = OnnxClassifier(tmp_path / "m.onnx"), TorchClassifier(model, "cpu")
        for n in (1, 3, 8):
            for a, b in zip(loaded(faces[:n]), ours(faces[:n]), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)
