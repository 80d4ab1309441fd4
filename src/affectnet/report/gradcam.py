"""Grad-CAM for any backbone, convolutional or transformer.

Grad-CAM (Selvaraju et al. 2017, ICCV, equations 1 and 2): the sum of the maps of the last spatial
layer, weighted by the mean gradient of a score with respect to each, without its negative part.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from affectnet.data.augment import normalise, to_float
from affectnet.errors import ConfigError, suggest
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.cvnet import CVNet
from affectnet.report.embedding import evaluating

DIMENSIONS: Final = ("valence", "arousal", "-valence", "-arousal")
"""Targets that are not expressions; with a minus, the map shows what lowers the score."""

Maps = NDArray[np.float32]


def grad_cam(
    model: AffectModel,
    images: NDArray[np.uint8],
    target: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 16,
) -> Maps:
    """Map which regions of each face raise a score.

    Args:
        model: used on its own device and left unchanged.
        images: RGB faces, uint8 (n, S, S, 3), with S the input size of the model.
        target: an expression of the model, `valence`, `arousal`, `-valence` or `-arousal` (what
            lowers them), for all faces or one per face; the predicted expression if None.
        layer: dotted name of the module in `model.backbone` whose output is used; the last
            spatial one if None (in a transformer with a class token, the one before the last
            attention, where the class token reads the patches).
        batch_size: faces per pass.

    Returns:
        float32 (n, S, S) in [0, 1], each map divided by its maximum; all zero where nothing in
        the face raises the score.

    Raises:
        ConfigError: images of another size, an unknown target or layer, or a backbone without a
            spatial layer.
    """
    size = model.preprocessing.size
    if images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise ConfigError(
            f"images are {images.shape}; the model takes (n, {size}, {size}, 3): "
            f"decode_image(data, {size}) resizes"
        )
    targets = _targets(model, target, len(images))
    maps = np.empty(images.shape[:3], np.float32)
    # With gradients, whatever is set outside.
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        for start in range(0, len(images), batch_size):
            batch_rows = slice(start, start + batch_size)
            batch = torch.from_numpy(np.ascontiguousarray(images[batch_rows])).permute(0, 3, 1, 2)
            maps[batch_rows] = _maps_of(model, batch, targets[batch_rows], layer).cpu().numpy()
    return maps


def mean_maps(maps: Maps, labels: NDArray[Any]) -> Maps:
    """The mean map of each expression, float32 (8, S, S), NaN where no face has it.

    Args:
        maps: (n, S, S) of `grad_cam`.
        labels: (n,) classes 0-7, -1 for faces to leave out.
    """
    means = np.full((N_EXPRESSIONS, *maps.shape[1:]), np.nan, np.float32)
    for c in np.unique(labels[labels >= 0]):
        means[c] = maps[labels == c].mean(axis=0)
    return means


def _targets(
    model: AffectModel, target: str | Sequence[str] | None, n: int
) -> list[str] | list[None]:
    if target is None:
        return [None] * n
    targets = [target] * n if isinstance(target, str) else list(target)
    if len(targets) != n:
        raise ConfigError(f"{len(targets)} targets for {n} faces; give one, or one per face")
    allowed = (*model.classes, *DIMENSIONS)
    for one in targets:
        if one not in allowed:
            raise ConfigError(
                f"target {one!r}{suggest(str(one), allowed)}; choose one of {', '.join(allowed)}"
            )
    return targets


def _maps_of(
    model: AffectModel, batch: Tensor, targets: Sequence[str | None], layer: str | None
) -> Tensor:
    """Maps (n, S, S) in [0, 1] of uint8 images (n, 3, S, S)."""
    device = next(model.parameters()).device
    preprocessing = model.preprocessing
    x = normalise(to_float(batch.to(device)), preprocessing.mean, preprocessing.std)
    maps, output = _last_maps(model, x, layer)
    score = _scores(model, output, targets).sum()
    (gradient,) = torch.autograd.grad(score, maps)
    prefix = int(getattr(model.backbone, "num_prefix_tokens", None) or 0)
    activation, slope = (_as_nchw(t, prefix).float() for t in (maps.detach(), gradient))
    weights = slope.mean(dim=(2, 3), keepdim=True)
    cam = F.relu((weights * activation).sum(dim=1, keepdim=True))
    cam = F.interpolate(cam, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    top = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(top > 0, cam / top.clamp_min(torch.finfo(cam.dtype).tiny), cam)


def _last_maps(model: AffectModel, x: Tensor, layer: str | None) -> tuple[Tensor, AffectOutput]:
    """The detached output of the chosen layer, and the predictions computed from it.

    Detached, so that backpropagation ends there and works with frozen backbones.
    """
    backbone: Any = model.backbone
    module = _layer(backbone, layer)
    if module is None:
        with torch.no_grad():
            leaf = backbone.forward_features(x)
        if not isinstance(leaf, Tensor):
            raise _no_layer(model)
        leaf = leaf.detach().requires_grad_()
        # A copy, because the next layer may write into its input.
        return leaf, model.heads(backbone.forward_head(leaf.clone()))
    caught: list[Tensor] = []

    def take(_: nn.Module, __: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise _no_layer(model)
        caught.append(output.detach().requires_grad_())
        return caught[-1].clone()

    hook = module.register_forward_hook(take)
    try:
        output = model(x)
    finally:
        hook.remove()
    if len(caught) != 1:
        raise ConfigError(f"layer '{layer}' runs {len(caught)} times per pass; choose another")
    return caught[0], output


def _layer(backbone: Any, name: str | None) -> nn.Module | None:
    """The module whose output is used; None for that of timm's `forward_features`."""
    if name is not None:
        modules = dict(backbone.named_modules())
        if name not in modules:
            raise ConfigError(f"the backbone has no layer '{name}'{suggest(name, modules)}")
        module: nn.Module = modules[name]
        return module
    if isinstance(backbone, CVNet):
        return backbone.stages
    if getattr(backbone, "num_prefix_tokens", None) and hasattr(backbone, "blocks"):
        # After the last attention only the class token counts: the patches have no gradient.
        norm: nn.Module | None = getattr(backbone.blocks[-1], "norm1", None)
        if norm is not None:
            return norm
    if hasattr(backbone, "forward_features") and hasattr(backbone, "forward_head"):
        return None
    raise ConfigError("the type of the backbone is unknown; name one of its spatial layers")


