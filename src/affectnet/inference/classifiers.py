"""Classifiers of face crops, without torch: the interface, wrappers, and ONNX Runtime."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from affectnet.errors import ConfigError, WeightsError, printable, shown
from affectnet.inference.onnx_file import refused_content
from affectnet.models.model_config import TARGETS, incomplete, parse_config
from affectnet.models.prior import corrected, mean_before_temperature
from affectnet.seven import seven_probabilities
from affectnet.threads import cores

if TYPE_CHECKING:
    from affectnet.models.affect_model import AffectModel
    from affectnet.models.model_config import ModelConfig

Floats = NDArray[np.float32]


class ModelOutput(NamedTuple):
    """Predictions of n faces."""

    probabilities: Floats
    """(n, K), each row adding up to 1."""
    valence: Floats
    """(n,), in [-1, 1]."""
    arousal: Floats
    """(n,), in [-1, 1]."""
    embedding: NDArray[np.float16] | None = None
    """The backbone's features, (n, F); None where they were not requested."""


class ClassifierLike(Protocol):
    """A model with its preprocessing, such as `TorchClassifier` and `OnnxClassifier`.

    Attributes:
        classes: expressions that it distinguishes.
        targets: those of `model_config.TARGETS` that it was trained on.
        size: side of its face crops in pixels.
        margin: fraction of the face box added on each side; None where it is not specified.
        alignment: how its faces are aligned; None where they are not.
        interpolation: how its faces are resized.
        face_size: side in pixels at which faces are cropped before they are resized to `size`;
            None where they are cropped at `size`.
    """

    classes: tuple[str, ...]
    targets: tuple[str, ...]
    size: int
    margin: float | None
    alignment: str | None
    interpolation: str
    face_size: int | None

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""


class Described:
    """What prediction needs to know of a model, from its configuration."""

    def __init__(self, model: "ModelConfig | AffectModel") -> None:
        prep = model.preprocessing
        self.classes = model.classes
        self.targets = model.targets
        self.class_fractions = model.class_fractions
        self.prior = model.prior
        self.temperature = model.temperature
        self.size = prep.size
        self.margin = prep.margin
        self.alignment = prep.alignment
        self.interpolation = prep.interpolation
        self.face_size = prep.face_size


class _Wrapped:
    """A classifier around another, with the same preprocessing."""

    def __init__(self, classifier: ClassifierLike) -> None:
        self._classifier = classifier
        self.classes = classifier.classes
        self.targets = classifier.targets
        self.size = classifier.size
        self.margin = classifier.margin
        self.alignment = classifier.alignment
        self.interpolation = classifier.interpolation
        self.face_size = classifier.face_size


