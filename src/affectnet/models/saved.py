"""What a saved model says of itself: `config.json`, read and checked. No torch here.

The same text stands in `config.json`, in the header of `model.safetensors`, and in the metadata of
an ONNX file, so whoever reads one of them reads all.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from affectnet import __version__
from affectnet.errors import RunError
from affectnet.labels import EXPRESSIONS

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
FORMAT: Final = 1
"""Number of the layout of `config.json`; raised when an older affectnet could not read it."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a face picture becomes the backbone's input; written into `config.json`.

    The picture (RGB, the face already cropped) is resized as a whole to `size` x `size` by
    `interpolation`, scaled to [0, 1], and normalised by `mean` and `std`. `crop_pct` is 1.0: the
    border that ImageNet evaluation cuts off would be chin and brow here.

    `margin` (share of the face box added on each side when a detector cropped the face) and
    `alignment` (how the face was turned upright) are None where the data came already cropped.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    margin: float | None = None
    alignment: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry `preprocessing` of `config.json`."""
        return {"colour_order": "RGB", **asdict(self)}


def preprocessing_of(config: dict[str, Any], where: object) -> Preprocessing:
    """Read the entry `preprocessing` of a checked config; `where` is named in errors.

    Raises `RunError` where it is incomplete, or of another colour order than RGB.
    """
    try:
        facts = dict(config["preprocessing"])
        order = facts.pop("colour_order")
        known = {field.name for field in fields(Preprocessing)}
        if facts.keys() - known:
            raise KeyError(", ".join(sorted(facts.keys() - known)))
        preprocessing = Preprocessing(
            **facts | {"mean": _three(facts["mean"]), "std": _three(facts["std"])}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise incomplete(where, error) from error
    if order != "RGB":
        raise RunError(f"{where} says colour order {order}; affectnet reads RGB only")
    return preprocessing


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a `config.json`; raises as `parse_config`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no config of an affectnet model ({error})") from error
    return parse_config(text, path)


def parse_config(text: str, where: object) -> dict[str, Any]:
    """Read and check the text of a `config.json`; `where` is named in errors.

    Raises `RunError` where it is none, of a newer affectnet, or of classes in another order.
    """
    try:
        config = json.loads(text)
        form, classes = config["format"], config["classes"]
        newer = form > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{where} is no config of an affectnet model ({error})") from error
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
    """Return those of the expressions that are among `classes`, in affectnet's order."""
    return [name for name in EXPRESSIONS if name in classes]


def incomplete(where: object, error: Exception) -> RunError:
    """Build the error for a config in which something is missing."""
    return RunError(
        f"{where} is incomplete or damaged ({error}); save the model again with this affectnet"
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
