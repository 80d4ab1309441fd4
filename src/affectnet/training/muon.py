"""Muon, with all matrices of one shape stepped together."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim import muon as timm_muon
from torch import Tensor


class Muon(timm_muon.Muon):
    """timm's Muon (plain, convolutions flattened) with the matrices of one shape in one batch.

    The steps are the same up to rounding. A GPU is kept waiting by many small operations: one
    matrix at a time takes longer there than CVNet's forward and backward pass
    (benchmarks/RESULTS.md).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step along all gradients there are; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None and timm_muon._is_suitable_for_muon(weight):
                    shapes[weight.shape].append(weight)
                    gradients[weight] = weight.grad
            for weights in shapes.values():
                self._step_together(weights, [gradients[weight] for weight in weights], group)
        # The rest is stepped as timm does it; the matrices are hidden from it meanwhile.
        for weight in gradients:
            weight.grad = None
        super().step()  # type: ignore[no-untyped-call]
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return loss

    def _step_together(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        momenta = []
        for weight in weights:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            momenta.append(state["momentum_buffer"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions: Sequence[Tensor] = momenta
        if group["nesterov"]:
            directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = timm_muon.zeropower_via_newtonschulz(
            torch.stack(tuple(directions)).flatten(2),
            group["ns_steps"],
            timm_muon.resolve_ns_coefficients(group["ns_coefficients"], timm_muon._COEFFICIENTS),
            eps=group["eps"],
            safety_factor=group["safety_factor"],
        )
        scale = timm_muon.get_lr_scale(updates.shape, group["adjust_lr_fn"])
        steps = updates.to(weights[0].dtype).mul_(-group["lr"] * scale)
        torch._foreach_add_(weights, [s.view(weights[0].shape) for s in steps])
