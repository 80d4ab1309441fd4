"""Backbones: CVNet, six named baselines, and every other image model of timm."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import timm
import torch
from timm.models import get_pretrained_cfg, group_parameters, split_model_name_tag
from torch import nn

from affectnet.errors import ConfigError, WeightsError, suggest
from affectnet.models import cvnet
from affectnet.models.model_config import Preprocessing, rgb
from affectnet.models.weights import (
    WeightsFile,
    explain_mismatch,
    find_pretrained,
    first_few,
    first_line,
    read_weights,
    unavailable,
)

CVNET: Final = "cvnet"

BASELINES: Final[dict[str, str]] = {
    "vgg19": "vgg19.tv_in1k",
    "resnet152": "resnet152.tv2_in1k",
    "swin_v2": "swinv2_base_window8_256.ms_in1k",
    "efficientnet_v2_l": "tf_efficientnetv2_l.in1k",
    "regnet_y_32gf": "regnety_320.tv2_in1k",
    "convnext_large": "convnext_large.fb_in1k",
}
"""The original notebook's baselines: the timm model and weights of each name.

The weights are those of ImageNet-1k that torchvision, which the notebook used, loads by default, or
the nearest that timm has (docs/train.md). The better recipes name weights of more data.
"""

_BUILD_FAULTS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""Raised by timm's models for a size or an argument that they do not support."""


def resolve_name(name: str) -> str:
    """Turn a backbone's name into `cvnet` or a timm model with the tag of its weights.

    Raises `ConfigError` that suggests the nearest known name.
    """
    if name == CVNET:
        return name
    wanted = BASELINES.get(name, name)
    arch, tag = split_model_name_tag(wanted)
    if not timm.is_model(arch):
        near = suggest(name, (CVNET, *BASELINES, *timm.list_models()))
        raise ConfigError(
            f"unknown backbone '{name}'{near}; choose {CVNET}, {', '.join(BASELINES)}, or a model "
            "of timm.list_models()"
        )
    try:
        cfg = get_pretrained_cfg(wanted)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_models(f"{arch}.*", pretrained=True)]
        raise ConfigError(
            f"backbone '{arch}' has no weights called '{tag}'{suggest(tag, tags)}; "
            + (f"choose {first_few(tags, 8)}" if tags else "leave the tag out")
        ) from error
    return f"{arch}.{cfg.tag}" if cfg is not None and cfg.tag else arch


def create_backbone(
    name: str,
    *,
    pretrained: bool,
    weights: Path | str | None = None,
    image_size: int | None = None,
    drop_path: float = 0.0,
) -> tuple[nn.Module, Preprocessing]:
    """Create a backbone that maps faces (B, 3, S, S) to features (B, num_features).

    Args:
        name: `cvnet`, one of `BASELINES`, or a timm model, with or without the tag of its weights.
        pretrained: load timm's ImageNet weights; `cvnet` has none and starts from fresh weights.
        weights: load this instead: a timm checkpoint, or a file that affectnet saved from the same
            backbone (its heads are ignored here).
        image_size: side of the input in pixels; if None that of the weights, where affectnet wrote
            them, else the backbone's own.
        drop_path: probability of skipping a residual branch in training, [0, 1).

    Raises `ConfigError` for a name, a size or a drop path that the backbone does not support,
    `WeightsError` if the weights cannot be loaded or do not fit (weights are never left out
    silently), and `RunError` if the config that affectnet saved with them is incomplete.
    """
    file = read_weights(Path(weights)) if weights is not None else None
    if image_size is None and file is not None and file.config is not None:
        image_size = file.config.preprocessing.size
    full = resolve_name(name)
    if full == CVNET:
        model, preprocessing = _create_cvnet(image_size, drop_path)
        if file is not None and not file.is_affectnet:
            _load(model, file.tensors, name, file)
    else:
        model, preprocessing = _create_timm(
            name, full, pretrained and file is None, file, image_size, drop_path
        )
    if file is not None and file.is_affectnet:
        old = file.config
        if old is not None and old.architecture.partition(".")[0] != full.partition(".")[0]:
            raise WeightsError(
                f"{file.path} contains the backbone {old.architecture}, not {full}; train with "
                f"--backbone {old.backbone}, or give other weights"
            )
        _load(model, file.under("backbone."), name, file)
        if old is not None:
            # Normalise as in the training of the weights; the size may be the caller's.
            facts = old.preprocessing
            preprocessing = replace(
                preprocessing, mean=facts.mean, std=facts.std, interpolation=facts.interpolation
            )
    return model, preprocessing


def _create_cvnet(image_size: int | None, drop_path: float) -> tuple[nn.Module, Preprocessing]:
    size = cvnet.DEFAULT_SIZE if image_size is None else image_size
    if not cvnet.SMALLEST <= size <= cvnet.LARGEST:
        raise ConfigError(
            f"cvnet takes faces of {cvnet.SMALLEST} to {cvnet.LARGEST} px, not {size}; "
            "give another --image-size"
        )
    return cvnet.CVNet(drop_path=drop_path), Preprocessing(size, cvnet.MEAN, cvnet.STD)


