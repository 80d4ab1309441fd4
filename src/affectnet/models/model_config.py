"""`config.json` of a saved model, and the models that a name can stand for. No torch here.

The same text is in `config.json`, in the header of `model.safetensors` and in the metadata of an
ONNX file, so each of these files describes the model completely.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeGuard

from affectnet.errors import Faults, Limit, RunError, WeightsError, shown
from affectnet.labels import EXPRESSIONS
from affectnet.version import __version__

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
ONNX: Final = "model.onnx"
FORMAT: Final = 1
"""Version of the layout of `config.json`; increased when an older affectnet could not read it."""
MAX_CONFIG_BYTES: Final = 2**16
MAX_SIZE: Final = 2048
"""Largest side of a model's input in pixels; timm's largest is 1024."""
INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "lanczos")
"""The keys of `data.images.INTERPOLATIONS`."""
ALIGNMENTS: Final = ("eyes",)
"""The values of `data.crop.ALIGNMENT`."""
TARGETS: Final = ("expression", "valence", "arousal")
"""What a model predicts. Its `config.json` names those that it was trained on."""

Fractions = tuple[float, ...]
"""A fraction per class of a model, in its order, with the sum 1."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image of a face becomes the backbone's input; written into `config.json`.

    The image (RGB, the face already cropped) is resized as a whole to `size` x `size` by
    `interpolation`, scaled to [0, 1], and normalised by `mean` and `std`. `crop_pct` is 1.0: the
    border that ImageNet evaluation cuts off would be chin and brow here.

    `margin` (fraction of the face box added on each side when a detector cropped the face),
    `alignment` (how the face was turned upright) and `face_size` (side of the faces that ingest
    cropped, which training resized to `size`) are None where the data was already cropped.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    margin: float | None = None
    alignment: str | None = None
    face_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry `preprocessing` of `config.json`."""
        return {"colour_order": "RGB", **asdict(self)}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The content of `config.json`: everything that prediction needs besides the weights.

    Attributes:
        backbone: name given to `train`, such as a baseline's.
        architecture: the network of that name, with the tag of its pretrained weights.
        classes: the expressions that the model predicts: all, or some in the same order.
        dropout: before the heads.
        preprocessing: of the faces.
        temperature: divides the logits before the softmax if calibrated; None if not.
        class_fractions: of the training faces; None if unknown, as in models of earlier versions.
        prior: class fractions that the probabilities assume, see `affectnet.models.prior`; None if
            unknown.
        targets: those of `TARGETS` that the model was trained on; all where a config has no such
            entry, as those of earlier versions.
        affectnet_version: that saved the model.
    """

    backbone: str
    architecture: str
    classes: tuple[str, ...]
    dropout: float
    preprocessing: Preprocessing
    temperature: float | None = None
    class_fractions: Fractions | None = None
    prior: Fractions | None = None
    targets: tuple[str, ...] = TARGETS
    affectnet_version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json` as plain values."""
        return {
            "format": FORMAT,
            "affectnet_version": self.affectnet_version,
            "backbone": self.backbone,
            "architecture": self.architecture,
            "classes": list(self.classes),
            "targets": list(self.targets),
            "hidden": None,  # a layer that heads no longer have; older versions read the key
            "dropout": self.dropout,
            "temperature": self.temperature,
            "class_fractions": self.class_fractions and list(self.class_fractions),
            "prior": self.prior and list(self.prior),
            "preprocessing": self.preprocessing.to_dict(),
        }


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number; NaN then fails every comparison with a limit."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: is_number(value) and low <= value <= high


def _numbers(count: int, low: float, high: float) -> Callable[[object], bool]:
    inside = _within(low, high)
    return lambda value: isinstance(value, list) and len(value) == count and all(map(inside, value))


def _are_fractions(value: object) -> bool:
    if not isinstance(value, list) or not all(map(_within(0, 1), value)):
        return False
    return math.isclose(sum(value), 1, abs_tol=1e-3)


def _matches(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


_LIMITS: Final[Sequence[Limit]] = (
    (("format",), lambda value: is_number(value) and value == FORMAT, str(FORMAT)),
    (("affectnet_version",), _matches(r"[\w.+-]{1,40}"), "a version"),
    (("backbone", "architecture"), _matches(r"[\w.:/-]{1,200}"), "the name of a backbone"),
    (
        ("classes",),
        lambda value: isinstance(value, list) and bool(value) and value == in_order(value),
        f"all or some of {', '.join(EXPRESSIONS)}, in this order",
    ),
    (
        ("targets",),
        lambda value: isinstance(value, list) and bool(value) and value == in_order(value, TARGETS),
        f"all or some of {', '.join(TARGETS)}, in this order",
    ),
    (("hidden",), lambda _: False, "null"),
    (("dropout",), lambda value: is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    (("temperature",), _within(0.001, 1000), "a number from 0.001 to 1000, or null"),
    (("class_fractions", "prior"), _are_fractions, "a fraction for each class, or null"),
    (("preprocessing",), lambda value: isinstance(value, dict), "an object"),
)
"""The limits of every entry of `config.json`."""

_PREPROCESSING_LIMITS: Final[Sequence[Limit]] = (
    (("colour_order",), lambda value: value == "RGB", "RGB"),
    (
        ("size", "face_size"),
        lambda value: _within(1, MAX_SIZE)(value) and isinstance(value, int),
        f"a whole number from 1 to {MAX_SIZE}",
    ),
    (("mean",), _numbers(3, -10, 10), "three numbers from -10 to 10"),
    (("std",), _numbers(3, 0.001, 1000), "three numbers from 0.001 to 1000"),
    (("interpolation",), lambda value: value in INTERPOLATIONS, ", ".join(INTERPOLATIONS)),
    (("crop_pct",), lambda value: is_number(value) and value == 1, "1.0"),
    (("margin",), _within(-0.4, 2), "a number from -0.4 to 2, or null"),
    (("alignment",), lambda value: value in ALIGNMENTS, f"{', '.join(ALIGNMENTS)}, or null"),
)


def read_config(path: Path) -> ModelConfig:
    """Read and check a `config.json`; raises the errors of `parse_config`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not the config of an affectnet model ({error})") from error
    return parse_config(text, path)


def parse_config(text: str, where: object) -> ModelConfig:
    """Read and check the text of a `config.json`; `where` is named in errors.

    Every entry is checked before anything is built from it, since the file may be a stranger's.

    Raises `RunError` with everything that is wrong if it is not a config, comes from a newer
    affectnet, orders the classes differently, or has an entry outside its limits.
    """
    try:
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"it is longer than {MAX_CONFIG_BYTES:,} bytes")
        entries = json.loads(text)
        newer = entries["format"] > FORMAT
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{where} is not the config of an affectnet model ({error})") from error
    if newer:
        version = shown(entries.get("affectnet_version")).strip("'")
        raise RunError(
            f"{where} was written by affectnet {version}, which is newer "
            f"than this one ({__version__}); upgrade affectnet"
        )
    faults = _faults(ModelConfig, entries, _LIMITS) or [
        f"{name} has {len(entries[name])} values for {len(entries['classes'])} classes"
        for name in ("class_fractions", "prior")
        if entries.get(name) is not None and len(entries[name]) != len(entries["classes"])
    ]
    inner = entries.get("preprocessing")
    if isinstance(inner, dict):
        faults += _faults(Preprocessing, {"colour_order": None} | inner, _PREPROCESSING_LIMITS)
        unknown = inner.keys() - {"colour_order", *(field.name for field in fields(Preprocessing))}
        faults += [f"{shown(name)} is not known" for name in sorted(unknown)[:3]]
        if inner.get("colour_order") is None:
            faults.append("colour_order is missing")
    if faults:
        raise RunError(
            f"{where} is incomplete or damaged: {'; '.join(faults)}; save the model again with "
            "this affectnet"
        )
    preprocessing = _built(
        Preprocessing, inner | {"mean": rgb(inner["mean"]), "std": rgb(inner["std"])}
    )
    lists = ("classes", "targets", "class_fractions", "prior")
    tuples = {name: tuple(entries[name]) for name in lists if entries.get(name) is not None}
    config: ModelConfig = _built(ModelConfig, entries | tuples | {"preprocessing": preprocessing})
    return config


def _faults(kind: type, entries: Mapping[str, Any], limits: Sequence[Limit]) -> list[str]:
    """Messages on every entry that a dataclass needs and that is missing or outside its limits."""
    needed = [f.name for f in fields(kind) if f.default is MISSING and entries.get(f.name) is None]
    given = SimpleNamespace(**{name: entries.get(name) for names, *_ in limits for name in names})
    outside = Faults(given, limits, lambda name, value: f"{name} is {shown(value)}")
    return [*(f"{name} is missing" for name in needed), *outside]


def _built(kind: type, entries: Mapping[str, Any]) -> Any:
    """A dataclass of the entries that it knows; null stands for the default."""
    known = {field.name: entries.get(field.name) for field in fields(kind)}
    return kind(**{name: value for name, value in known.items() if value is not None})


def untrained_note(targets: Sequence[str]) -> str | None:
    """A sentence on the targets that a model was not trained on; None if it has all of them."""
    missing = [name for name in TARGETS if name not in targets]
    if not missing:
        return None
    return f"the model was not trained on {' and '.join(missing)}, so it does not predict them"


def in_order(names: Sequence[str], known: Sequence[str] = EXPRESSIONS) -> list[str]:
    """The expressions, or other known names, that are in `names`, in affectnet's order."""
    return [name for name in known if name in names]


def incomplete(where: object, error: Exception) -> RunError:
    """The error for a file whose description of the model lacks something."""
    return RunError(
        f"{where} is incomplete or damaged ({error}); save the model again with this affectnet"
    )


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """Three values, one per colour, as floats."""
    red, green, blue = map(float, values)
    return red, green, blue


SHIPPED: Final = ("cvnet",)
"""Names of the models that an installation may carry in `affectnet/weights/NAME/`."""
DEFAULT_MODEL: Final = "cvnet"
WEIGHTS_FOLDER: Final = Path(__file__).parents[1] / "weights"
WAYS: Final = (
    "a run folder (runs/NAME), its model/ folder, an .onnx file, or owner/name on the Hugging Face "
    "Hub"
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES: Final = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})
WHY_NO_PICKLE: Final = (
    "reading a pickle can run code hidden in it, so models are read from safetensors (or ONNX) only"
)


def resolve_model(model: str | Path) -> Path | str:
    """Find the model that a name stands for; its files are not read.

    Args:
        model: a run folder, a folder with `model.safetensors` and `config.json`, such a
            `model.safetensors`, an `.onnx` file, `owner/name` on the hub, or one of `SHIPPED`. A
            path that exists comes before everything else.

    Returns a folder with `model.safetensors` and `config.json`, an `.onnx` file, or the name on the
    hub as a string. Raises `RunError` if there is no such model, and `WeightsError` if the weights
    are missing, are a pickle, or are not part of this installation.
    """
    path = Path(model)
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.is_file():
            return _of_file(path)
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        exists = False
    if not exists and str(model) in SHIPPED:
        return shipped_model(str(model))
    if not exists and isinstance(model, str) and _HUB_ID.fullmatch(model):
        return model
    raise RunError(f"no model at {model}; give {WAYS}")


def shipped_model(name: str) -> Path:
    """Return the folder of a model that the package ships.

    Raises `WeightsError` if this installation does not contain it.
    """
    folder = WEIGHTS_FOLDER / name
    if not all((folder / file).is_file() for file in (CONFIG, WEIGHTS)):
        raise WeightsError(
            f"this installation of affectnet contains no weights of '{name}'; give a model of your "
            f"own: {WAYS}"
        )
    return folder


def local_path(path: Path) -> Path:
    """The folder of a shipped model if `path` is its name and does not exist; `path` otherwise.

    Raises `WeightsError` as `shipped_model`.
    """
    if str(path) in SHIPPED and not path.exists():
        return shipped_model(str(path))
    return path


def _in_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        here = [name for name in (CONFIG, WEIGHTS) if (folder / name).is_file()]
        if len(here) == 2:
            return folder
        if here == [CONFIG]:
            pickles = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLES)
            if pickles:
                raise WeightsError(
                    f"{folder} contains {pickles[0]} instead of {WEIGHTS}: {WHY_NO_PICKLE}; get "
                    "the safetensors file"
                )
            raise WeightsError(f"{folder} has {CONFIG} but no {WEIGHTS}; copy both, or train again")
        if here == [WEIGHTS]:
            raise RunError(f"{folder} has {WEIGHTS} but no {CONFIG}; copy both, or train again")
    if (path / "checkpoints").is_dir():
        raise RunError(
            f"the run {path} has no trained model yet; finish it with "
            f"`affectnet train --name {path.resolve().name} --resume`"
        )
    raise RunError(f"{path} contains no {CONFIG} and no {WEIGHTS}; give {WAYS}")


def _of_file(path: Path) -> Path:
    if path.suffix.lower() == ".onnx":
        return path
    if path.name == WEIGHTS:
        return _in_folder(path.parent)
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a checkpoint or a pickle: {WHY_NO_PICKLE}; give the run folder, or the "
            f"folder with {WEIGHTS} and {CONFIG}"
        )
    raise RunError(f"{path} is not a model; give {WAYS}")
