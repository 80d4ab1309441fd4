"""The runtime of a model: ONNX Runtime for ONNX files and on a CPU, PyTorch on a GPU.

The model of the package has an ONNX file next to its weights, and `affectnet export RUN` puts one
next to those of a run. Both runtimes give the same numbers, and PyTorch takes seconds to import.
"""

import ctypes
import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from affectnet.errors import ConfigError, check_choice, installed, need_train
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.models.model_config import CONFIG, ONNX, WEIGHTS, read_config, resolve_model

if TYPE_CHECKING:
    from affectnet.inference.torch_classifier import TorchClassifier

DEVICES: Final = ("auto", "cpu", "cuda", "mps")


def open_classifier(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    provider: str | None = None,
    embedding: bool = False,
) -> "OnnxClassifier | TorchClassifier":
    """Open a model with the runtime that suits the device.

    Args:
        model: as `resolve_model` takes it.
        revision: branch, tag or commit on the hub.
        device: `cpu`; `cuda`; `mps`, the GPU of an Apple computer, which PyTorch uses; or `auto`,
            which is `cuda` where there is an NVIDIA GPU and `cpu` elsewhere.
        provider: of ONNX Runtime, such as `openvino`; chosen by the device where None.
        embedding: also return the backbone's features. PyTorch runs the model where its ONNX file
            has none.

    Raises `ConfigError` where the device, the provider or PyTorch is missing, `RunError` and
    `WeightsError` as `resolve_model` and `AffectModel.from_pretrained`.
    """
    check_choice("device", device, DEVICES)
    if provider is not None and device in ("cuda", "mps"):
        raise ConfigError(
            f"the device {device} and the provider {provider} are both given; leave one of them out"
        )
    place = resolve_model(model)
    if isinstance(place, Path) and place.suffix.lower() == ".onnx":
        if device == "mps":
            raise ConfigError(
                f"PyTorch uses the device mps, and {place} is an ONNX file; give the run folder, "
                "or leave out the device and give the provider coreml"
            )
        return OnnxClassifier(place, device, provider, embedding)
    exported = place / ONNX if isinstance(place, Path) and (place / ONNX).is_file() else None
    if exported is not None and (provider is not None or not _torch_on_gpu(device)):
        classifier = OnnxClassifier(exported, device, provider)
        fault = _fault(classifier, exported.parent)
        if fault is not None:
            raise ConfigError(
                f"{exported} {fault} next to it; run `affectnet export {model} --overwrite` to "
                "make it again, or delete it"
            )
        if not embedding:
            return classifier
        if classifier.has_features or provider is not None or not installed("torch"):
            return OnnxClassifier(exported, device, provider, embedding)
    if provider is not None:
        raise ConfigError(
            f"the provider {provider} runs ONNX files, and {model} has none; run `affectnet export "
            f"{model}` first"
        )
    if isinstance(place, Path):
        copy = f"run `affectnet export {model}` where it was trained, and copy {ONNX} as well"
        need_train(f"the model {model}", hint=copy)
    else:
        need_train(f"{model} is not a folder here, and as a model of the Hugging Face Hub it")
    from affectnet.inference.torch_classifier import TorchClassifier
    from affectnet.models.affect_model import AffectModel

    return TorchClassifier(AffectModel.from_pretrained(place, revision=revision), device, embedding)


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights in a model's folder; an ONNX file next to them states it."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(classifier: OnnxClassifier, folder: Path) -> str | None:
    """Describe why an ONNX file does not predict what the weights next to it predict."""
    if classifier.export.get("precision") != "fp32":
        return "is less precise than the weights"
    if classifier.config != read_config(folder / CONFIG):
        return f"has another configuration than the {CONFIG}"
    if classifier.export.get("weights_sha256") != weights_digest(folder):
        return "was not made from the weights"
    return None


def _torch_on_gpu(device: str) -> bool:
    """Whether PyTorch is installed and is to run the model on a GPU."""
    if device == "cpu" or not installed("torch"):
        return False
    if device == "auto" and _nvidia_gpus() > 0:
        import torch

        return torch.cuda.is_available()
    return device in ("cuda", "mps")


def _nvidia_gpus() -> int:
    """Return the number of NVIDIA GPUs from their driver: importing PyTorch takes seconds."""
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        with suppress(OSError, AttributeError):
            driver: Any = ctypes.CDLL(name)
            count = ctypes.c_uint(0)
            if driver.nvmlInit_v2() == 0 and driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
                return count.value
    return 0
