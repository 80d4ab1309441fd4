"""Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412) in one step, for Lightning."""

from collections.abc import Callable
from typing import Any

import pytorch_optimizer
import torch


class SAM(pytorch_optimizer.SAM):
    """pytorch-optimizer's, which expects the first gradient from its caller.

    Lightning calls `step` alone, with the closure that computes loss and gradient and clips it:
    here the closure runs at the weights, and once more where the loss nearby is highest.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step along the gradient at the perturbed weights; return the loss at the weights."""
        if closure is None:
            raise ValueError("SAM needs a closure that computes the loss and its gradient")
        with torch.enable_grad():
            loss = closure()
        super().step(closure)
        return loss
