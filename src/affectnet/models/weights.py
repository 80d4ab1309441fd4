"""Weight files, read safely; pretrained weights and models of the Hugging Face Hub."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import timm.models
from huggingface_hub import (
    ModelCardData,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, isfinite, isnan, nn

from affectnet.errors import WeightsError
from affectnet.models.model_config import (
    CONFIG,
    WEIGHTS,
    WHY_NO_PICKLE,
    ModelConfig,
    parse_config,
)

HUB_TIMEOUT: Final = 10.0  # seconds to wait for the hub's first answer
CARD: Final = "README.md"  # file of the model card, next to the weights
MAX_CARD: Final = 2**20  # characters of a card that are kept

_WAYS_OUT: Final = (
    "give a downloaded file with --weights FILE, or start from random weights with --no-pretrained"
)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The tensors of a file, and its config if affectnet wrote it."""

    path: Path
    tensors: dict[str, Tensor]
    config: ModelConfig | None

    @property
    def is_affectnet(self) -> bool:
        """Whether affectnet wrote the file: all names start with `backbone.` or `heads.`."""
        return all(name.startswith(("backbone.", "heads.")) for name in self.tensors)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`; the prefix is removed."""
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}


def read_weights(path: Path) -> WeightsFile:
    """Read a `.safetensors` file, a PyTorch checkpoint of plain tensors, or a `model/` folder.

    Checkpoints that wrap their tensors (`state_dict`, `model`, an EMA copy) are unwrapped as timm
    does. Raises `WeightsError` if there is no such file, if it is damaged, and if it is a pickle
    of anything but plain tensors, because reading that can run code. Raises `RunError` if the
    config in its header cannot be used.
    """
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            inside = path / "model" / WEIGHTS
            hint = f"it is a run: give {inside.parent}" if inside.is_file() else "give a file"
            raise WeightsError(f"{path} contains no {WEIGHTS}; {hint}, or a folder with one")
        path = path / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}; check the path given with --weights")
    try:
        tensors = timm.models.load_state_dict(str(path), weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({error})") from error
    except Exception as error:
        # Broad on purpose: on arbitrary bytes the unpickler can raise any exception class.
        if any(isinstance(e, pickle.UnpicklingError) for e in (error, error.__cause__)):
            raise WeightsError(
                f"{path} is not a checkpoint of plain tensors, and reading anything else can run "
                "code hidden in it, so it is refused; if you trust it, save its state_dict() with "
                "safetensors.torch.save_file and give that file"
            ) from error
        raise WeightsError(
            f"{path} cannot be read as weights ({first_line(error)}); "
            "give a .safetensors file, or a .pth with a state_dict"
        ) from error
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others or not tensors:
        what = f"entries other than tensors ({first_few(others)})" if others else "no tensor"
        raise WeightsError(f"{path} contains {what}; give a file with only a model's state_dict")
    return WeightsFile(path, dict(tensors), _config_of(path))


def _config_of(path: Path) -> ModelConfig | None:
    """The config in the header of a file that affectnet wrote; None for other files."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("affectnet")
    return parse_config(text, f"the header of {path}") if text else None


def check_header(path: Path, wanted: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` unless a safetensors file has exactly the tensors of a model.

    Only its header is read, so that a file that does not fit costs no memory.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            numbers = {name: part.get_dtype() for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({error})") from error
    detail = _mismatch(shapes, _shapes(wanted))
    if not detail:
        odd = [n for n, t in wanted.items() if t.is_floating_point() and numbers[n] not in _FLOATS]
        detail = f"not 16 to 64-bit floats: {first_few(odd)}" if odd else ""
    if detail:
        raise WeightsError(
            f"{path} does not fit the {CONFIG} next to it ({detail}); the two files must come from "
            "the same run"
        )


_FLOATS: Final = ("F64", "F32", "F16", "BF16")  # by the names of safetensors


def check_finite(file: WeightsFile, model: nn.Module) -> None:
    """Raise `WeightsError` where a weight of the model is infinite, or anything is NaN.

    Buffers may be infinite: some of timm's are bounds that nothing has to reach.
    """
    buffers = {name for name, _ in model.named_buffers()}
    odd = [
        name
        for name, tensor in file.tensors.items()
        if not (~isnan(tensor) if name in buffers else isfinite(tensor)).all()
    ]
    if odd:
        raise WeightsError(
            f"{file.path} contains weights that are not finite ({first_few(odd)}); such a model "
            "predicts nothing: train it again with a smaller --lr, or get an undamaged file"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_few(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def explain_mismatch(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How the tensors of a file differ from those of a model, in one line; '' if they match."""
    return _mismatch(_shapes(given), _shapes(wanted))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _mismatch(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {given[name]} for {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    parts = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return "; ".join(f"{what}: {first_few(names)}" for what, names in parts.items() if names)


def find_pretrained(name: str, cfg: Any) -> str | None:
    """Return the downloaded file of a timm model's weights, or None if timm has to download it.

    A file in the hub's cache is used without network access.

    Raises `WeightsError` if timm has no weights for the model or the hub does not answer.
    """
    if not cfg.has_weights:
        others = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        tags = f" (it has weights as {first_few(others)})" if others else ""
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
    """Ask the Hugging Face Hub for a file once, within `HUB_TIMEOUT`; return the error, if any.

    Its own download tries six times with growing pauses: almost a minute without a network.
    """
    try:
        get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=HUB_TIMEOUT)
    except EntryNotFoundError:
        return None  # The hub answers; the weights may have another name.
    except Exception as error:
        # Broad on purpose: the class of a network error depends on the HTTP library that the
        # installed huggingface_hub uses.
        return error
    return None


def unavailable(name: str, error: Exception) -> WeightsError:
    """The error for pretrained weights that cannot be downloaded."""
    return WeightsError(
        f"the pretrained weights of {name} cannot be downloaded ({first_line(error)}); "
        f"connect to the network and try again, {_WAYS_OUT}"
    )


def fetch_model(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model of the hub; only its weights and config are downloaded, once.

    Without a network, an earlier download is used. Raises `WeightsError` if it cannot be downloaded
    or has no safetensors; pickles are not downloaded.
    """
    fault = hub_fault(name, CONFIG, revision)
    try:
        files = [
            hf_hub_download(name, file, revision=revision, local_files_only=fault is not None)
            for file in (WEIGHTS, CONFIG)
        ]
    except EntryNotFoundError as error:
        if fault is None:
            raise WeightsError(
                f"{name} on the hub contains no {WEIGHTS} with a {CONFIG}, so affectnet cannot "
                f"read it: {WHY_NO_PICKLE}"
            ) from error
        raise _unreachable(name, fault) from error
    except (OSError, HFValidationError) as error:
        raise _unreachable(name, fault or error) from error
    return Path(files[0]).parent


def plain_card(name: str, config: dict[str, Any]) -> str:
    """A model card of what the config contains, for a model without measured scores."""
    facts = config["preprocessing"]
    front = ModelCardData(
        model_name=name.rpartition("/")[2],
        library_name="affectnet",
        pipeline_tag="image-classification",
        tags=[
            "facial-expression-recognition",
            *(t for t in config["targets"] if t != "expression"),
        ],
    ).to_yaml()
    return f"""---
{front.strip()}
---

# {name.rpartition("/")[2]}

`{config["architecture"]}`, trained on {" and ".join(config["targets"])}. This card has no
measured scores.

- classes, in this order: {", ".join(config["classes"])}
- input: {facts["colour_order"]} faces of {facts["size"]} x {facts["size"]} pixels, mean \
{tuple(facts["mean"])}, standard deviation {tuple(facts["std"])}
- written by affectnet {config["affectnet_version"]}

```python
import affectnet

affectnet.load("{name}").predict("photo.jpg")
```

The model predicts which expression people would see in an image of a face, not what a person
feels.
"""


def _unreachable(name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"there is no folder {name}, and the model of that name on the hub cannot be downloaded "
        f"({first_line(error)}); check the name and the network, or give a folder `model/` of a run"
    )
