"""The model: its outputs, freezing, and saving and loading bit by bit."""

import copy
import json
import logging
import resource

import huggingface_hub.constants
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import affectnet
from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel

TINY = "test_resnet"
FILES = ["config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def cvnet():
    torch.manual_seed(0)
    return AffectModel("cvnet", image_size=48, dropout=0.3)


@pytest.fixture
def saved(cvnet, tmp_path):
    cvnet.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def grey(n, size):
    return torch.rand(n, 1, size, size).expand(-1, 3, -1, -1)


# --- output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [48, 64, 112, 224])
@pytest.mark.parametrize("colour", [True, False])
def test_shapes_and_ranges(cvnet, size, colour):
    images = torch.randn(3, 3, size, size) if colour else grey(3, size)
    output = cvnet.eval()(100 * images)
    assert output.logits.shape == (3, len(EXPRESSIONS))
    for values in (output.valence, output.arousal):
        assert values.shape == (3,)
        assert values.abs().max() <= 1


def test_valence_and_arousal_reach_both_ends(cvnet):
    heads = copy.deepcopy(cvnet.heads).eval()
    with torch.no_grad():
        heads.valence_arousal.bias.copy_(torch.tensor([20.0, -20.0]))
        output = heads(torch.zeros(2, cvnet.num_features))
    assert output.valence.tolist() == [1, 1]
    assert output.arousal.tolist() == [-1, -1]


def test_forward_is_heads_of_features(cvnet):
    images = torch.randn(2, 3, 48, 48)
    cvnet.eval()
    features = cvnet.features(images)
    assert features.shape == (2, cvnet.num_features)
    for ours, theirs in zip(cvnet(images), cvnet.heads(features), strict=True):
        assert torch.equal(ours, theirs)


def test_fewer_classes():
    model = AffectModel("cvnet", classes=("neutral", "happiness", "anger"))
    output = model.eval()(torch.randn(2, 3, 48, 48))
    assert output.logits.shape == (2, 3)


@pytest.mark.parametrize("classes", [(), ("happiness", "neutral"), ("joy",), ("anger", "anger")])
def test_classes_out_of_order_are_refused(classes):
    with pytest.raises(ConfigError, match=r"neutral, happiness.*in this order"):
        AffectModel("cvnet", classes=classes)


# --- freezing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cvnet", TINY])
def test_a_frozen_backbone_does_not_change_and_the_heads_are_trained(name):
    torch.manual_seed(1)
    model = AffectModel(name, image_size=64, dropout=0.5, drop_path=0.5 if name == "cvnet" else 0)
    model.freeze_backbone().train()
    before = copy.deepcopy(model.backbone.state_dict())
    images = torch.randn(8, 3, 64, 64)
    assert torch.equal(model.features(images), model.features(images))
    output = model(images)
    (output.logits.sum() + output.valence.sum() + output.arousal.sum()).backward()
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())
    assert not torch.equal(model(images).logits, model(images).logits)  # Dropout is active.


# --- saving and loading --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"backbone_name": "cvnet", "image_size": 48, "dropout": 0.3},
        {"backbone_name": TINY, "image_size": 96, "classes": EXPRESSIONS[:7]},
        {"backbone_name": "test_vit", "image_size": 64},
    ],
)
def test_a_loaded_model_predicts_the_same_bit_by_bit(options, tmp_path):
    torch.manual_seed(5)
    model = AffectModel(**options)
    model.temperature = 1.25
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))  # Moves the batch norms' statistics.
    model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == FILES
    loaded = AffectModel.from_pretrained(tmp_path / "model")
    assert not loaded.training
    assert loaded.config() == model.config()
    assert loaded.preprocessing == model.preprocessing
    assert loaded.temperature == 1.25
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    size = model.preprocessing.size
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for ours, theirs in zip(loaded(images), model.eval()(images), strict=True):
            assert torch.equal(ours, theirs)


