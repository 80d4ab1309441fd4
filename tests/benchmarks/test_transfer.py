"""The benchmark of transfer learning: its rows, and pretrained weights from other formats."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transfer

from affectnet.cli import parse
from affectnet.commands.train_settings import check
from affectnet.data.store import open_split

PADDING = base64.b64encode(b"SAME").decode()


@pytest.mark.parametrize("table", ["WAYS", "CHANGES"])
def test_every_row_passes_the_checks_of_train(table: str) -> None:
    for flags in getattr(transfer, table).values():
        filled = flags.format(**transfer.flag_values(4, 64))
        config = parse("train", f"--data D --epochs 4 {transfer.COMMON} {filled}".split())
        check(config)
        assert (config.recipe, config.logit_tau, config.probe_epochs > 0) == (
            *("finetune", 0),
            "probe" in filled,
        )


def test_tensors_in_another_librarys_order_are_renamed() -> None:
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    own = net.state_dict()
    others = {f"_{i}": tensor for i, tensor in enumerate(own.values())}
    others |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    named = transfer.in_order(others, net)
    assert all(torch.equal(named[name], tensor) for name, tensor in own.items())
    others["_0"] = torch.zeros(1)
    with pytest.raises(SystemExit, match="shapes"):
        transfer.in_order(others, net)


@pytest.fixture
def graph(tmp_path: Path) -> transfer.Graph:
    """A MobileNetV1 with random weights as a TensorFlow.js graph, as faceres is one."""
    rng = np.random.default_rng(0)
    nodes: list[dict] = [{"name": "input_1", "op": "Placeholder"}]
    weights: list[dict] = []
    raw = b""

    def constant(name: str, values: np.ndarray) -> str:
        nonlocal raw
        quantization = {"dtype": "float16"}
        weights.append({"name": name, "shape": list(values.shape), "quantization": quantization})
        raw += values.astype("<f2").tobytes()
        return name

    def node(name: str, op: str, *inputs: str, stride: int = 0) -> str:
        one: dict = {"name": name, "op": op, "input": list(inputs)}
        if stride:
            strides = ["1", str(stride), str(stride), "1"]
            one["attr"] = {"padding": {"s": PADDING}, "strides": {"list": {"i": strides}}}
        nodes.append(one)
        return name

    top = constant("six", np.array(6.0))
    last, width = "input_1", 3
    layers = [("conv1", 32, 2, False)]
    widths = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    for i, out in enumerate(widths, 1):
        layers += [(f"conv_dw_{i}", 0, 2 if i in (2, 4, 6, 12) else 1, True)]
        layers += [(f"conv_pw_{i}", out, 1, False)]
    for name, out, stride, deep in layers:
        side = 1 if "_pw_" in name else 3
        shape = (side, side, width, 1 if deep else out)
        kernel = rng.normal(0, (2 / (side * side * (1 if deep else width))) ** 0.5, shape)
        if deep:
            held = constant(f"{name}/depthwise_kernel", kernel)
            last = node(name, "DepthwiseConv2dNative", last, held, stride=stride)
            scale = constant(f"{name}_bn/batchnorm_1/mul", rng.uniform(0.8, 1.2, width))
            last = node(f"{name}_scaled", "Mul", last, scale)
        else:
            held = constant(f"{name}/convolution/merged_input", kernel)
            last = node(name, "Conv2D", last, held, stride=stride)
            width = out
        shift = constant(f"{name}_bn/batchnorm_1/sub", rng.normal(0, 0.1, width))
        last = node(f"{name}_bn", "Add", last, shift)
        last = node(f"{name}_max", "Minimum", node(f"{name}_relu", "Relu", last), top)
    node("global_pooling/Mean", "Mean", last)
    path = tmp_path / "faceres.json"
    manifest = [{"weights": weights}]
    path.write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))
    path.with_suffix(".bin").write_bytes(raw)
    return transfer.Graph(path)


def test_a_graph_of_tensorflow_and_timms_network_have_the_same_features(
    graph: transfer.Graph,
) -> None:
    """At sides where the padding of both is the same, and after unfolding the batch norms too."""
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv1_100", num_classes=0)
    graph.copy_to(net)
    for side, same in ((65, True), (97, True), (64, False)):
        images = torch.rand(8, 3, side, side)
        apart = graph.features(images.flip(1)) - transfer.features(net, images)
        assert (float(apart.abs().max()) < 1e-4) == same
    images = torch.rand(32, 3, 65, 65)
    before = transfer.features(net, images)
    transfer.unfold(net, images)
    torch.testing.assert_close(transfer.features(net, images), before, rtol=1e-3, atol=1e-4)
    # In training the statistics of the same batch change nothing either.
    with torch.no_grad():
        torch.testing.assert_close(net.train()(images), before, rtol=1e-2, atol=1e-3)


def test_a_part_has_the_fractions_of_its_split(drawn: Path, tmp_path: Path) -> None:
    part = transfer.part_of(drawn, tmp_path / "part", 64, 16)
    for name, wanted in (("train", 64), ("val", 16)):
        whole, some = (np.bincount(open_split(d, name).expression) for d in (drawn, part))
        np.testing.assert_allclose(some / wanted, whole / whole.sum(), atol=0.5 / wanted)
    assert transfer.part_of(drawn, tmp_path / "other", 0, 0) == drawn


@pytest.mark.slow
def test_all_rows_are_trained_and_scored(tmp_path: Path) -> None:
    assert transfer.check(tmp_path) == 0
