"""Muon in batches, compared with timm's, which steps one matrix at a time."""

import copy

import pytest
import torch
from timm.optim import muon as timm_muon
from torch import Tensor, nn

from affectnet.models.cvnet import CVNet
from affectnet.training.optimisation import Muon


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one = CVNet(stem=8, widths=(8, 12), blocks=(1, 2)).to(memory_format=torch.channels_last)
    return one, copy.deepcopy(one)


def loss_of(network: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    loss: Tensor = network(torch.randn(4, 3, 48, 48)).square().mean()
    return loss


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_steps_equal_timms(nesterov: bool) -> None:
    mine, theirs = networks()
    settings = {"lr": 0.01, "weight_decay": 0.05, "nesterov": nesterov}
    together = Muon(mine.parameters(), **settings)
    single = timm_muon.Muon(theirs.parameters(), **settings)
    before = [weight.clone() for weight in mine.parameters()]
    for step in range(3):
        for network, optimizer in ((mine, together), (theirs, single)):
            optimizer.zero_grad()
            loss_of(network, step).backward()
        # The same gradients for both, so that rounding errors do not add up.
        for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert own.grad is not None
            other.grad = own.grad.clone()
        together.step()
        single.step()
    for old, own, other in zip(before, mine.parameters(), theirs.parameters(), strict=True):
        moved = (other - old).norm()
        assert moved > 0
        # Newton-Schulz computes in bf16, which has three digits.
        assert (own - other).norm() <= 0.02 * moved


def test_a_closure_is_run_once_and_gradients_stay() -> None:
    network, _ = networks()
    optimizer = Muon(network.parameters(), lr=0.01, nesterov=True)
    ran = []

    def closure() -> float:
        ran.append(1)
        optimizer.zero_grad()
        loss = loss_of(network, 0)
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) > 0
    assert ran == [1]
    assert all(weight.grad is not None for weight in network.parameters())


def test_weights_without_gradient_stay() -> None:
    network, untouched = networks()
    network.stem.requires_grad_(False)
    optimizer = Muon(network.parameters(), lr=0.01, nesterov=True)
    loss_of(network, 0).backward()
    optimizer.step()
    assert torch.equal(network.stem[0].weight, untouched.stem[0].weight)
    assert not torch.equal(network.stages[0].conv1.weight, untouched.stages[0].conv1.weight)


def test_a_state_saved_by_timm_is_loaded() -> None:
    mine, theirs = networks()
    single = timm_muon.Muon(theirs.parameters(), lr=0.01, nesterov=True)
    loss_of(theirs, 0).backward()
    single.step()
    together = Muon(mine.parameters(), lr=0.01, nesterov=True)
    together.load_state_dict(single.state_dict())
    momenta = [
        (together.state[own]["momentum_buffer"], single.state[other]["momentum_buffer"])
        for own, other in zip(mine.parameters(), theirs.parameters(), strict=True)
        if "momentum_buffer" in single.state[other]
    ]
    assert len(momenta) > 10
    assert all(torch.equal(own, other) for own, other in momenta)
