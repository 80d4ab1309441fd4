"""Schedules, learning rates of the layers, staged unfreezing, and Muon."""

import copy
from itertools import pairwise

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.optim import muon as timm_muon
from torch import Tensor, nn

from affectnet.models.affect_model import AffectModel
from affectnet.models.backbones import layer_depths
from affectnet.models.cvnet import CVNet
from affectnet.training import optimisation
from affectnet.training.optimisation import Muon, Optimisation, Unfreezing


def test_step_schedule_is_steplr() -> None:
    schedule = Optimisation(schedule="step", step_size=40, gamma=0.1, warmup_epochs=0)
    factors = [schedule.factor(epoch, 100) for epoch in (0, 39.9, 40, 79, 80)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    schedule = Optimisation(schedule="cosine", warmup_epochs=2)
    assert schedule.factor(0, 10) < 0.01
    assert schedule.factor(1, 10) == pytest.approx(0.5, abs=1e-3)
    assert schedule.factor(2, 10) == pytest.approx(1.0)
    assert schedule.factor(6, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0, abs=1e-12)
    whole = [schedule.factor(epoch / 10, 10) for epoch in range(20, 101)]
    assert all(a >= b for a, b in pairwise(whole))


def test_constant_schedule() -> None:
    schedule = Optimisation(schedule="constant", warmup_epochs=0)
    assert {schedule.factor(epoch, 10) for epoch in range(10)} == {1.0}


def rates(model: AffectModel, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    by_id = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    return {name: by_id[id(weight)] for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", ["cvnet", "resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_layer_decay_follows_its_formula(name: str) -> None:
    model = AffectModel(name)
    found = rates(model, Optimisation(lr=0.1, layer_decay=0.7, backbone_lr=0.5).create(model))
    depths = layer_depths(model.backbone)
    layers = max(depths.values()) + 1
    assert set(depths.values()) == set(range(layers))
    assert layers == model.layers > 3
    for key, depth in depths.items():
        assert found[f"backbone.{key}"] == pytest.approx(0.1 * 0.5 * 0.7 ** (layers - depth))
    assert {found[key] for key in found if key.startswith("heads.")} == {0.1}


def test_cvnet_counts_the_stem_and_each_block() -> None:
    depths = layer_depths(AffectModel("cvnet").backbone)
    assert depths["stem.0.weight"] == 0
    assert depths["stages.0.conv1.weight"] == 1
    for branch in range(2):
        names = [f"stages.1.branches.{branch}.{block}.conv1.weight" for block in range(5)]
        assert [depths[name] for name in names] == [2, 3, 4, 5, 6]


def test_the_logged_rate_is_the_heads() -> None:
    model = AffectModel("cvnet")
    optimizer = Optimisation(lr=0.1, layer_decay=0.7).create(model)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_weight_decay_applies_to_matrices_only() -> None:
    model = AffectModel("cvnet")
    task = nn.Parameter(torch.zeros(3))
    optimizer = Optimisation(weight_decay=0.3, layer_decay=0.9).create(model, [task])
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(held) == len({id(w) for w in held}) == len(list(model.parameters())) + 1
    for group in optimizer.param_groups:
        for weight in group["params"]:
            assert group["weight_decay"] == (0.3 if weight.ndim > 1 else 0.0)


def test_weight_decay_exempts_what_timm_exempts() -> None:
    """As the optimisers that timm itself creates for the backbone."""
    for name in ("vit_tiny_patch16_224", "swinv2_tiny_window8_256"):
        with torch.device("meta"):
            model = AffectModel(name)
        theirs = create_optimizer_v2(model.backbone, "adamw", weight_decay=0.3)
        ours = Optimisation(weight_decay=0.3).create(model)
        names = {id(weight): key for key, weight in model.backbone.named_parameters()}
        decayed = [
            {
                names[id(weight)]
                for group in optimizer.param_groups
                if group["weight_decay"]
                for weight in group["params"]
                if id(weight) in names
            }
            for optimizer in (ours, theirs)
        ]
        assert decayed[0] == decayed[1]
        matrices = {key for key, weight in model.backbone.named_parameters() if weight.ndim > 1}
        assert decayed[0] < matrices, "both networks exempt some matrices"


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_muon_leaves_the_heads_to_adam(layer_decay: float) -> None:
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48)
    task = nn.Parameter(torch.zeros(3))
    optimizer = Optimisation(optimizer="muon", layer_decay=layer_decay).create(model, [task])
    heads = {id(weight) for weight in (*model.heads.parameters(), task)}
    for group in optimizer.param_groups:
        of_heads = {id(weight) in heads for weight in group["params"]}
        assert of_heads == {bool(group.get("use_fallback"))}
    before = model.heads.expression.weight.detach().clone()
    take_steps(model, optimizer, range(1))
    # The first step of Adam has one length for every number; an orthogonal one has not.
    moved = (model.heads.expression.weight.detach() - before).abs() / (1 - 1e-3 * 0.01)
    assert moved.std() < 0.01 * moved.mean()


def test_a_finished_cosine_run_that_is_extended_jumps() -> None:
    schedule = Optimisation(lr=0.1, schedule="cosine", warmup_epochs=0)
    before, after = schedule.jump(10, 10, 20)
    assert (before, after) == pytest.approx((0, 0.05))
    assert schedule.jump(0, 10, 20) is None
    assert schedule.jump(10, 10, 10) is None
    for other in ("constant", "step"):
        assert Optimisation(schedule=other).jump(10, 10, 20) is None


def test_unfreezing_goes_by_quarters_from_the_heads() -> None:
    staged = Unfreezing(head_epochs=2, every=1)
    assert [staged.first_layer(e, 8) for e in range(8)] == [8, 8, 6, 4, 2, 0, 0, 0]
    assert [Unfreezing(2, 2).first_layer(e, 7) for e in range(11)] == [
        7,
        7,
        5,
        5,
        3,
        3,
        1,
        1,
        0,
        0,
        0,
    ]
    assert [Unfreezing(2).first_layer(e, 8) for e in range(4)] == [8, 8, 0, 0]
    assert [Unfreezing().first_layer(e, 8) for e in range(3)] == [0, 0, 0]


def test_frozen_layers_do_not_change_and_later_ones_do() -> None:
    model = AffectModel("cvnet").train().freeze_below(4)
    for branch in model.backbone.stages[1].branches:
        assert not branch[1].norm1.training
        assert branch[2].norm1.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimisation(optimizer="sgd", lr=0.1, weight_decay=0.5).create(model)
    output = model(torch.rand(4, 3, 48, 48))
    (output.logits.square().sum() + output.valence.sum()).backward()
    optimizer.step()
    depths = layer_depths(model.backbone)
    for name, weight in model.backbone.named_parameters():
        moved = not torch.equal(weight, before[f"backbone.{name}"])
        assert moved == (depths[name] >= 4), name
    for name, value in model.backbone.named_buffers():
        if "running_mean" in name and depths[name.replace("running_mean", "weight")] < 4:
            assert torch.equal(value, before[f"backbone.{name}"])


def take_steps(model: AffectModel, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


def test_muon_steps_along_orthogonal_matrices_and_resumes_from_its_state() -> None:
    torch.manual_seed(0)
    model = AffectModel("cvnet", image_size=48)
    chosen = Optimisation(optimizer="muon", lr=0.01, weight_decay=0.0)
    optimizer = chosen.create(model)
    weight, bias = model.backbone.stages[0].conv2.weight, model.heads.expression.bias
    before = weight.detach().clone(), bias.detach().clone()
    take_steps(model, optimizer, range(1))
    step = (weight.detach() - before[0]).flatten(1)
    spread = torch.linalg.svdvals(step)
    # An orthogonal step has equal singular values; five Newton-Schulz steps come close.
    assert spread.max() < 2 * spread.min()
    # As large as AdamW's, of RMS 0.2, so that the same rates suit both.
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)
    # Other weights step as with Adam, whose first step has one length for every number.
    moved = (bias.detach() - before[1]).abs()
    assert moved[0] > 0
    torch.testing.assert_close(moved, moved[:1].expand(8), atol=0, rtol=1e-3)

    other = AffectModel("cvnet", image_size=48)
    other.load_state_dict(model.state_dict())
    resumed = chosen.create(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(model, optimizer, range(1, 3))
    take_steps(other, resumed, range(1, 3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one = CVNet(stem=8, widths=(8, 12), blocks=(1, 2)).to(memory_format=torch.channels_last)
    return one, copy.deepcopy(one)


def loss_of(network: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    loss: Tensor = network(torch.randn(4, 3, 48, 48)).square().mean()
    return loss


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_steps_equal_timms(nesterov: bool) -> None:
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


def test_matrices_computed_together_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    shapes = [(6, 48), (48, 6), (6, 20), (6, 48), (30, 6), (12, 12), (9, 7)]
    matrices = [torch.randn(shape) for shape in shapes]
    group = Muon([nn.Parameter(torch.zeros(2, 2))]).param_groups[0]
    alone, together = (
        optimisation._orthogonal(matrices, group, together=both) for both in (False, True)
    )
    for matrix, one, other in zip(matrices, alone, together, strict=True):
        assert one.shape == other.shape == matrix.shape
        # Newton-Schulz computes in bf16, which has three digits.
        torch.testing.assert_close(other, one, atol=0.02, rtol=0)
        spread = torch.linalg.svdvals(other)
        assert spread.min() > 0.6
        assert spread.max() < 1.3


def test_a_closure_of_muon_is_run_once_and_gradients_stay() -> None:
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


def test_muon_does_not_change_weights_without_gradient() -> None:
    network, untouched = networks()
    network.stem.requires_grad_(False)
    optimizer = Muon(network.parameters(), lr=0.01, nesterov=True)
    loss_of(network, 0).backward()
    optimizer.step()
    assert torch.equal(network.stem[0].weight, untouched.stem[0].weight)
    assert not torch.equal(network.stages[0].conv1.weight, untouched.stages[0].conv1.weight)


def test_muon_loads_a_state_saved_by_timm() -> None:
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
