"""Parameters and multiply-adds against counts by hand."""

import pytest
import torch

from affectnet.models.affect_model import AffectModel
from affectnet.training.cost import cost_of


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 160)])
def test_counts(name: str, size: int) -> None:
    model = AffectModel(name, image_size=size)
    cost = cost_of(model, torch.device("cpu"), seconds=0)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.images_per_second > 0
    by_hand = 0

    def count(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal by_hand
        if isinstance(layer, torch.nn.Conv2d):
            by_hand += out.numel() * layer.weight[0].numel()
        elif isinstance(layer, torch.nn.Linear):
            by_hand += out.numel() * layer.in_features

    for layer in model.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    assert cost.multiply_adds >= by_hand > 0
    if name == "test_resnet":
        assert cost.multiply_adds == by_hand
    else:
        # Attention's two products come on top: they have no weights, yet they are counted.
        assert cost.multiply_adds > by_hand