def _no_layer(model: AffectModel) -> ConfigError:
    return ConfigError(
        f"the last layer of '{model.backbone_name}' does not return one map; name another layer "
        "(model.backbone.named_modules() lists them)"
    )


def _scores(model: AffectModel, output: AffectOutput, targets: Sequence[str | None]) -> Tensor:
    """The score of each face, (n,)."""
    scores = []
    for i, target in enumerate(targets):
        if target is None:
            scores.append(output.logits[i].max())
        elif target in EXPRESSIONS:
            scores.append(output.logits[i, model.classes.index(target)])
        else:
            values = output.valence if target.endswith("valence") else output.arousal
            scores.append(-values[i] if target.startswith("-") else values[i])
    return torch.stack(scores)


def _as_nchw(maps: Tensor, prefix: int) -> Tensor:
    """Maps (n, C, h, w), (n, h, w, C) or tokens (n, prefix + h * w, C) as (n, C, h, w).

    Images are square, so the two equal ones of four axes are the spatial ones.
    """
    if maps.ndim == 4:
        _, a, b, c = maps.shape
        return maps if b == c else maps.permute(0, 3, 1, 2) if a == b else _refuse(maps)
    if maps.ndim != 3:
        return _refuse(maps)
    tokens = maps.shape[1]
    # Some networks add their class token only after the layer.
    for skipped in dict.fromkeys((prefix, 0)):
        side = math.isqrt(max(tokens - skipped, 0))
        if side > 0 and side * side == tokens - skipped:
            patches = maps[:, skipped:].transpose(1, 2)
            return patches.reshape(*patches.shape[:2], side, side)
    return _refuse(maps)


def _refuse(maps: Tensor) -> Tensor:
    raise ConfigError(
        f"the layer returns {tuple(maps.shape)}, which is not a square map; name a spatial layer"
    )
