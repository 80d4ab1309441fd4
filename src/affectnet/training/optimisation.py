"""Optimiser, learning-rate schedule, rates of the backbone's layers, staged unfreezing."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from timm.optim import muon as timm_muon
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from affectnet.models.affect_model import AffectModel
from affectnet.models.backbones import layer_depths


class Muon(timm_muon.Muon):
    """timm's Muon (plain, convolutions flattened) with matrices of one shape in one batch.

    The steps are the same up to rounding. Many small operations keep a GPU waiting: one matrix at a
    time takes longer there than CVNet's forward and backward pass (benchmarks/RESULTS.md).
    """

    # Private names are used below: timm's, because the choice of the matrices and the coefficients
    # must be timm's, and `torch._foreach_*`, which have no public name.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step along all gradients; return the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            if group.get("use_fallback"):
                continue
            own = {
                weight: weight.grad
                for weight in group["params"]
                if weight.grad is not None and timm_muon._is_suitable_for_muon(weight)
            }
            if own:
                self._step_matrices(own, group)
                gradients |= own
        # timm steps the rest; without gradients the matrices are left out.
        for weight in gradients:
            weight.grad = None
        super().step()  # type: ignore[no-untyped-call]
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return loss

    def _step_matrices(self, gradients: dict[Tensor, Tensor], group: dict[str, Any]) -> None:
        for weight in gradients:
            state = self.state[weight]
            momentum = state.get("momentum_buffer")
            momentum = torch.zeros_like(weight) if momentum is None else momentum
            state["momentum_buffer"] = _laid_out(momentum, weight)
        weights = [_matrix(weight) for weight in gradients]
        momenta = [_matrix(self.state[weight]["momentum_buffer"]) for weight in gradients]
        given = [_matrix(_laid_out(values, weight)) for weight, values in gradients.items()]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, given, 1 - group["momentum"])
        directions: Sequence[Tensor] = momenta
        if group["nesterov"]:
            directions = torch._foreach_lerp(given, momenta, group["momentum"])
        steps = _orthogonal(directions, group, together=directions[0].device.type != "cpu")
        kind = group["adjust_lr_fn"]
        scales = [-group["lr"] * timm_muon.get_lr_scale(one.shape, kind) for one in steps]
        torch._foreach_mul_(steps, scales)
        torch._foreach_add_(weights, steps)


def _laid_out(values: Tensor, weight: Tensor) -> Tensor:
    """The values in the order of the weight's memory; a copy only where theirs is another."""
    alike = values.stride() == weight.stride()
    return values if alike else torch.empty_like(weight).copy_(values)


def _matrix(weight: Tensor) -> Tensor:
    """A view of the outputs by all the rest, in the order of memory.

    The order of the columns changes nothing, and another one would need copies. Raises
    `RuntimeError` for parts of larger tensors whose last dimensions cannot be merged.
    """
    order = sorted(range(1, weight.ndim), key=weight.stride, reverse=True)
    return weight.permute(0, *order).view(len(weight), -1)


_SMALL: Final = 1 << 18
"""Numbers in a matrix up to which starting its operations takes a GPU longer than computing."""


def _orthogonal(
    matrices: Sequence[Tensor], group: dict[str, Any], *, together: bool
) -> list[Tensor]:
    """The nearest orthogonal matrix of each, float32, those of one shape in one batch.

    With `together`, which suits GPUs, small ones with the same shorter side are one batch, padded
    with zeros to the longest, which change nothing.
    """
    shapes: dict[torch.Size, list[int]] = defaultdict(list)
    for number, matrix in enumerate(matrices):
        shapes[matrix.shape].append(number)
    batches: dict[tuple[int, ...], list[torch.Size]] = defaultdict(list)
    for shape in shapes:
        alike = together and shape.numel() <= _SMALL
        batches[(min(shape),) if alike else shape].append(shape)
    results: list[Tensor] = [*matrices]
    for batch in batches.values():
        longest = max(map(max, batch))
        stacks = []
        for shape in batch:
            stack = torch.stack([matrices[number] for number in shapes[shape]])
            wide = stack.mT if shape[0] > shape[1] else stack
            stacks.append(F.pad(wide, (0, longest - max(shape))) if max(shape) < longest else wide)
        found = iter(
            timm_muon.zeropower_via_newtonschulz(
                torch.cat(stacks),
                group["ns_steps"],
                timm_muon.resolve_ns_coefficients(
                    group["ns_coefficients"], timm_muon._COEFFICIENTS
                ),
                eps=group["eps"],
                safety_factor=group["safety_factor"],
            ).float()
        )
        for shape in batch:
            for number in shapes[shape]:
                wide = next(found)[:, : max(shape)]
                results[number] = wide.mT if shape[0] > shape[1] else wide
    return results