def test_the_config_contains_all_that_prediction_needs(saved, cvnet):
    config = json.loads((saved / "config.json").read_text())
    assert config["classes"] == list(EXPRESSIONS)
    assert config["backbone"] == config["architecture"] == "cvnet"
    assert config["affectnet_version"] == affectnet.__version__
    assert config["temperature"] is None
    assert config["preprocessing"] == {
        "colour_order": "RGB",
        "size": 48,
        "mean": list(cvnet.preprocessing.mean),
        "std": list(cvnet.preprocessing.std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "margin": None,
        "alignment": None,
        "face_size": None,
    }
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["affectnet"]) == config


def test_the_config_contains_the_baselines_name_and_its_network():
    with torch.device("meta"):
        config = AffectModel("vgg19").config()
    assert config["backbone"] == "vgg19"
    assert config["architecture"] == "vgg19.tv_in1k"


def test_saving_again_replaces_and_leaves_nothing_else(cvnet, saved):
    (saved / "stale.txt").write_text("of an earlier model")
    cvnet.save_pretrained(str(saved))
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_failed_saving_keeps_the_old_model(cvnet, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(cvnet, "temperature", object())  # Cannot be written as JSON.
    with pytest.raises(TypeError):
        cvnet.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_copies_are_independent(cvnet):
    twin = copy.deepcopy(cvnet)
    with torch.no_grad():
        twin.heads.expression.bias.add_(1)
    assert not torch.equal(twin.heads.expression.bias, cvnet.heads.expression.bias)


def test_half_precision_file_is_loaded_in_full(saved, cvnet):
    path = saved / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path)
    loaded = AffectModel.from_pretrained(saved)
    weight = loaded.heads.expression.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, cvnet.heads.expression.weight.half().float())


def test_preprocessing_of_the_file_overrides_the_backbones(saved):
    config = json.loads((saved / "config.json").read_text())
    edit_config(
        saved, preprocessing=config["preprocessing"] | {"mean": [0.1, 0.2, 0.3], "margin": 0.2}
    )
    preprocessing = AffectModel.from_pretrained(saved).preprocessing
    assert preprocessing.mean == (0.1, 0.2, 0.3)
    assert preprocessing.margin == 0.2


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"classes": sorted(EXPRESSIONS)}, RunError, "all or some of neutral, happiness"),
        ({"classes": ["joy"]}, RunError, "joy"),
        ({"format": 99, "affectnet_version": "7.0"}, RunError, r"affectnet 7\.0.*upgrade"),
        ({"preprocessing": None}, RunError, "preprocessing is missing"),
        ({"backbone": TINY, "architecture": TINY}, WeightsError, "does not fit"),
        ({"classes": ["neutral"]}, WeightsError, "does not fit"),
        ({"architecture": "resnet_of_the_future"}, ConfigError, "unknown backbone"),
    ],
)
def test_configs_that_cannot_be_used(saved, changes, kind, message):
    edit_config(saved, **changes)
    with pytest.raises(kind, match=message) as error:
        AffectModel.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_other_colour_orders_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    edit_config(saved, preprocessing=config["preprocessing"] | {"colour_order": "BGR"})
    with pytest.raises(RunError, match="BGR"):
        AffectModel.from_pretrained(saved)


@pytest.mark.parametrize("entry", ["class_fractions", "prior"])
def test_class_fractions_are_kept_and_checked(saved, entry):
    fractions = (0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0)
    model = AffectModel.from_pretrained(saved)
    assert getattr(model, entry) is None
    setattr(model, entry, fractions)
    model.save_pretrained(saved)
    assert getattr(AffectModel.from_pretrained(saved), entry) == fractions
    for bad in ([0.5, 0.5], [0.5] * 8, [2, -1, 0, 0, 0, 0, 0, 0], [float("nan")] * 8, "x", 3, {}):
        edit_config(saved, **{entry: bad})
        with pytest.raises(RunError, match="incomplete or damaged"):
            AffectModel.from_pretrained(saved)


def test_missing_files_are_named(saved):
    (saved / "model.safetensors").rename(saved / "away")
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        AffectModel.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(RunError, match=r"config\.json"):
        AffectModel.from_pretrained(saved)


