"""Weight files: telling what a file holds, reading it safely, and getting ImageNet weights."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm.models
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from affectnet.errors import WeightsError
from affectnet.models.saved import WEIGHTS

HUB_TIMEOUT: Final = 10.0
"""Seconds to wait for the hub's first answer."""

_WAYS_OUT: Final = (
    "give a downloaded file with --weights FILE, or start from random weights with --no-pretrained"
)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The tensors of a file, and where affectnet wrote it, its `config.json`."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None

    @property
    def is_affectnet(self) -> bool:
        """Whether affectnet wrote the file: tensors of a backbone and of heads, told by prefix."""
        return bool(self.tensors) and all(
            name.startswith(("backbone.", "heads.")) for name in self.tensors
        )

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with `prefix`, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def read_weights(path: Path) -> WeightsFile:
    """Read a `.safetensors` file, a PyTorch checkpoint of plain tensors, or a `model/` folder.

    Checkpoints that wrap their tensors (`state_dict`, `model`, an EMA copy) are unwrapped as timm
    does. Raises `WeightsError` where there is no such file, where it is damaged, and where it is a
    pickle of anything but plain tensors: reading one of those runs the code inside.
    """
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            inside = path / "model" / WEIGHTS
            hint = f"it is a run: give {inside.parent}" if inside.is_file() else "give a file"
            raise WeightsError(f"{path} holds no {WEIGHTS}; {hint}, or a folder that holds one")
        path = path / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}; check the path given with --weights")
    try:
        tensors = timm.models.load_state_dict(str(path), weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error})") from error
    except Exception as error:
        # Broad on purpose: over arbitrary bytes, the unpickler fails with any class there is.
        if isinstance(error, pickle.UnpicklingError) or isinstance(
            error.__cause__, pickle.UnpicklingError
        ):
            raise WeightsError(
                f"{path} is not a checkpoint of plain tensors, and reading anything else can run "
                "code that hides in it, so it is refused; where you trust it, save its "
                "state_dict() with safetensors.torch.save_file and give that file"
            ) from error
        raise WeightsError(
            f"{path} cannot be read as weights ({first_line(error)}); "
            "give a .safetensors file, or a .pth that holds a state_dict"
        ) from error
    strangers = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if strangers or not tensors:
        what = f"entries that are no tensors ({some(strangers)})" if strangers else "no tensor"
        raise WeightsError(
            f"{path} holds {what}; give a file that holds a model's state_dict alone"
        )
    return WeightsFile(path, dict(tensors), _config_of(path))


def _config_of(path: Path) -> dict[str, Any] | None:
    """What affectnet wrote about the file: in its header, so that it may travel alone."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("affectnet")
    config = json.loads(text) if text else None
    return config if isinstance(config, dict) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def some(names: Sequence[str], most: int = 3) -> str:
    """Name the first few, and tell how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def explain_mismatch(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Tell in one line how the tensors of a file differ from those of a model; '' where not."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return "; ".join(f"{what}: {some(names)}" for what, names in parts.items() if names)


def find_pretrained(name: str, cfg: Any) -> str | None:
    """Return the downloaded file of a timm model's weights, or None where timm shall download it.

    A file in the hub's cache is used without asking the network.

    Raises `WeightsError` where timm has no weights for the model and where the hub does not answer.
    """
    if not cfg.has_weights:
        others = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        tags = f" (it has some as {some(others)})" if others else ""
        raise WeightsError(f"timm has no pretrained weights for {name}{tags}; {_WAYS_OUT}")
    if not cfg.hf_hub_id or cfg.custom_load:
        return None
    repo, _, revision = cfg.hf_hub_id.partition("@")
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else [WEIGHTS, "pytorch_model.bin"]
    for file in names:
        cached = try_to_load_from_cache(repo, file, revision=revision or None)
        if isinstance(cached, str):
            return cached
    fault = hub_fault(repo, names[0], revision or None)
    if fault is not None:
        raise unavailable(name, fault) from fault
    return None


def hub_fault(repo: str, file: str, revision: str | None) -> Exception | None:
    """Ask the Hugging Face Hub for a file once, within `HUB_TIMEOUT`; return what went wrong.

    Its own download asks six times with growing pauses, most of a minute without a network.
    """
    try:
        get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=HUB_TIMEOUT)
    except EntryNotFoundError:
        return None  # The hub answers; the weights may be there under another name.
    except Exception as error:
        # Broad on purpose: which class tells of a dead network depends on the HTTP library that
        # the installed huggingface_hub is built on.
        return error
    return None


def unavailable(name: str, error: Exception) -> WeightsError:
    """Build the error for pretrained weights that cannot be had."""
    return WeightsError(
        f"the pretrained weights of {name} cannot be downloaded ({first_line(error)}); "
        f"connect to the network and try again, {_WAYS_OUT}"
    )