def _create_timm(
    name: str,
    full: str,
    pretrained: bool,
    file: WeightsFile | None,
    image_size: int | None,
    drop_path: float,
) -> tuple[nn.Module, Preprocessing]:
    cfg = get_pretrained_cfg(full)
    if cfg is None:
        raise ConfigError(f"timm has no input size for '{name}'; choose another backbone")
    own_size = int(cfg.input_size[-1])
    options: dict[str, Any] = {}
    if image_size is not None and cfg.fixed_input_size:
        options["img_size"] = image_size
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    size = image_size or own_size
    # On the meta device first, which costs no memory: a wrong size fails before a download.
    features = _feature_width(name, full, size, own_size, options)

    if file is not None and not file.is_affectnet:
        model = _load_timm_file(name, full, cfg, file, options)
    elif pretrained:
        model = _load_timm_pretrained(name, full, cfg, options)
    else:
        model = timm.create_model(full, pretrained=False, num_classes=0, **options)
    model.num_features = features
    preprocessing = Preprocessing(
        size,
        rgb(cfg.mean),
        rgb(cfg.std),
        # Some were trained with "random"; timm evaluates those with bicubic.
        "bicubic" if cfg.interpolation == "random" else cfg.interpolation,
    )
    return cast(nn.Module, model), preprocessing


def _feature_width(name: str, full: str, size: int, own_size: int, options: dict[str, Any]) -> int:
    """Number of channels of the features, from a forward pass on the meta device.

    timm's `num_features` differs for models with a hidden layer before the classifier.
    """
    try:
        return _meta_forward(full, size, options)
    except _BUILD_FAULTS as error:
        plain = {key: value for key, value in options.items() if key != "drop_path_rate"}
        if plain != options and _fits(full, size, plain):
            raise ConfigError(f"backbone '{name}' has no drop path; set it to 0") from error
        works = ", ".join(map(str, _sizes_near(full, size, own_size, plain)))
        allowed = f"sizes that work: {works}" if works else "give another --image-size"
        raise ConfigError(f"backbone '{name}' cannot take faces of {size} px; {allowed}") from error


def _meta_forward(full: str, size: int, options: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = timm.create_model(full, pretrained=False, num_classes=0, **options).eval()
        return int(model(torch.empty(1, 3, size, size)).shape[1])


def _fits(full: str, size: int, options: dict[str, Any]) -> bool:
    try:
        _meta_forward(full, size, options)
    except _BUILD_FAULTS:
        return False
    return True


def _sizes_near(full: str, size: int, own: int, options: dict[str, Any]) -> list[int]:
    """The nearest sizes that work, below and above: multiples of 16, and the model's own size."""

    def fits(s: int) -> bool:
        return _fits(full, s, options | ({"img_size": s} if "img_size" in options else {}))

    grid = sorted({*range(32, 513, 16), own})
    below, above = [s for s in reversed(grid) if s < size], [s for s in grid if s > size]
    nearest = [s for side in (below, above, [own]) for s in islice(filter(fits, side), 1)]
    return sorted(set(nearest))


def _load_timm_pretrained(name: str, full: str, cfg: Any, options: dict[str, Any]) -> Any:
    """Create a model with timm's weights, from the hub's cache or downloaded."""
    cached = find_pretrained(full, cfg)
    overlay = {"file": cached} if cached else None
    try:
        # With the classifier of the weights, so that timm loads them strictly: without it, timm
        # skips what does not match.
        model: Any = timm.create_model(
            full, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except OSError as error:
        raise unavailable(name, error) from error
    except (*_BUILD_FAULTS, KeyError) as error:
        detail = " ".join(str(error).split())[:200]
        where = f"; delete {cached} and try again" if cached else ""
        raise WeightsError(f"timm's weights for {name} do not fit it ({detail}){where}") from error
    model.reset_classifier(0)
    return model


def _load_timm_file(
    name: str, full: str, cfg: Any, file: WeightsFile, options: dict[str, Any]
) -> Any:
    """Create a model with the weights of a timm checkpoint, without its classifier."""
    heads = cfg.classifier if isinstance(cfg.classifier, tuple | list) else [cfg.classifier]
    prefixes = tuple(f"{head}." for head in heads)
    body = {key: t for key, t in file.tensors.items() if not key.startswith(prefixes)}
    with torch.device("meta"):
        headless = timm.create_model(full, pretrained=False, num_classes=0, **options).state_dict()
    if not explain_mismatch(body, headless):
        # Whatever the classifier was: none, or several layers.
        model: Any = timm.create_model(full, pretrained=False, num_classes=0, **options)
        model.load_state_dict(body)
        return model
    # timm resizes position embeddings, and translates the names of other libraries that it knows.
    rows = [file.tensors[f"{h}.weight"].shape[0] for h in heads if f"{h}.weight" in file.tensors]
    overlay: dict[str, Any] = {"file": str(file.path), "label_offset": 0}
    if rows:
        classes = overlay["num_classes"] = rows[0]
    elif set(file.tensors) <= set(headless):
        classes = 0
        overlay["classifier"] = None
    else:
        classes = cfg.num_classes
    try:
        model = timm.create_model(
            full, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
        )
    except (*_BUILD_FAULTS, KeyError) as error:
        detail = explain_mismatch(body, headless) or first_line(error)
        raise WeightsError(
            f"{file.path} does not fit the backbone {name} ({detail}); give weights of {full}"
        ) from error
    model.reset_classifier(0)
    return model


def _load(model: nn.Module, tensors: dict[str, Any], name: str, file: WeightsFile) -> None:
    detail = explain_mismatch(tensors, model.state_dict())
    if detail:
        raise WeightsError(f"{file.path} does not fit the backbone {name} ({detail})")
    model.load_state_dict(tensors)


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """Map the name of each parameter to its layer, 0 nearest to the image.

    The layers are those of timm's `group_matcher`: a stem, each block, a final norm. Raises
    `ValueError` if the backbone does not define them.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"{type(backbone).__name__} does not define its layers")
    depths = cast(Any, group_parameters)(backbone, matcher(coarse=False), reverse=True)
    return cast(dict[str, int], depths)
