"""Backbones: names, sizes, and weights that are loaded completely or refused."""

import http.server
import threading

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from affectnet.cli import parse
from affectnet.errors import ConfigError, WeightsError
from affectnet.models.affect_model import AffectModel
from affectnet.models.backbones import BASELINES, create_backbone, resolve_name

TINY = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def original():
    """A tiny timm model with its ImageNet-sized classifier, with random weights."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, pretrained=False).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return model


@pytest.fixture
def checkpoint(original, tmp_path):
    """Its weights as timm distributes them; a test may edit them before writing."""
    path = tmp_path / "tiny.safetensors"

    def write(edit=lambda tensors: tensors):
        save_file(edit(dict(original.state_dict())), path)
        return path

    return write


def assert_same_features(backbone, original):
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        wanted = original.forward_head(original.forward_features(images), pre_logits=True)
        assert torch.equal(backbone.eval()(images), wanted)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("vgg19", 4096),
        ("resnet152", 2048),
        ("swin_v2", 1024),
        ("efficientnet_v2_l", 1280),
        ("regnet_y_32gf", 3712),
        ("convnext_large", 1536),
    ],
)
def test_baselines_are_torchvisions_networks(name, features):
    """The number of parameters without the classifier is the one torchvision states."""
    facts = torchvision.models.get_model_weights({"swin_v2": "swin_v2_b"}.get(name, name)).DEFAULT
    with torch.device("meta"):
        backbone, preprocessing = create_backbone(name, pretrained=False)
    assert backbone.num_features == features
    # Swin-V2's two versions differ in which of its query and key biases are parameters.
    slack = 0.001 if name == "swin_v2" else 0
    count = sum(p.numel() for p in backbone.parameters()) + 1000 * (features + 1)
    assert count == pytest.approx(facts.meta["num_params"], rel=slack, abs=0)

    # The same build tells the preprocessing, which is the backbone's own.
    cfg = timm.get_pretrained_cfg(BASELINES[name])
    assert preprocessing.size == cfg.input_size[-1]
    assert preprocessing.interpolation == cfg.interpolation
    assert preprocessing.mean == pytest.approx(cfg.mean)
    assert preprocessing.std == pytest.approx(cfg.std)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_imagenet_weights_on_the_hub(name):
    cfg = timm.get_pretrained_cfg(resolve_name(name))
    assert cfg.hf_hub_id
    assert "in1k" in cfg.tag


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("convnext_larg", "convnext_large"),
        ("cvnt", "cvnet"),
        ("swinv2", "swin_v2"),
        ("resnet-18", "resnet18"),
        ("mobilenetv3_smal_100", "mobilenetv3_small_100"),
        ("resnet18.a1_in1", "a1_in1k"),
    ],
)
def test_the_error_for_a_misspelt_name_suggests_the_nearest(given, nearest):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        create_backbone(given, pretrained=False)


@pytest.mark.parametrize("name", ["", "xyzzy", "hf-hub:someone/thing", "../resnet18"])
def test_unknown_names(name):
    with pytest.raises(ConfigError, match=r"unknown backbone .* choose cvnet, vgg19"):
        create_backbone(name, pretrained=False)


# --- preprocessing and sizes ---------------------------------------------------------------------


def test_image_size_replaces_the_backbones_own():
    with torch.device("meta"):
        _, own = create_backbone("resnet18", pretrained=False)
        _, given = create_backbone("resnet18", pretrained=False, image_size=128)
    assert (own.size, given.size) == (224, 128)
    assert own.mean == given.mean == pytest.approx((0.485, 0.456, 0.406))
    assert own.std == given.std == pytest.approx((0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "vit_tiny_patch16_224", TINY])
def test_other_sizes_run(name):
    backbone, preprocessing = create_backbone(name, pretrained=False, image_size=64)
    assert preprocessing.size == 64
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, backbone.num_features)


@pytest.mark.parametrize(
    ("name", "size", "works"),
    [("test_maxvit", 90, "64, 96, 160"), ("vgg19", 20, "32, 224"), ("cvnet", 40, "48 to 224")],
)
def test_the_error_for_an_impossible_size_names_possible_ones(name, size, works):
    with pytest.raises(ConfigError, match=rf"{name}.* faces of .*{works}") as error:
        create_backbone(name, pretrained=False, image_size=size)
    assert str(size) in str(error.value)


def test_the_sizes_in_the_error_work():
    with pytest.raises(ConfigError) as error:
        create_backbone("test_maxvit", pretrained=False, image_size=90)
    for size in str(error.value).rpartition(": ")[2].split(", "):
        backbone, _ = create_backbone("test_maxvit", pretrained=False, image_size=int(size))
        with torch.no_grad():
            assert backbone(torch.randn(2, 3, int(size), int(size))).isfinite().all()


def test_drop_path_reaches_the_backbone_or_is_refused():
    with torch.device("meta"):
        backbone, _ = create_backbone("resnet18", pretrained=False, drop_path=0.3)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    with pytest.raises(ConfigError, match=r"vgg19.*no drop path"):
        create_backbone("vgg19", pretrained=False, drop_path=0.3)


# --- weights from a file -------------------------------------------------------------------------


def test_a_timm_checkpoint_is_loaded_completely(original, checkpoint):
    backbone, _ = create_backbone(TINY, pretrained=True, weights=checkpoint())
    assert_same_features(backbone, original)


def test_a_pytorch_checkpoint_is_loaded_completely(original, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save({"state_dict": original.state_dict(), "epoch": 1}, path)
    backbone, _ = create_backbone("test_resnet", pretrained=False, weights=path)
    assert_same_features(backbone, original)


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: (
            t | {"fc.weight": torch.zeros(8, t["fc.weight"].shape[1]), "fc.bias": torch.ones(8)}
        ),
        lambda t: {name: value for name, value in t.items() if not name.startswith("fc.")},
        lambda t: (
            {name: value for name, value in t.items() if not name.startswith("fc.")}
            | {"fc.0.weight": torch.zeros(8, t["fc.weight"].shape[1]), "fc.0.bias": torch.ones(8)}
        ),
    ],
    ids=["another classifier", "no classifier", "a classifier of several layers"],
)
def test_the_classifier_does_not_matter(original, checkpoint, edit):
    backbone, _ = create_backbone(TINY, pretrained=False, weights=checkpoint(edit))
    assert_same_features(backbone, original)


@pytest.mark.parametrize("head", [nn.Identity(), nn.Sequential(nn.Linear(1280, 8))])
def test_emotiefflibs_weights_from_faces_are_loaded_completely(head, tmp_path):
    """The keys of `state_vggface2_enet0_new.pt`: timm's network, its classifier replaced."""
    torch.manual_seed(1)
    net = timm.create_model("tf_efficientnet_b0.ns_jft_in1k", pretrained=False)
    net.classifier = head
    path = tmp_path / "state_vggface2_enet0_new.pt"
    torch.save(net.state_dict(), path)
    config = parse("train", ["--recipe", "published-emotiefflib", "--data", "D"])
    backbone, preprocessing = create_backbone(config.backbone, pretrained=True, weights=path)
    net.classifier = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images), net.eval()(images))
    # Its training normalised the faces with the same values.
    assert preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert preprocessing.std == pytest.approx((0.229, 0.224, 0.225))


