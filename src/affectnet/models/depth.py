"""How deep each weight of a backbone lies: for layer-wise learning rates and staged unfreezing."""

from typing import Any, cast

from timm.models import group_parameters
from torch import nn


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """Map each parameter's name to its layer, 0 nearest to the picture, without gaps.

    The layers are timm's (`group_matcher`: a stem, each block, a final norm).

    Raises:
        ValueError: the backbone tells no layers.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"{type(backbone).__name__} does not tell its layers")
    grouped: dict[str, Any] = cast(Any, group_parameters)(
        backbone, matcher(coarse=False), reverse=True
    )
    found = {name: float(depth) for name, depth in grouped.items()}
    order = {depth: place for place, depth in enumerate(sorted(set(found.values())))}
    return {name: order[depth] for name, depth in found.items()}
