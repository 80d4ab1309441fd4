"""An ONNX file in 8-bit integers: a quarter of the size, two to five times as fast on a CPU."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from affectnet.inference.onnx import FACES

_BATCH: Final = 8
_STATIC: Final = ["Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "AveragePool", "MaxPool"]
_HEADS: Final = "heads."


class _Faces(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, faces: NDArray[Any]) -> None:
        self._batches: Iterator[NDArray[Any]] = iter(
            [faces[start : start + _BATCH] for start in range(0, len(faces), _BATCH)]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {FACES: batch}


def quantise(path: Path, faces: NDArray[Any]) -> None:
    """Replace an ONNX file by its 8-bit form; the heads, next to no work, stay as they are.

    Networks whose weights are convolutions get fixed ranges, from the activations on `faces`.
    Networks whose weights are mostly matrices (transformers, ConvNeXt) get the ranges of each batch
    while it is computed: on ConvNeXt-T that is closer to PyTorch and faster too.

    Args:
        path: the file.
        faces: as the graph takes them.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        ready, small = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        # Batch norms go into their convolutions first.
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        graph = onnx.load(str(ready)).graph
        settings: dict[str, Any] = {
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "nodes_to_exclude": _nodes_of_heads(graph),
        }
        if _mostly_matrices(graph):
            quantize_dynamic(
                str(ready), str(small), op_types_to_quantize=["MatMul", "Gemm"], **settings
            )
        else:
            quantize_static(
                str(ready),
                str(small),
                _Faces(faces),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                op_types_to_quantize=_STATIC,
                **settings,
            )
        small.replace(path)


def _mostly_matrices(graph: Any) -> bool:
    sizes = {one.name: int(np.prod(one.dims)) for one in graph.initializer}
    count = {"Conv": 0, "MatMul": 0, "Gemm": 0}
    for node in graph.node:
        if node.op_type in count:
            count[node.op_type] += sum(sizes.get(name, 0) for name in node.input)
    return count["MatMul"] + count["Gemm"] > count["Conv"]


def _nodes_of_heads(graph: Any) -> list[str]:
    """The nodes that use the heads' weights; a Gemm may become a MatMul of another name."""
    names = [node.name for node in graph.node if any(_HEADS in name for name in node.input)]
    return [*names, *(f"{name}_MatMul" for name in names)]