def test_half_precision_weights_become_32_bit(original, checkpoint):
    path = checkpoint(lambda t: {k: v.half() if v.is_floating_point() else v for k, v in t.items()})
    backbone, _ = create_backbone(TINY, pretrained=False, weights=path)
    weight = backbone.state_dict()["conv1.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, original.state_dict()["conv1.0.weight"].half().float())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "layer1.0.conv1.weight"},
            "missing: layer1.0",
        ),
        (lambda t: t | {"layer9.weight": torch.zeros(1)}, "unexpected: layer9.weight"),
        (lambda t: t | {"layer1.0.conv1.weight": torch.zeros(1, 2, 3, 3)}, "other shape: layer1.0"),
        (lambda _: timm.create_model("test_vit", num_classes=0).state_dict(), "missing: conv1"),
    ],
    ids=["missing", "unexpected", "shape", "another network"],
)
@pytest.mark.parametrize("classifier", [True, False])
def test_weights_that_do_not_fit_are_refused(checkpoint, edit, message, classifier):
    def without(tensors):
        return {k: v for k, v in tensors.items() if classifier or not k.startswith("fc.")}

    path = checkpoint(lambda tensors: without(edit(tensors)))
    with pytest.raises(WeightsError) as error:
        create_backbone(TINY, pretrained=False, weights=path)
    text = str(error.value)
    assert message in text
    assert str(path) in text
    assert len(text) < 600
    assert "\n" not in text


