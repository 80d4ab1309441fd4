"""Sharpness-aware minimisation: its steps, and training with it."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from affectnet.cli import parse
from affectnet.commands.train import train
from affectnet.commands.train_settings import check
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel
from affectnet.training.optimisation import Optimisation
from affectnet.training.sam import SAM

RHO = 0.05
CREATE: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **rest: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **rest),
}


def problem() -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(16, 5), torch.randn(16, 3)
    return net, lambda: ((net(x) - y) ** 2).mean()


@pytest.mark.parametrize("name", CREATE)
def test_a_step_is_that_of_the_paper(name: str) -> None:
    """Equation 2 of Foret et al.: the gradient at w + rho g / |g|, applied at w."""
    net, loss_of = problem()
    plain = CREATE[name](net.parameters(), lr=0.1)
    for _ in range(4):
        plain.zero_grad()
        loss_of().backward()
        norm = torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]).norm()
        before = [w.detach().clone() for w in net.parameters()]
        with torch.no_grad():
            for w in net.parameters():
                w += RHO * w.grad / norm
        plain.zero_grad()
        loss_of().backward()
        with torch.no_grad():
            for w, old in zip(net.parameters(), before, strict=True):
                w.copy_(old)
        plain.step()

    ours, loss_of_ours = problem()
    sam = SAM(ours.parameters(), CREATE[name], rho=RHO, lr=0.1)
    losses: list[Any] = []

    def closure() -> Tensor:
        sam.zero_grad()
        loss = loss_of_ours()
        loss.backward()
        return loss

    for _ in range(4):
        now = float(loss_of_ours().detach())
        losses.append((now, float(sam.step(closure).detach())))
    for w, expected in zip(ours.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(w, expected, rtol=1e-5, atol=1e-6)
    # It returns the loss at the weights, not the higher one nearby.
    assert all(given == pytest.approx(returned) for given, returned in losses)
    with pytest.raises(ValueError, match="closure"):
        sam.step()


def test_the_groups_keep_their_rates_and_decays() -> None:
    model = AffectModel("resnet10t", pretrained=False)
    settings = {"lr": 0.1, "layer_decay": 0.7, "weight_decay": 0.2}
    plain, sam = (Optimisation(sam=rho, **settings).create(model) for rho in (None, RHO))
    assert isinstance(sam, SAM)
    for one, other in zip(plain.param_groups, sam.param_groups, strict=True):
        assert (one["lr"], one["weight_decay"]) == (other["lr"], other["weight_decay"])
        assert all(a is b for a, b in zip(one["params"], other["params"], strict=True))
    assert {group["rho"] for group in sam.param_groups} == {RHO}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sam 0.05 --accumulate 2", "--accumulate"),
        ("--sam 0", "sam"),
        ("--sam 0.05 --strategy fsdp --clip-norm None", "--strategy fsdp"),
    ],
)
def test_settings_that_it_cannot_work_with_are_refused(flags: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(parse("train", ["--data", "D", *flags.split()]))


def test_a_resumed_training_ends_at_the_same_weights(drawn: Path, tmp_path: Path) -> None:
    """With clipping and averaged weights; the metrics of an epoch count every face once."""
    flags = "--backbone resnet10t --no-pretrained --image-size 32 --epochs 2 --batch-size 32"
    config = parse(
        "train",
        f"{flags} --schedule constant --ema 0.9 --clip-norm 1 --sam {RHO} --workers 0 "
        f"--precision 32 --accelerator cpu --data {drawn} --runs {tmp_path}".split(),
    )
    whole = train(dataclasses.replace(config, name="whole"))
    train(dataclasses.replace(config, name="half", epochs=1))
    half = train(dataclasses.replace(config, name="half", resume=True))
    plain = train(dataclasses.replace(config, name="plain", sam=None, epochs=1))
    weights = [load_file(run.model / "model.safetensors") for run in (whole, half)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    first, same, other = (
        next(csv.DictReader(run.metrics.open(newline=""))) for run in (whole, half, plain)
    )
    assert first | {"seconds": ""} == same | {"seconds": ""}
    # The first step of both sees the same batch with the same weights; the next ones do not.
    assert first["train_loss"] != other["train_loss"]
    assert float(first["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=0.2)
