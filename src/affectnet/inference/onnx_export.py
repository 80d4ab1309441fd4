"""Export of a trained model as one ONNX file, in 32, 16 or 8 bits.

A file is kept only if it predicts on sample faces what PyTorch predicts. In 8 bits it has a quarter
of the size and is two to five times as fast on a CPU.
"""

import contextlib
import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectnet.errors import ConfigError, WeightsError
from affectnet.inference.classifiers import (
    CONFIG_KEY,
    EXPORT_KEY,
    FACES,
    FEATURES,
    OUTPUTS,
    ModelOutput,
    OnnxClassifier,
    normalised,
)
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import TARGETS
from affectnet.run import refuse_existing, write_beside

_BATCH: Final = 8
_STATIC_OPS: Final = ["Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "AveragePool", "MaxPool"]
_HEADS: Final = "heads."


def quantise(path: Path, faces: NDArray[Any]) -> None:
    """Replace an ONNX file by its 8-bit form; the heads, which are cheap, stay as they are.

    Networks whose weights are mostly convolutions get fixed ranges, from the activations on
    `faces`. Networks whose weights are mostly matrices (transformers, ConvNeXt) get the ranges of
    each batch at run time: on ConvNeXt-T that is closer to PyTorch and also faster.

    Args:
        path: the file.
        faces: in the form that the graph takes.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter([{FACES: faces[i : i + _BATCH]} for i in range(0, len(faces), _BATCH)])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, small = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        # Batch norms are first merged into their convolutions.
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        settings: dict[str, Any] = {
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "nodes_to_exclude": _nodes_of_heads(graph),
        }
        if _mostly_matrices(graph):
            quantize_dynamic(
                str(prepared), str(small), op_types_to_quantize=["MatMul", "Gemm"], **settings
            )
        else:
            quantize_static(
                str(prepared),
                str(small),
                SimpleNamespace(get_next=lambda: next(batches, None)),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                op_types_to_quantize=_STATIC_OPS,
                **settings,
            )
        small.replace(path)


def _mostly_matrices(graph: Any) -> bool:
    sizes = {weight.name: int(np.prod(weight.dims)) for weight in graph.initializer}
    count = {"Conv": 0, "MatMul": 0, "Gemm": 0}
    for node in graph.node:
        if node.op_type in count:
            count[node.op_type] += sum(sizes.get(name, 0) for name in node.input)
    return count["MatMul"] + count["Gemm"] > count["Conv"]


def _nodes_of_heads(graph: Any) -> list[str]:
    """Return the nodes that use the heads' weights; a Gemm may become a MatMul of another name."""
    names = [node.name for node in graph.node if any(_HEADS in name for name in node.input)]
    return [*names, *(f"{name}_MatMul" for name in names)]


Precision = Literal["fp32", "fp16", "int8"]
Faces = NDArray[np.uint8]

OPSET: Final = 18
MAX_DIFFERENCE: Final = {"fp32": 1e-4, "fp16": 0.03, "int8": 0.3}
"""From PyTorch's outputs: of any probability, valence or arousal of any face."""
MAX_MEAN_DIFFERENCE: Final = {"fp32": 1e-4, "fp16": 0.003, "int8": 0.03}
"""The mean over all of them."""
MIN_AGREEMENT: Final = {"fp32": 0.99, "fp16": 0.98, "int8": 0.9}
"""Fraction of faces whose most probable expression is PyTorch's; near ties may differ."""
MIN_COSINE: Final = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Between the features of any face and PyTorch's."""
MAX_CALIBRATION: Final = 128
"""Faces that determine the ranges of int8."""


class Exported(nn.Module):
    """The exported graph: faces to probabilities (with temperature), valence and arousal.

    Outputs that the model was not trained on are NaN.

    Args:
        model: in evaluation mode.
        inside: faces are uint8 RGB (n, S, S, 3), scaled and normalised inside the graph; otherwise
            they are normalised float32 (n, 3, S, S).
        half: compute in float16.
        features: the backbone's features are an output, too.
    """

    face_mean: Tensor
    face_std: Tensor

    def __init__(
        self, model: AffectModel, inside: bool, half: bool, features: bool = False
    ) -> None:
        super().__init__()
        self.model = model.half() if half else model
        self.inside, self.half_, self.features = inside, half, features
        self.temperature = model.temperature or 1.0
        prep = model.preprocessing
        for name, values in (("face_mean", prep.mean), ("face_std", prep.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        """Map faces to probabilities (n, K), valence and arousal (n,), and features (n, F)."""
        if self.inside:
            faces = (faces.permute(0, 3, 1, 2).float() / 255 - self.face_mean) / self.face_std
        features = self.model.features(faces.half() if self.half_ else faces)
        output = self.model.heads(features)
        logits = output.logits.float() / self.temperature
        outputs = logits.softmax(dim=1), output.valence.float(), output.arousal.float()
        expression, valence, arousal = (
            values if name in self.model.targets else torch.full_like(values, torch.nan)
            for name, values in zip(TARGETS, outputs, strict=True)
        )
        more = (features.float(),) if self.features else ()
        return expression, valence, arousal, *more


@dataclass(frozen=True, slots=True)
class ExportComparison:
    """Differences between the predictions of the file and of PyTorch.

    Attributes:
        faces: number of faces compared.
        largest: largest absolute difference of any probability, valence or arousal.
        mean: mean absolute difference over all of them.
        agreement: fraction of faces with the same most probable expression.
        cosine: smallest cosine between the features of a face; None where the file has none.
    """

    faces: int
    largest: float
    mean: float
    agreement: float
    cosine: float | None = None

    def fault(self, precision: Precision) -> str | None:
        """Describe what exceeds the tolerance; None where nothing does."""
        faults = []
        largest, mean = MAX_DIFFERENCE[precision], MAX_MEAN_DIFFERENCE[precision]
        for name, value, limit in (("largest", self.largest, largest), ("mean", self.mean, mean)):
            if not value <= limit:  # NaN too
                faults.append(f"{name} difference {value:.2g}, at most {limit:g} is allowed")
        limit = MIN_AGREEMENT[precision]
        if not self.agreement >= limit:
            faults.append(f"the same expression on {self.agreement:.1%} of faces, not {limit:.0%}")
        limit = MIN_COSINE[precision]
        if self.cosine is not None and not self.cosine >= limit:
            faults.append(
                f"features with a cosine of {self.cosine:.4f}, at least {limit} is needed"
            )
        return "; ".join(faults) or None


def export_onnx(
    model: AffectModel,
    path: Path | str,
    faces: Faces,
    *,
    calibration: Faces | None = None,
    precision: Precision = "fp32",
    inside: bool = True,
    features: bool = False,
    overwrite: bool = False,
    weights_sha256: str | None = None,
) -> ExportComparison:
    """Write a model as an ONNX file if its predictions on `faces` match those of PyTorch.

    Args:
        model: not changed.
        path: of the new file.
        faces: uint8 RGB (n, S, S, 3), cropped as in training; compared one by one and in batches.
        calibration: other faces, which determine the ranges of int8; needed only there.
        precision: `fp32`; `fp16` (half the size, for GPUs); `int8` (a quarter, for CPUs).
        inside: whether scaling and normalisation are part of the graph; see `Exported`.
        features: whether the backbone's features are an output, too; see `Exported`.
        overwrite: replace an existing file.
        weights_sha256: of the model's file of weights, see `affectnet.inference.runtime`.

    Raises:
        RunError: the file exists already.
        ConfigError: int8 without calibration faces.
        WeightsError: the network cannot be expressed in ONNX, or predicts differently there; no
            file is written.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    if precision == "int8" and (calibration is None or len(calibration) == 0):
        raise ConfigError("int8 needs calibration faces; give some, or export without --int8")
    # A copy, since half precision changes the model in place.
    exported = Exported(_copy(model), inside, precision == "fp16", features).eval()
    expected = _classify(TorchClassifier(_copy(model), "cpu", features), faces)
    with write_beside(path, overwrite) as new, quiet():
        write_graph(exported, new)
        if precision == "int8":
            assert calibration is not None
            sample: NDArray[Any] = calibration[:MAX_CALIBRATION]
            if not inside:
                prep = model.preprocessing
                mean, std = np.array(prep.mean, np.float32), np.array(prep.std, np.float32)
                sample = normalised(sample, mean, std)
            quantise(new, sample)
        finish_file(new, model, precision, inside, weights_sha256)
        found = compare(expected, _classify(OnnxClassifier(new, "cpu", embedding=features), faces))
        fault = found.fault(precision)
        if fault is not None:
            raise WeightsError(
                f"the ONNX file predicts differently from PyTorch on {len(faces)} faces "
                f"({fault}); nothing was written"
                + ("" if precision == "fp32" else f"; export without --{precision}")
            )
    return found


def compare(expected: ModelOutput, given: ModelOutput) -> ExportComparison:
    """Compare two predictions for the same faces; NaN in both, of untrained outputs, is equal."""
    differences = np.concatenate(
        [
            np.where(np.isnan(a) & np.isnan(b), 0, np.abs(a - b)).reshape(len(a), -1)
            for a, b in zip(expected[:3], given[:3], strict=True)
        ],
        axis=1,
    )
    same = expected.probabilities.argmax(1) == given.probabilities.argmax(1)
    return ExportComparison(
        len(same),
        float(differences.max()) if np.isfinite(differences).all() else float("inf"),
        float(differences.mean()),
        float(same.mean()),
        None if given.embedding is None else _cosine(expected.embedding, given.embedding),
    )


def _cosine(some: Any, others: Any) -> float:
    """Return the smallest cosine between rows; those of zeros only are equal to each other."""
    a, b = (np.asarray(rows, np.float64) for rows in (some, others))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = (a == 0).all(axis=1) & (b == 0).all(axis=1)
    return float(np.where(both_zero, 1, (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).min())


def _copy(model: AffectModel) -> AffectModel:
    return copy.deepcopy(model).cpu().eval()


def _classify(classifier: TorchClassifier | OnnxClassifier, faces: Faces) -> ModelOutput:
    """Classify one face alone, then the rest in batches of odd and even sizes."""
    cuts = [0, 1, 4, *range(36, len(faces), 32), len(faces)]
    cuts = sorted({min(cut, len(faces)) for cut in cuts})
    outputs = [classifier(faces[a:b]) for a, b in pairwise(cuts)]
    parts = zip(*outputs, strict=True)
    joined: Any = (None if part[0] is None else np.concatenate(part) for part in parts)
    return ModelOutput(*joined)


def write_graph(module: Exported, path: Path, *, fused: bool = True) -> None:
    """Write the graph without metadata; raises `WeightsError` where ONNX cannot express it.

    `fused` merges batch norms into convolutions. ONNX Runtime does so as well when it loads the
    file, but only unmerged weights are exactly those of the model.
    """
    from onnxscript import optimizer

    size = module.model.preprocessing.size
    # Two faces: a batch of one would be treated as a constant.
    shape = (2, size, size, 3) if module.inside else (2, 3, size, size)
    example = torch.zeros(shape, dtype=torch.uint8 if module.inside else torch.float32)
    try:
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[FACES],
            output_names=[*OUTPUTS, *([FEATURES] if module.features else [])],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            opset_version=OPSET,
            dynamo=True,
            optimize=fused,
            verbose=False,
        )
        assert program is not None
        if not fused:
            optimizer.fold_constants(program.model)
            optimizer.remove_unused_nodes(program.model)
        program.save(str(path), external_data=False)
    except Exception as error:  # the exporter raises many classes of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"the backbone {module.model.backbone_name} cannot be written as ONNX ({reason})"
        ) from error


def finish_file(
    path: Path,
    model: AffectModel,
    precision: Precision,
    inside: bool,
    weights_sha256: str | None,
) -> None:
    """Add the metadata, and leave out what the exporter noted on each node, such as source lines.

    The version of the file's format is the oldest that its operators allow.
    """
    import onnx

    size = model.preprocessing.size
    layout = {
        "input": f"{FACES}: "
        + (
            f"uint8 RGB, (n, {size}, {size}, 3), 0 to 255"
            if inside
            else f"float32 RGB, (n, 3, {size}, {size}), scaled to [0, 1], less mean, over std"
        ),
        "outputs": "probabilities (n, classes), after temperature and softmax; valence (n,) and "
        "arousal (n,) in [-1, 1]; NaN for what the model was not trained on",
        "preprocessing_inside": inside,
        "precision": precision,
        "weights_sha256": weights_sha256,
    }
    file = onnx.load(str(path))
    graph = file.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del graph.value_info[:]
    onnx.helper.set_model_props(
        file, {CONFIG_KEY: json.dumps(model.config()), EXPORT_KEY: json.dumps(layout)}
    )
    file.producer_name, file.producer_version = "affectnet", model.config()["affectnet_version"]
    file.ir_version = onnx.helper.find_min_ir_version_for(file.opset_import, ignore_unknown=True)
    onnx.save(file, str(path))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep messages of the exporter and the quantiser off the terminal."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
