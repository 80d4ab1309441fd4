"""`config.json` of a saved model, and the models that a name can stand for. No torch here.

The same text is in `config.json`, in the header of `model.safetensors` and in the metadata of an
ONNX file, so each of these files describes the model completely.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from affectnet.errors import RunError, WeightsError
from affectnet.labels import EXPRESSIONS
from affectnet.version import __version__

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
ONNX: Final = "model.onnx"
FORMAT: Final = 1
"""Version of the layout of `config.json`; increased when an older affectnet could not read it."""

Fractions = tuple[float, ...]
"""A fraction per class of a model, in its order, with the sum 1."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image of a face becomes the backbone's input; written into `config.json`.

    The image (RGB, the face already cropped) is resized as a whole to `size` x `size` by
    `interpolation`, scaled to [0, 1], and normalised by `mean` and `std`. `crop_pct` is 1.0: the
    border that ImageNet evaluation cuts off would be chin and brow here.

    `margin` (fraction of the face box added on each side when a detector cropped the face) and
    `alignment` (how the face was turned upright) are None where the data was already cropped.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    margin: float | None = None
    alignment: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry `preprocessing` of `config.json`."""
        return {"colour_order": "RGB", **asdict(self)}


def preprocessing_of(config: dict[str, Any], where: object) -> Preprocessing:
    """Read the entry `preprocessing` of a checked config; `where` is named in errors.

    Raises `RunError` if it is incomplete or the colour order is not RGB.
    """
    try:
        facts = dict(config["preprocessing"])
        order = facts.pop("colour_order")
        known = {field.name for field in fields(Preprocessing)}
        if facts.keys() - known:
            raise KeyError(", ".join(sorted(facts.keys() - known)))
        preprocessing = Preprocessing(
            **facts | {"mean": rgb(facts["mean"]), "std": rgb(facts["std"])}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise incomplete(where, error) from error
    if order != "RGB":
        raise RunError(f"{where} has the colour order {order}; affectnet reads RGB only")
    return preprocessing


def fractions_of(config: dict[str, Any], entry: str, where: object) -> Fractions | None:
    """Read `class_fractions` or `prior` of a checked config; `where` is named in errors.

    `class_fractions` are those of the training faces, and `prior` are those that the probabilities
    assume (see `affectnet.models.prior`). None if the model does not know them; models of earlier
    versions do not. Raises `RunError` for anything but a fraction per class.
    """
    values = config.get(entry)
    if values is None:
        return None
    try:
        fractions = tuple(map(float, values))
    except (TypeError, ValueError) as error:
        raise incomplete(where, error) from error
    usable = len(fractions) == len(config["classes"]) and all(0 <= f <= 1 for f in fractions)
    if not usable or not math.isclose(sum(fractions), 1, abs_tol=1e-3):
        raise incomplete(where, ValueError(f"{entry} are not fractions of its classes: {values}"))
    return fractions


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a `config.json`; raises the errors of `parse_config`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not the config of an affectnet model ({error})") from error
    return parse_config(text, path)


def parse_config(text: str, where: object) -> dict[str, Any]:
    """Read and check the text of a `config.json`; `where` is named in errors.

    Raises `RunError` if it is not a config, comes from a newer affectnet, or orders the classes
    differently.
    """
    try:
        config = json.loads(text)
        form, classes = config["format"], config["classes"]
        newer = form > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{where} is not the config of an affectnet model ({error})") from error
    if newer:
        raise RunError(
            f"{where} was written by affectnet {config.get('affectnet_version')}, which is newer "
            f"than this one ({__version__}); upgrade affectnet"
        )
    if not isinstance(classes, list) or not classes or classes != in_order(classes):
        raise RunError(
            f"{where} has the classes {classes}; affectnet's order is "
            f"{', '.join(EXPRESSIONS)}, and a model may have all or some of them in this order"
        )
    return dict(config)


def in_order(classes: Sequence[str]) -> list[str]:
    """The expressions that are in `classes`, in affectnet's order."""
    return [name for name in EXPRESSIONS if name in classes]


def incomplete(where: object, error: Exception) -> RunError:
    """The error for a config that lacks something."""
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