class Mirrored(_Wrapped):
    """A classifier that returns the mean of the outputs for a face and for its mirror image.

    It is more accurate and takes twice the time. The result is that of `affectnet evaluate --flip`:
    the temperature comes after the mean.

    Args:
        classifier: a model itself, not one whose probabilities are changed further.
        temperature: of the model, None where it is not calibrated.
    """

    def __init__(self, classifier: ClassifierLike, temperature: float | None) -> None:
        super().__init__(classifier)
        self._temperature = temperature or 1.0

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        plain = self._classifier(crops)
        mirrored = self._classifier(np.ascontiguousarray(crops[:, :, ::-1]))
        return ModelOutput(
            mean_before_temperature(
                plain.probabilities, mirrored.probabilities, self._temperature
            ).astype(np.float32),
            (plain.valence + mirrored.valence) / np.float32(2),
            (plain.arousal + mirrored.arousal) / np.float32(2),
            plain.embedding,
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
FEATURES: Final = "features"
"""A further output of files that `affectnet export --features` wrote."""
_MAX_FILE_BYTES: Final = 2**31
_ROUNDING: Final = 1e-3
_SUFFIX: Final = "ExecutionProvider"
# TF32 would change the numbers in the third digit.
_PROVIDER_SETTINGS: Final = {"cuda": {"use_tf32": "0"}}


class OnnxClassifier(Described):
    """A file written by `affectnet export`, with its own preprocessing.

    Args:
        path: the `.onnx` file.
        device: `auto` and `cuda` use ONNX Runtime's CUDA provider; `auto` uses the CPU where there
            is none.
        provider: another provider of ONNX Runtime, such as `openvino`, `coreml` or `tensorrt`.
        embedding: also return the backbone's features.

    Raises:
        ConfigError: this ONNX Runtime has no such provider, or cannot start it; or the file has no
            features.
        WeightsError: the file is damaged, or was not written by `affectnet export`.
        RunError: its metadata is incomplete, has other classes or is from a newer affectnet.
    """

    def __init__(
        self,
        path: Path | str,
        device: str = "auto",
        provider: str | None = None,
        embedding: bool = False,
    ) -> None:
        self.path = path = Path(path)
        self._arguments = (path, device, provider, embedding)
        providers = _providers(device, provider)
        self.session = _open(path, providers)
        if providers[0][0] not in self.session.get_providers() and (provider or device == "cuda"):
            raise ConfigError(
                f"ONNX Runtime cannot start the provider {provider or device}: a library or a "
                "device that it needs is missing; leave the setting out to use the CPU"
            )
        used = self.session.get_providers()[0].removesuffix(_SUFFIX).lower()
        self.runtime = f"ONNX Runtime on {used}"
        try:
            metadata = self.session.get_modelmeta().custom_metadata_map
            inputs = [value.name for value in self.session.get_inputs()]
            outputs = [value.name for value in self.session.get_outputs()]
        except UnicodeDecodeError as error:
            raise WeightsError(f"{path} is not a whole ONNX model ({error})") from error
        if CONFIG_KEY not in metadata or EXPORT_KEY not in metadata:
            raise WeightsError(
                f"{path} does not contain the model's configuration, so its outputs have no "
                "meaning; give a file that `affectnet export` wrote"
            )
        self.config = parse_config(metadata[CONFIG_KEY], path)
        try:
            self.export: dict[str, Any] = dict(json.loads(metadata[EXPORT_KEY]))
            self.inside: bool = self.export["preprocessing_inside"]
            if not isinstance(self.inside, bool):
                raise TypeError("preprocessing_inside is neither true nor false")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise incomplete(path, error) from error
        if inputs != [FACES] or outputs not in ([*OUTPUTS], [*OUTPUTS, FEATURES]):
            raise WeightsError(
                f"{path} has the inputs {shown(inputs)} and outputs {shown(outputs)}, not those of "
                "a file that `affectnet export` wrote; export it again"
            )
        if embedding and FEATURES not in outputs:
            raise ConfigError(
                f"an embedding is requested, and {path} has no features; write them with "
                "`affectnet export MODEL --features`"
            )
        self.has_features = FEATURES in outputs
        self._outputs = outputs if embedding else [*OUTPUTS]
        super().__init__(self.config)
        self._mean = np.array(self.config.preprocessing.mean, np.float32)
        self._std = np.array(self.config.preprocessing.std, np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxClassifier, self._arguments

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3), in one forward pass.

        Raises `WeightsError` where the file cannot be run, and as `checked`.
        """
        faces = crops if self.inside else normalised(crops, self._mean, self._std)
        try:
            output = ModelOutput(*self.session.run(self._outputs, {FACES: faces}))
        except Exception as error:  # ONNX Runtime has a class for each kind of damage
            raise WeightsError(
                f"{self.path} cannot be run ({_reason(error)}); export it again"
            ) from error
        return checked(output, len(crops), len(self.classes), self.targets)


def checked(
    output: ModelOutput, faces: int, classes: int, targets: Sequence[str] = TARGETS
) -> ModelOutput:
    """Return the output of a model if it is what `ModelOutput` promises.

    `targets` are those that the model was trained on; the others become NaN. An embedding in
    float32 becomes float16.

    Raises `WeightsError` for other shapes, numbers that are not finite (an embedding in float16
    included), probabilities that do not add up to 1, and valence or arousal outside [-1, 1].
    """
    wanted = ((faces, classes), (faces,), (faces,))
    embedding = output.embedding
    faults = [
        f"{name} of shape {shown(np.shape(values))} instead of {shape}"
        for name, values, shape in zip(OUTPUTS, output[:3], wanted, strict=True)
        if not isinstance(values, np.ndarray) or values.shape != shape
    ] or [
        f"{name} as {values.dtype}"
        for name, values in zip(OUTPUTS, output[:3], strict=True)
        if values.dtype != np.float32
    ]
    if embedding is not None and (embedding.ndim != 2 or len(embedding) != faces):
        faults.append(f"features of shape {shown(np.shape(embedding))} instead of ({faces}, n)")
    if not faults:
        if embedding is not None:
            with np.errstate(over="ignore"):
                embedding = embedding.astype(np.float16)
            if not np.isfinite(embedding).all():
                faults.append("features that are too large for float16")
        probabilities, valence, arousal = (
            values if name in targets else np.full_like(values, np.nan)
            for name, values in zip(TARGETS, output[:3], strict=True)
        )
        output = ModelOutput(probabilities, valence, arousal, embedding)
        p = output.probabilities
        # Written so that NaN fails.
        sums_to_one = (p >= 0).all() and (np.abs(p.sum(axis=1) - 1) <= _ROUNDING).all()
        if "expression" in targets and not sums_to_one:
            faults.append("probabilities that do not add up to 1")
        affect = [getattr(output, name) for name in targets if name != "expression"]
        if not all((np.abs(values) <= 1 + _ROUNDING).all() for values in affect):
            faults.append("valence or arousal outside [-1, 1]")
    if faults:
        raise WeightsError(
            f"the model predicts {' and '.join(faults)}; it is damaged: give another model"
        )
    return output


def normalised(crops: NDArray[np.uint8], mean: Floats, std: Floats) -> Floats:
    """Scale faces (n, S, S, 3) to [0, 1], normalise, and move the channels first: (n, 3, S, S)."""
    images = (crops.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _providers(device: str, provider: str | None) -> list[tuple[str, dict[str, str]]]:
    """Return the names and settings of the providers to use, the preferred one first."""
    names = {n.removesuffix(_SUFFIX).lower(): n for n in onnxruntime.get_available_providers()}
    if provider is None:
        provider = "cuda" if device == "cuda" or (device == "auto" and "cuda" in names) else "cpu"
    word = provider.lower().removesuffix(_SUFFIX.lower())
    if word not in names:
        raise ConfigError(
            f"this ONNX Runtime has no provider {provider}; it has {', '.join(names)} (the package "
            "onnxruntime-gpu has cuda and tensorrt, onnxruntime-openvino has openvino)"
        )
    # What TensorRT cannot run goes to CUDA, and the CPU runs the rest.
    words = [word, *(["cuda"] if word == "tensorrt" and "cuda" in names else []), "cpu"]
    return [(names[w], _PROVIDER_SETTINGS.get(w, {})) for w in dict.fromkeys(words)]


def _open(path: Path, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # affectnet reports errors itself
    options.intra_op_num_threads = _threads()
    # Threads that wait for work would otherwise take the cores from those that read and detect.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        if path.stat().st_size >= _MAX_FILE_BYTES:
            raise WeightsError(f"{path} is larger than an ONNX file can be (2 GB)")
        data = path.read_bytes()
        refused = refused_content(data)
        if refused is not None:
            raise WeightsError(
                f"{path} contains {refused}; such files are not read: give a file that "
                "`affectnet export` wrote"
            )
        # The other format, of ONNX Runtime itself, is not checked above.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # With the CPU alone there is nothing to fall back to, and ONNX Runtime would print so.
        several = int(len(providers) > 1)
        return onnxruntime.InferenceSession(data, options, providers, enable_fallback=several)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except WeightsError:
        raise
    except Exception as error:  # ONNX Runtime has a class for each kind of damage
        raise WeightsError(
            f"{path} is not a whole ONNX model ({_reason(error)}); export it again"
        ) from error


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:200])


def _threads() -> int:
    """Return as many as PyTorch would use: `OMP_NUM_THREADS`, or one per core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return cores()
