"""8-bit networks: convolutions with fixed ranges, matrices with the ranges of each batch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from affectnet.inference.onnx_export import Exported, quantise, quiet, write_graph
from affectnet.models.affect_model import AffectModel


@pytest.mark.parametrize(
    ("backbone", "size", "has"),
    [("cvnet", 48, "QuantizeLinear"), ("test_vit", 64, "DynamicQuantizeLinear")],
)
def test_the_kind_follows_from_where_the_weights_are(
    backbone: str, size: int, has: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = AffectModel(backbone, image_size=size).eval()
    path = tmp_path / "m.onnx"
    faces = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    with quiet():
        write_graph(Exported(model, inside=True, half=False).eval(), path)
        before = path.stat().st_size
        quantise(path, faces)
    assert path.stat().st_size < before
    assert list(tmp_path.iterdir()) == [path]
    graph = onnx.load(str(path)).graph
    assert has in {node.op_type for node in graph.node}
    heads = [t for t in graph.initializer if "heads." in t.name]
    assert heads
    assert all(t.data_type == onnx.TensorProto.FLOAT for t in heads)
