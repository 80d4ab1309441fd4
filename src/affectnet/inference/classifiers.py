"""What a model must tell and do to predict, and what it returns; with or without torch.

A model that looks at each face and at its mirror image.

A model of eight classes that answers in seven, without contempt.

An exported model as prediction uses it, run by ONNX Runtime. No torch here.
"""

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, WeightsError
from affectnet.models.model_config import incomplete, parse_config, preprocessing_of
from affectnet.seven import seven_probabilities
from affectnet.threads import cores

Floats = NDArray[np.float32]


class Scores(NamedTuple):
    """Predictions of n faces."""

    probabilities: Floats
    """(n, K), each row adding up to 1."""
    valence: Floats
    """(n,), in [-1, 1]."""
    arousal: Floats
    """(n,), in [-1, 1]."""


class ClassifierLike(Protocol):
    """A model with its preprocessing; `classifier.Classifier` and `onnx.OnnxClassifier` are such.

    Attributes:
        classes: expressions that it tells apart.
        size: side of its faces in pixels.
        margin: share of the face box added on each side; None where it does not say.
        alignment: how its faces are turned; None where they are not.
        interpolation: how its faces are resized.
    """

    classes: tuple[str, ...]
    size: int
    margin: float | None
    alignment: str | None
    interpolation: str

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""


HALF = np.float32(0.5)


class Mirrored:
    """A classifier whose answer is the mean of those for a face and for its mirror image.

    As `affectnet evaluate --flip`, where there is no temperature; a temperature is applied here
    before the mean and there after it. It costs twice the time and errs less.
    """

    def __init__(self, classifier: ClassifierLike) -> None:
        self._classifier = classifier
        self.classes = classifier.classes
        self.size = classifier.size
        self.margin = classifier.margin
        self.alignment = classifier.alignment
        self.interpolation = classifier.interpolation

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        seen = self._classifier(crops)
        mirrored = self._classifier(np.ascontiguousarray(crops[:, :, ::-1]))
        return Scores(*((a + b) * HALF for a, b in zip(seen, mirrored, strict=True)))


class WithoutContempt:
    """A classifier that never says contempt: its probability dropped, the others made to add to 1.

    Args:
        classifier: any that knows contempt.
    """

    def __init__(self, classifier: ClassifierLike) -> None:
        self._classifier = classifier
        self.classes = tuple(classifier.classes[:-1])
        self.size = classifier.size
        self.margin = classifier.margin
        self.alignment = classifier.alignment
        self.interpolation = classifier.interpolation

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        scores = self._classifier(crops)
        return scores._replace(probabilities=seven_probabilities(scores.probabilities))


CONFIG_KEY: Final = "affectnet"
"""Key of the file's metadata that holds the text of `config.json`."""
EXPORT_KEY: Final = "affectnet.export"
"""Key of the file's metadata that tells how the graph is laid out: a JSON object."""
FACES: Final = "faces"
OUTPUTS: Final = ("probabilities", "valence", "arousal")
_LARGEST_FILE: Final = 2**31


class OnnxClassifier:
    """A file written by `affectnet export`, with its own preprocessing.

    Args:
        path: the `.onnx` file.
        device: `auto` and `cuda` take ONNX Runtime's CUDA provider; `auto` the CPU where it has
            none.

    Raises:
        ConfigError: onnxruntime is not installed, or has no CUDA where `cuda` is asked for.
        WeightsError: the file is damaged, or was not written by `affectnet export`.
        RunError: its metadata are incomplete, of other classes or of a newer affectnet.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        runtime = _onnxruntime()
        self.session = _open(runtime, path, _providers(runtime, device))
        told = self.session.get_modelmeta().custom_metadata_map
        if CONFIG_KEY not in told or EXPORT_KEY not in told:
            raise WeightsError(
                f"{path} does not say what it was trained on, so its numbers would mean nothing; "
                "give a file that `affectnet export` wrote"
            )
        self.config = parse_config(told[CONFIG_KEY], path)
        prep = preprocessing_of(self.config, path)
        try:
            self.export: dict[str, Any] = dict(json.loads(told[EXPORT_KEY]))
            self.inside = bool(self.export["preprocessing_inside"])
        except (KeyError, TypeError, ValueError) as error:
            raise incomplete(path, error) from error
        names = [one.name for one in self.session.get_inputs()]
        outputs = [one.name for one in self.session.get_outputs()]
        if names != [FACES] or outputs != list(OUTPUTS):
            raise WeightsError(
                f"{path} has the inputs {names} and outputs {outputs}, not those that `affectnet "
                "export` gives; export it again"
            )
        self.classes = tuple(self.config["classes"])
        self.size = prep.size
        self.margin = prep.margin
        self.alignment = prep.alignment
        self.interpolation = prep.interpolation
        self._mean = np.array(prep.mean, np.float32)
        self._std = np.array(prep.std, np.float32)

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3), in one forward pass."""
        faces = crops if self.inside else normalised(crops, self._mean, self._std)
        return Scores(*self.session.run(OUTPUTS, {FACES: faces}))


def normalised(crops: NDArray[np.uint8], mean: Floats, std: Floats) -> Floats:
    """Scale faces (n, S, S, 3) to [0, 1], normalise, and put the colours first: (n, 3, S, S)."""
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
            "device is cuda, and this ONNX Runtime has no CUDA; install onnxruntime-gpu, or leave "
            "auto"
        )
    return (
        [cuda, "CPUExecutionProvider"] if has_cuda and device != "cpu" else ["CPUExecutionProvider"]
    )


def _open(runtime: Any, path: Path, providers: list[str]) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # faults are told by affectnet
    options.intra_op_num_threads = _threads()
    try:
        if path.stat().st_size >= _LARGEST_FILE:
            raise WeightsError(f"{path} is larger than an ONNX file can be (2 GB)")
        # By its bytes: a file that keeps its weights in others beside it could name any of them.
        return runtime.InferenceSession(path.read_bytes(), options, providers=providers)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except WeightsError:
        raise
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of damage
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} is no whole ONNX model ({reason}); export it again") from error


def _threads() -> int:
    """As many as PyTorch would take: `OMP_NUM_THREADS`, or the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return cores()
