"""Which model a name means: a path, one of the hub, or one that the package ships. No torch here.

Names are resolved, nothing is read: what lies there is checked by whoever loads it.
"""

import re
from pathlib import Path
from typing import Final

from affectnet.errors import RunError, WeightsError
from affectnet.models.saved import CONFIG, WEIGHTS

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
    "reading a pickle can run code that hides in it, so models are read from safetensors (or ONNX) "
    "only"
)


def resolve_model(model: str | Path) -> Path | str:
    """Return what a name stands for.

    Args:
        model: a run folder, a folder with `model.safetensors` and `config.json`, such a
            `model.safetensors`, an `.onnx` file, `owner/name` on the hub, or one of `SHIPPED`. What
            exists as a path is that path, whatever else it could mean.

    Returns:
        A folder that holds `model.safetensors` and `config.json`, an `.onnx` file, or, as text, the
        name on the hub.

    Raises:
        RunError: there is no such model.
        WeightsError: the weights are missing, a pickle, or not shipped with this installation.
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

    Raises `WeightsError` where this installation has none of that name.
    """
    folder = WEIGHTS_FOLDER / name
    if not all((folder / file).is_file() for file in (CONFIG, WEIGHTS)):
        raise WeightsError(
            f"this installation of affectnet ships no weights of '{name}'; name a model of your "
            f"own: {WAYS}"
        )
    return folder


def local_path(path: Path) -> Path:
    """Return the folder of a shipped model where `path` is its name and no path; `path` otherwise.

    For commands that take run folders and weight files beside.

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
                    f"{folder} holds no {WEIGHTS} but {pickles[0]}: {WHY_NO_PICKLE}; ask for the "
                    "safetensors file"
                )
            raise WeightsError(
                f"{folder} holds {CONFIG} but no {WEIGHTS}; copy both, or train again"
            )
        if here == [WEIGHTS]:
            raise RunError(f"{folder} holds {WEIGHTS} but no {CONFIG}; copy both, or train again")
    if (path / "checkpoints").is_dir():
        raise RunError(
            f"the run {path} has no trained model yet; finish it with "
            f"`affectnet train --name {path.resolve().name} --resume`"
        )
    raise RunError(f"{path} holds no {CONFIG} and no {WEIGHTS}; give {WAYS}")


def _of_file(path: Path) -> Path:
    if path.suffix.lower() == ".onnx":
        return path
    if path.name == WEIGHTS:
        return _in_folder(path.parent)
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a checkpoint or a pickle: {WHY_NO_PICKLE}; give the run folder, or the "
            f"folder that holds {WEIGHTS} and {CONFIG}"
        )
    raise RunError(f"{path} is no model; give {WAYS}")