def test_backbone_from_an_affectnet_model(tmp_path):
    saved = AffectModel(TINY, image_size=64)
    saved.save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        backbone, preprocessing = create_backbone("test_resnet", pretrained=True, weights=weights)
        assert preprocessing.size == 64
        for name, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, saved.backbone.state_dict()[name])


def test_another_backbones_affectnet_model_is_refused_naming_both(tmp_path):
    AffectModel("cvnet").save_pretrained(tmp_path / "model")
    with pytest.raises(WeightsError, match=rf"contains the backbone cvnet, not {TINY}"):
        create_backbone(TINY, pretrained=False, weights=tmp_path / "model")


def test_cvnet_loads_only_its_own_weights(tmp_path, checkpoint):
    torch.manual_seed(3)
    saved, _ = create_backbone("cvnet", pretrained=True)
    save_file(saved.state_dict(), tmp_path / "cvnet.safetensors")
    loaded, _ = create_backbone("cvnet", pretrained=False, weights=tmp_path / "cvnet.safetensors")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name])
    with pytest.raises(WeightsError, match="does not fit the backbone cvnet"):
        create_backbone("cvnet", pretrained=False, weights=checkpoint())


# --- weights from the hub ------------------------------------------------------------------------


def use_hub(monkeypatch, tmp_path, endpoint, offline=False):
    """Point huggingface_hub at another server and an empty cache."""
    constants = huggingface_hub.constants
    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


@pytest.fixture
def hub(original, tmp_path, monkeypatch):
    """A local hub with the tiny model's weights that counts its requests."""
    weights = tmp_path / "on-the-hub.safetensors"
    save_file(original.state_dict(), weights)
    body = weights.read_bytes()
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self):
            asked.append((self.command, self.path))
            found = self.path == f"/timm/{TINY}/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body) if found else 0))
            if found:
                self.send_header("ETag", '"0123456789abcdef"')
                self.send_header("X-Repo-Commit", "a" * 40)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, tmp_path, f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


def test_pretrained_weights_come_from_the_hub_and_then_from_its_cache(hub, original, monkeypatch):
    backbone, _ = create_backbone(TINY, pretrained=True)
    assert_same_features(backbone, original)
    assert [path for command, path in hub if command == "GET"]

    hub.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again, _ = create_backbone("test_resnet", pretrained=True)
    assert_same_features(again, original)
    assert hub == []


@pytest.mark.usefixtures("hub")
def test_damaged_weights_in_the_cache_are_refused(tmp_path):
    create_backbone(TINY, pretrained=True)
    (cached,) = (tmp_path / "cache").rglob("model.safetensors")
    tensors = load_file(cached)
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, cached.resolve())
    with pytest.raises(WeightsError, match=r"do not fit.*layer1.*delete .*model\.safetensors"):
        create_backbone(TINY, pretrained=True)


@pytest.mark.parametrize("offline", [False, True])
def test_the_error_without_a_network_names_both_solutions(monkeypatch, tmp_path, offline):
    use_hub(monkeypatch, tmp_path, "http://127.0.0.1:9", offline=offline)  # Nobody listens there.
    with pytest.raises(WeightsError) as error:
        create_backbone(TINY, pretrained=True)
    message = str(error.value)
    assert TINY in message
    assert "--no-pretrained" in message
    assert "--weights FILE" in message
    assert "\n" not in message


def test_a_model_without_weights():
    with pytest.raises(WeightsError, match=r"timm has no pretrained weights for .*--no-pretrained"):
        create_backbone("botnet50ts_256", pretrained=True)