STAGES: Final = 4  # in which staged unfreezing adds the layers, a quarter at a time


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule; fields and units as in `affectnet train --help`."""

    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_size: int = 40
    gamma: float = 0.1
    warmup_epochs: float = 0.5
    backbone_lr: float = 1.0
    layer_decay: float = 1.0
    sam: float | None = None

    def factor(self, epoch: float, epochs: int) -> float:
        """Learning rate as a fraction of the peak after `epoch` (fractional) of `epochs` epochs.

        Linear warm-up, then StepLR (`gamma ** (epoch // step_size)`), half a cosine down to zero,
        or constant.
        """
        if epoch < self.warmup_epochs:
            return (epoch + 1e-3) / (self.warmup_epochs + 1e-3)
        if self.schedule == "step":
            return self.gamma ** math.floor(epoch / self.step_size)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return 1.0

    def jump(self, epoch: int, before: int, now: int) -> tuple[float, float] | None:
        """Learning rates after `epoch` epochs of a run of `before` epochs, and if it has `now`.

        None if they are the same. A finished cosine run ends at a rate of zero, and one that is
        extended starts again in the middle of its curve.
        """
        rates = self.lr * self.factor(epoch, before), self.lr * self.factor(epoch, now)
        return None if math.isclose(*rates, rel_tol=1e-6, abs_tol=1e-12) else rates

    def create(
        self,
        model: AffectModel,
        others: Iterable[nn.Parameter] = (),
        decayed: Collection[str] | None = None,
    ) -> Any:
        """Create the optimiser of all weights that require gradients, `others` included.

        `muon` steps each matrix of the backbone (of a convolution: outputs by all the rest) along
        the nearest orthogonal one, and everything else, the heads included, as NAdamW (Jordan et
        al. 2024, "Muon: an optimizer for hidden layers in neural networks").

        The rate of the heads is `lr`, that of layer l of a backbone of L layers is
        `lr * backbone_lr * layer_decay ** (L - l)` (Clark et al. 2020, arXiv:2003.10555). Weight
        decay applies to the weights of `decayed_weights` only.

        Args:
            model: the model to train.
            others: weights outside of the model, such as task weights.
            decayed: as `decayed_weights` returns them; needed under FSDP, which flattens weights.
        """
        # Not timm.optim.param_groups_layer_decay: it gives the last layer the full rate, knows
        # matrices by their shape, which FSDP flattens, and has no place for the rate of the heads.
        if decayed is None:
            decayed = decayed_weights(model)
        groups: dict[tuple[float, bool, float], list[nn.Parameter]] = defaultdict(list)
        for name, scale, weight in [
            *_scaled(model, self.backbone_lr, self.layer_decay),
            *(("", 1.0, other) for other in others),
        ]:
            if weight.requires_grad:
                decay = self.weight_decay if name in decayed else 0.0
                fallback = self.optimizer == "muon" and not name.startswith("backbone.")
                groups[scale, fallback, decay].append(weight)
        settings: list[dict[str, Any]] = [
            {"params": weights, "lr": self.lr * scale, "weight_decay": decay}
            | ({"use_fallback": True} if fallback else {})
            # The heads' group comes first: its rate is logged.
            for (scale, fallback, decay), weights in sorted(
                groups.items(), key=lambda group: (-group[0][0], not group[0][1], group[0][2] == 0)
            )
        ]
        # One kernel for all weights, on GPUs; elsewhere PyTorch chooses.
        on_gpu = all(weight.is_cuda for group in settings for weight in group["params"])
        fused = {"fused": True if on_gpu else None}
        kinds: dict[str, tuple[Any, dict[str, Any]]] = {
            "adam": (torch.optim.Adam, fused),
            "adamw": (torch.optim.AdamW, fused),
            "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True} | fused),
            # Steps as large as AdamW's, so that the same rates suit both.
            "muon": (Muon, {"nesterov": True, "adjust_lr_fn": "match_rms_adamw"}),
        }
        kind, options = kinds[self.optimizer]
        if self.sam is None:
            return kind(settings, lr=self.lr, **options)
        # Loaded only here, because importing its many optimisers takes a second.
        from affectnet.training.sam import SAM

        return SAM(settings, kind, rho=self.sam, lr=self.lr, **options)


@dataclass(frozen=True)
class Unfreezing:
    """Staged unfreezing (Howard and Ruder 2018, arXiv:1801.06146): the heads are trained first.

    Args:
        head_epochs: epochs in which only the heads are trained; 0 for no staging.
        every: after those, train another quarter of the backbone's layers every so many epochs,
            the last layers first; 0 trains all of them at once.
    """

    head_epochs: int = 0
    every: int = 0

    def first_layer(self, epoch: int, layers: int) -> int:
        """The first layer (of `layers`) that is trained in an epoch; `layers` if none is."""
        if epoch < self.head_epochs:
            return layers
        if self.head_epochs == 0 or self.every == 0:
            return 0
        stage = min((epoch - self.head_epochs) // self.every + 1, STAGES)
        return layers - math.ceil(layers * stage / STAGES)


def decayed_weights(model: AffectModel) -> frozenset[str]:
    """Names of the weights to which weight decay applies, as in timm.

    All except biases, norms, and those that the backbone itself exempts (`no_weight_decay`), such
    as position embeddings and the logit scales of Swin-V2.
    """
    exempt: set[str] = getattr(model.backbone, "no_weight_decay", set)()
    groups = param_groups_weight_decay(
        model, weight_decay=1.0, no_weight_decay_list=[f"backbone.{name}" for name in exempt]
    )
    chosen = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
    return frozenset(name for name, weight in model.named_parameters() if id(weight) in chosen)


def _scaled(
    model: AffectModel, backbone_lr: float, layer_decay: float
) -> Iterable[tuple[str, float, nn.Parameter]]:
    depths = layer_depths(model.backbone) if layer_decay != 1 else {}
    layers = max(depths.values(), default=-1) + 1
    for name, weight in model.backbone.named_parameters():
        depth = depths.get(name, layers)
        yield f"backbone.{name}", backbone_lr * layer_decay ** (layers - depth), weight
    for name, weight in model.heads.named_parameters():
        yield f"heads.{name}", 1.0, weight
