import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectnet.data.augment import normalise, to_float
from affectnet.errors import ConfigError
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.report.gradcam import grad_cam, mean_maps

SIZE = 64
BACKBONES = (  # the layouts of spatial features in backbones
    "cvnet",
    "resnet10t",
    "convnext_atto",
    "swinv2_tiny_window8_256",  # (n, h, w, C)
    "swinv2_cr_tiny_ns_224",  # (n, C, h, w)
    "vit_tiny_patch16_224",  # tokens, the first is the class
    "deit_tiny_distilled_patch16_224",  # two tokens without a position
)


def small_model(name: str) -> AffectModel:
    torch.manual_seed(0)
    return AffectModel(name, image_size=SIZE).eval()


def noise(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def prepared(model: AffectModel, images: NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return normalise(to_float(x), model.preprocessing.mean, model.preprocessing.std)


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_of_any_backbone(name: str) -> None:
    model = small_model(name)
    images = noise(2)
    results = [grad_cam(model, images, t) for t in ("valence", "-valence", "arousal", "-arousal")]
    results.append(grad_cam(model, images))
    for maps in results:
        assert maps.shape == (2, SIZE, SIZE)
        assert maps.dtype == np.float32
        assert maps.min() >= 0
        assert set(np.unique(maps.max(axis=(1, 2)))) <= {0.0, 1.0}
    assert any(maps.max() == 1 for maps in results)


def test_the_patch_that_makes_the_score_is_found() -> None:
    model = small_model("cvnet")
    model.backbone = nn.Sequential(
        nn.AvgPool2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.heads.expression = nn.Linear(3, 8, bias=False)
    model.heads.valence_arousal = nn.Linear(3, 2)
    with torch.no_grad():
        model.heads.expression.weight.zero_()
        model.heads.expression.weight[EXPRESSIONS.index("fear")] = 1.0
    images = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    corners = [(8, 40), (32, 16), (48, 0)]
    for image, (top, left) in zip(images, corners, strict=True):
        image[top : top + 8, left : left + 8] = 255
    maps = grad_cam(model, images, "fear", layer="1")
    for found, (top, left) in zip(maps, corners, strict=True):
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert top <= row < top + 8
        assert left <= column < left + 8
        assert found[top : top + 8, left : left + 8].mean() > 10 * found.mean()
    assert not grad_cam(model, images, "anger", layer="1").any()  # nothing raises its score


@pytest.mark.parametrize("name", ["cvnet", "resnet10t", "swinv2_cr_tiny_ns_224"])
def test_a_planted_patch_is_found_through_a_real_network(name: str) -> None:
    # The head's weights are the patch's feature less the background's, so the score is the patch.
    model = small_model(name)
    size = 224 if name != "cvnet" else SIZE
    if name != "cvnet":
        torch.manual_seed(0)
        model = AffectModel(name, image_size=size).eval()
    images = np.full((1, size, size, 3), 128, np.uint8)
    half = size // 2
    images[0, half:, half:] = np.random.default_rng(1).integers(0, 256, (half, half, 3))
    x = prepared(model, images)
    with torch.no_grad():
        seen = model.backbone.forward_features(x)[0]
        middle = seen.shape[1] // 2
        patch = seen[:, middle + 1 :, middle + 1 :].mean((1, 2))
        rest = seen[:, :middle, :middle].mean((1, 2))
        model.heads.expression.weight.zero_()
        model.heads.expression.weight[4] = patch - rest
    (found,) = grad_cam(model, images, "fear")
    assert found[half:, half:].mean() > 1.5 * found[:half, :half].mean()


def test_with_mean_pooling_it_is_the_class_activation_map() -> None:
    # Selvaraju et al. 2017, section 3.1: then the weights are the linear layer's own.
    model = small_model("resnet10t")
    images = noise(3)
    with torch.no_grad():
        seen = model.backbone.forward_features(prepared(model, images))
        weights = model.heads.expression.weight[[1, 5, 2]]
        cam = torch.einsum("nchw,nc->nhw", seen, weights).relu()
        cam = nn.functional.interpolate(cam[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0]
        top = cam.amax((1, 2), keepdim=True)
        expected = torch.where(top > 0, cam / top, cam).numpy()
    targets = [EXPRESSIONS[c] for c in (1, 5, 2)]
    np.testing.assert_allclose(grad_cam(model, images, targets), expected, atol=1e-5)


class Logits(nn.Module):
    def __init__(self, model: AffectModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


@pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None, reason="grad-cam is not installed"
)
@pytest.mark.parametrize("name", ["cvnet", "swinv2_tiny_window8_256", "vit_tiny_patch16_224"])
def test_equals_the_grad_cam_package(name: str) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = small_model(name)
    images = noise(2, seed=3)
    backbone = model.backbone
    layer, reshape = {
        "cvnet": lambda: (backbone.stages, None),
        "swinv2_tiny_window8_256": lambda: (backbone.norm, lambda t: t.permute(0, 3, 1, 2)),
        "vit_tiny_patch16_224": lambda: (
            backbone.blocks[-1].norm1,
            lambda t: t[:, 1:].reshape(len(t), 4, 4, -1).permute(0, 3, 1, 2),
        ),
    }[name]()
    with GradCAM(Logits(model), [layer], reshape_transform=reshape) as reference:
        expected = reference(prepared(model, images), [ClassifierOutputTarget(c) for c in (1, 3)])
    found = grad_cam(model, images, [EXPRESSIONS[c] for c in (1, 3)])
    assert expected.max() > 0.99
    low, high = (end(found, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
    # Theirs puts the least value of each map at zero as well.
    np.testing.assert_allclose((found - low) / (high - low + 1e-7), expected, atol=2e-3)


def test_the_predicted_expression_is_the_default() -> None:
    model = small_model("cvnet")
    images = noise(4)
    with torch.no_grad():
        said = model(prepared(model, images)).logits.argmax(1).tolist()
    expected = grad_cam(model, images, [EXPRESSIONS[c] for c in said], batch_size=3)
    np.testing.assert_allclose(grad_cam(model, images), expected, atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model = small_model("resnet10t").freeze_backbone().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # as a caller may have it set
        assert grad_cam(model, noise(2), "fear").shape == (2, SIZE, SIZE)
    assert model.training
    assert not model.backbone.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "fera"}, "did you mean 'fear'"),
        ({"target": ["fear"]}, "1 targets for 2 faces"),
        ({"layer": "stage"}, "no layer 'stage'"),
        ({"layer": "backbone_of_nobody"}, "no layer"),
    ],
)
def test_wrong_arguments_are_errors(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grad_cam(small_model("cvnet"), noise(2), **change)


def test_images_of_another_size_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"takes \(n, 64, 64, 3\)"):
        grad_cam(small_model("cvnet"), noise(2)[:, :48])


def test_a_layer_without_spatial_dimensions_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not a square map"):
        grad_cam(small_model("resnet10t"), noise(1), "fear", layer="global_pool")


def test_mean_maps_of_expressions_without_faces_are_nan() -> None:
    maps = np.stack([np.full((2, 2), v, np.float32) for v in (0.0, 1.0, 0.5, 0.25)])
    means = mean_maps(maps, np.array([1, 1, 3, -1]))
    assert means.shape == (8, 2, 2)
    assert means[1].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert means[3].max() == 0.5
    assert np.isnan(means[[0, 2, 4, 5, 6, 7]]).all()


def test_a_saved_model_gives_the_same_maps(tmp_path: Path) -> None:
    model = small_model("cvnet")
    model.save_pretrained(tmp_path / "model")
    again = AffectModel.from_pretrained(tmp_path / "model")
    images = noise(2)
    np.testing.assert_array_equal(grad_cam(again, images, "fear"), grad_cam(model, images, "fear"))