def _header(length: int, text: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "damaged",
    [
        lambda data: data[:1000],
        lambda _: b"",
        lambda _: _header(2),
        lambda _: _header(10**9),
        lambda _: _header(2**64 - 1),
        lambda _: _header(4, b"null"),
        lambda _: _header(20_000, b"[" * 20_000),
        lambda data: data.replace(b'"F32"', b'"C64"'),
        lambda data: data.replace(b'"F32"', b'"???"'),
        lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        lambda data: data.replace(b'\\"dropout\\": 0.3', b'\\"dropout\\": 9.9'),
        lambda data: data.replace(b'\\"format\\": 1', b'\\"format\\": ['),
    ],
)
def test_damaged_weights(saved, damaged):
    path = saved / "model.safetensors"
    before = path.read_bytes()
    path.write_bytes(damaged(before))
    assert path.read_bytes() != before
    with pytest.raises((WeightsError, RunError), match=r"model\.safetensors") as error:
        AffectModel.from_pretrained(saved)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.full((8,), torch.nan), "not finite"),
        (torch.full((8,), -torch.inf).half(), "not finite"),
        (torch.zeros(8, dtype=torch.int32), "not 16 to 64-bit floats"),
        (torch.zeros(8, dtype=torch.bool), "not 16 to 64-bit floats"),
        (torch.zeros(8).to(torch.float8_e4m3fn), "not 16 to 64-bit floats"),
        (torch.zeros(8, 1), "other shape"),
    ],
)
def test_weights_must_be_finite_floats(saved, bias, message):
    path = saved / "model.safetensors"
    save_file(load_file(path) | {"heads.expression.bias": bias}, path)
    with pytest.raises(WeightsError, match=rf"{message}.*heads\.expression\.bias"):
        AffectModel.from_pretrained(saved)


def test_a_model_that_does_not_fit_its_file_takes_no_memory(saved):
    """The largest network of timm would take 17 GB."""
    edit_config(saved, architecture="eva02_enormous_patch14_clip_224")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="does not fit"):
        AffectModel.from_pretrained(saved)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_a_run_folder_is_resolved_to_its_model(saved, tmp_path):
    loaded = AffectModel.from_pretrained(saved.parent)
    assert loaded.config() == AffectModel.from_pretrained(saved).config()
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(RunError, match=r"no trained model yet.*--name young --resume"):
        AffectModel.from_pretrained(tmp_path / "young")


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c"])
def test_no_model_there(name):
    with pytest.raises(RunError, match="no model at"):
        AffectModel.from_pretrained(name)


def test_a_hub_model_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"someone/model.*hub cannot be downloaded") as error:
        AffectModel.from_pretrained("someone/model")
    assert "\n" not in str(error.value)


# --- starting from another model -----------------------------------------------------------------


def test_transfer_loads_backbone_and_heads(saved, cvnet):
    model = AffectModel("cvnet", weights=saved, image_size=96)
    for name, tensor in cvnet.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.preprocessing.size == 96


def test_transfer_names_the_heads_that_start_fresh(saved, cvnet, caplog):
    with caplog.at_level(logging.WARNING, logger="affectnet"):
        model = AffectModel("cvnet", weights=saved, classes=EXPRESSIONS[:7])
    assert "expression.weight, expression.bias" in caplog.text
    assert "valence_arousal" not in caplog.text
    assert torch.equal(model.heads.valence_arousal.weight, cvnet.heads.valence_arousal.weight)


def test_transfer_never_loads_a_head_of_other_classes(tmp_path, caplog):
    first, second = EXPRESSIONS[:3], EXPRESSIONS[3:6]
    other = AffectModel("cvnet", classes=first)
    other.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING, logger="affectnet"):
        model = AffectModel("cvnet", weights=tmp_path / "model", classes=second)
    assert not torch.equal(model.heads.expression.weight, other.heads.expression.weight)
    assert "expression.weight" in caplog.text


def test_transfer_logs_nothing_if_all_fits(saved, caplog):
    with caplog.at_level(logging.WARNING, logger="affectnet"):
        AffectModel("cvnet", weights=saved)
    assert caplog.text == ""
