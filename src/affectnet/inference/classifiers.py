"""Classifiers of face crops, without torch: the interface, wrappers, and ONNX Runtime."""

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, WeightsError
from affectnet.models.model_config import (
    fractions_of,
    incomplete,
    parse_config,
    preprocessing_of,
)
from affectnet.models.prior import corrected
from affectnet.seven import seven_probabilities
from affectnet.threads import cores

Floats = NDArray[np.float32]


class ModelOutput(NamedTuple):
    """Predictions of n faces."""

    probabilities: Floats
    """(n, K), each row adding up to 1."""
    valence: Floats
    """(n,), in [-1, 1]."""
    arousal: Floats
    """(n,), in [-1, 1]."""


class ClassifierLike(Protocol):
    """A model with its preprocessing, such as `TorchClassifier` and `OnnxClassifier`.

    Attributes:
        classes: expressions that it distinguishes.
        size: side of its face crops in pixels.
        margin: fraction of the face box added on each side; None where it is not specified.
        alignment: how its faces are aligned; None where they are not.
        interpolation: how its faces are resized.
    """

    classes: tuple[str, ...]
    size: int
    margin: float | None
    alignment: str | None
    interpolation: str

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""


class _Wrapped:
    """A classifier around another, with the same preprocessing."""

    def __init__(self, classifier: ClassifierLike) -> None:
        self._classifier = classifier
        self.classes = classifier.classes
        self.size = classifier.size
        self.margin = classifier.margin
        self.alignment = classifier.alignment
        self.interpolation = classifier.interpolation


class Mirrored(_Wrapped):
    """A classifier that returns the mean of the outputs for a face and for its mirror image.

    It is more accurate and takes twice the time. The result is that of `affectnet evaluate --flip`
    where there is no temperature; a temperature is applied here before the mean and there after it.
    """

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        plain = self._classifier(crops)
        mirrored = self._classifier(np.ascontiguousarray(crops[:, :, ::-1]))
        return ModelOutput(
            *((a + b) * np.float32(0.5) for a, b in zip(plain, mirrored, strict=True))
        )


class CorrectedPrior(_Wrapped):
    """A classifier whose probabilities are corrected for other class fractions.

    Args:
        classifier: any.
        ratios: as `affectnet.models.prior.log_ratios` gives them, (K,).
    """

    def __init__(self, classifier: ClassifierLike, ratios: NDArray[np.float64]) -> None:
        super().__init__(classifier)
        self._ratios = ratios

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        output = self._classifier(crops)
        probabilities = corrected(output.probabilities, self._ratios).astype(np.float32)
        return output._replace(probabilities=probabilities)


class WithoutContempt(_Wrapped):
    """A classifier of eight classes reduced to seven: contempt dropped, the others scaled to one.

    Args:
        classifier: any whose last class is contempt.
    """

    def __init__(self, classifier: ClassifierLike) -> None:
        super().__init__(classifier)
        self.classes = tuple(classifier.classes[:-1])

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        output = self._classifier(crops)
        return output._replace(probabilities=seven_probabilities(output.probabilities))


CONFIG_KEY: Final = "affectnet"
"""Metadata key that holds the text of `config.json`."""
EXPORT_KEY: Final = "affectnet.export"
"""Metadata key that holds the layout of the graph, a JSON object."""
FACES: Final = "faces"
OUTPUTS: Final = ("probabilities", "valence", "arousal")
_MAX_FILE_BYTES: Final = 2**31


class OnnxClassifier:
    """A file written by `affectnet export`, with its own preprocessing.

    Args:
        path: the `.onnx` file.
        device: `auto` and `cuda` use ONNX Runtime's CUDA provider; `auto` uses the CPU where there
            is none.

    Raises:
        ConfigError: onnxruntime is not installed, or has no CUDA and the device is `cuda`.
        WeightsError: the file is damaged, or was not written by `affectnet export`.
        RunError: its metadata is incomplete, has other classes or is from a newer affectnet.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        runtime = _onnxruntime()
        self.session = _open(runtime, path, _providers(runtime, device))
        metadata = self.session.get_modelmeta().custom_metadata_map
        if CONFIG_KEY not in metadata or EXPORT_KEY not in metadata:
            raise WeightsError(
                f"{path} does not contain the model's configuration, so its outputs have no "
                "meaning; give a file that `affectnet export` wrote"
            )
        self.config = parse_config(metadata[CONFIG_KEY], path)
        prep = preprocessing_of(self.config, path)
        try:
            self.export: dict[str, Any] = dict(json.loads(metadata[EXPORT_KEY]))
            self.inside = bool(self.export["preprocessing_inside"])
        except (KeyError, TypeError, ValueError) as error:
            raise incomplete(path, error) from error
        inputs = [value.name for value in self.session.get_inputs()]
        outputs = [value.name for value in self.session.get_outputs()]
        if inputs != [FACES] or outputs != list(OUTPUTS):
            raise WeightsError(
                f"{path} has the inputs {inputs} and outputs {outputs}, not those of a file that "
                "`affectnet export` wrote; export it again"
            )
        self.classes = tuple(self.config["classes"])
        self.class_fractions = fractions_of(self.config, "class_fractions", path)
        self.prior = fractions_of(self.config, "prior", path)
        self.size = prep.size
        self.margin = prep.margin
        self.alignment = prep.alignment
        self.interpolation = prep.interpolation
        self._mean = np.array(prep.mean, np.float32)
        self._std = np.array(prep.std, np.float32)

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3), in one forward pass."""
        faces = crops if self.inside else normalised(crops, self._mean, self._std)
        return ModelOutput(*self.session.run(OUTPUTS, {FACES: faces}))


def normalised(crops: NDArray[np.uint8], mean: Floats, std: Floats) -> Floats:
    """Scale faces (n, S, S, 3) to [0, 1], normalise, and move the channels first: (n, 3, S, S)."""
    images = (crops.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "an .onnx model needs onnxruntime, which is not installed; run "
            "`pip install 'affectnet[export]'` (or `pip install onnxruntime`)"
        ) from error
    return onnxruntime


def _providers(runtime: Any, device: str) -> list[str]:
    cuda = "CUDAExecutionProvider"
    has_cuda = cuda in runtime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "device is cuda, but this ONNX Runtime has no CUDA; install onnxruntime-gpu or use auto"
        )
    return (
        [cuda, "CPUExecutionProvider"] if has_cuda and device != "cpu" else ["CPUExecutionProvider"]
    )


def _open(runtime: Any, path: Path, providers: list[str]) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # affectnet reports errors itself
    options.intra_op_num_threads = _threads()
    try:
        if path.stat().st_size >= _MAX_FILE_BYTES:
            raise WeightsError(f"{path} is larger than an ONNX file can be (2 GB)")
        # From bytes: a file with external weights could name any other file of this machine.
        return runtime.InferenceSession(path.read_bytes(), options, providers=providers)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except WeightsError:
        raise
    except Exception as error:  # ONNX Runtime has a class for each kind of damage
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} is not a whole ONNX model ({reason}); export it again"
        ) from error


def _threads() -> int:
    """Return as many as PyTorch would use: `OMP_NUM_THREADS`, or one per core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return cores()
