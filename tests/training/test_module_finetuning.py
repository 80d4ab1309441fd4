"""Accumulation, staged unfreezing, compiling and distillation in real training steps."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.backbones import layer_depths
from affectnet.seven import SEVEN
from affectnet.training.distillation import Distillation
from affectnet.training.module import AffectModule
from affectnet.training.optimisation import Optimisation, Unfreezing
from affectnet.training.trainer import quiet_lightning

SGD = Optimisation("sgd", lr=0.05, weight_decay=0, schedule="constant", warmup_epochs=0)


def faces(n: int, side: int = 32) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        "image": torch.from_numpy(rng.integers(0, 256, (n, 3, side, side), np.uint8)),
        "index": torch.arange(n),
        "expression": torch.from_numpy(rng.integers(0, 8, n)),
        "valence": torch.from_numpy(rng.uniform(-1, 1, n).astype(np.float32)),
        "arousal": torch.from_numpy(rng.uniform(-1, 1, n).astype(np.float32)),
        "soft": torch.full((n, 8), torch.nan),
    }


def cut(batch: dict[str, Tensor], sizes: Sequence[int]) -> list[dict[str, Tensor]]:
    parts = {name: value.split(list(sizes)) for name, value in batch.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def model(name: str = "vit_tiny_patch16_224", **settings: Any) -> AffectModel:
    """A network without batch norm, so that the output for a face does not depend on its batch."""
    torch.manual_seed(0)
    return AffectModel(name, image_size=32, **settings)


def fit(module: AffectModule, batches: list[dict[str, Tensor]], **settings: Any) -> L.Trainer:
    quiet_lightning()
    given = {"max_epochs": 1, **settings}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **given,
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    return trainer


def weights(module: AffectModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.model.named_parameters()}


@pytest.mark.parametrize(("small", "large"), [([8] * 4, [16, 16]), ([8] * 3, [16, 8])])
def test_two_accumulated_batches_are_one_of_twice_the_size(
    small: list[int], large: list[int]
) -> None:
    """Also if the epoch's last window is not full."""
    batch = faces(sum(small))
    ends, steps = [], []
    for sizes, accumulate in ((small, 2), (large, 1)):
        # CCC is not a mean over faces; cross entropy and squared error are.
        module = AffectModule(model(), optimisation=SGD, losses={"va_loss": "mse"})
        trainer = fit(module, cut(batch, sizes), accumulate_grad_batches=accumulate)
        ends.append(weights(module))
        steps.append(trainer.global_step)
    assert steps == [2, 2]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=2e-6, rtol=1e-4)


def test_the_schedule_counts_steps_not_batches() -> None:
    cosine = Optimisation("sgd", lr=0.1, schedule="cosine", warmup_epochs=0)
    module = AffectModule(model("resnet10t"), optimisation=cosine)
    trainer = fit(module, cut(faces(24), [8] * 3), accumulate_grad_batches=2, max_epochs=2)
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


class Recorder(L.Callback):
    """Copies the weights at the end of every epoch."""

    def __init__(self) -> None:
        self.ends: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AffectModule)
        self.ends.append(weights(pl_module))


def test_layers_are_trained_from_their_epoch_on_and_not_before() -> None:
    chosen = model("resnet10t")
    module = AffectModule(chosen, optimisation=SGD, unfreezing=Unfreezing(head_epochs=1, every=1))
    start, recorder = weights(module), Recorder()
    # Three steps per epoch: a residual branch that starts at zero changes from the second step on.
    fit(module, [faces(8)] * 3, max_epochs=5, callbacks=[recorder])
    depths, layers = layer_depths(chosen.backbone), chosen.layers
    for epoch, (before, after) in enumerate(
        zip([start, *recorder.ends], recorder.ends, strict=False)
    ):
        first = module.unfreezing.first_layer(epoch, layers)
        for name, depth in depths.items():
            key = f"backbone.{name}"
            assert torch.equal(before[key], after[key]) == (depth < first), (epoch, name)
        assert not torch.equal(before["heads.expression.weight"], after["heads.expression.weight"])
    assert module.unfreezing.first_layer(4, layers) == 0


@pytest.mark.slow
def test_a_compiled_model_is_trained_like_an_eager_one() -> None:
    batches, ends = cut(faces(16), [8, 8]), []
    for compiled in (False, True):
        chosen = model("resnet10t")
        module = AffectModule(chosen, optimisation=SGD)
        if compiled:
            module.compile_parts()
        fit(module, batches)
        ends.append(module.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert not any("_orig_mod" in name for name in ends[1])
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=1e-3, rtol=1e-3)


def test_compiling_changes_no_name_of_a_weight() -> None:
    chosen = model("resnet10t")
    before = list(chosen.state_dict())
    module = AffectModule(chosen)
    module.compile_parts()
    assert list(module.model.state_dict()) == before


def test_the_teachers_loss_is_its_formula() -> None:
    teacher, torch_rng = model(), torch.Generator().manual_seed(1)
    targets, output = (
        AffectOutput(
            torch.randn(5, 8, generator=torch_rng),
            torch.rand(5, generator=torch_rng) - 0.5,
            torch.rand(5, generator=torch_rng) - 0.5,
        )
        for _ in range(2)
    )
    found = Distillation((teacher,), temperature=3.0).loss(output, targets)
    q = F.softmax(targets.logits / 3, dim=1).double().numpy()
    p = F.softmax(output.logits / 3, dim=1).double().numpy()
    expected = 9 * (q * np.log(q / p)).sum(axis=1).mean()
    expected += ((output.valence - targets.valence) ** 2).double().mean().item()
    expected += ((output.arousal - targets.arousal) ** 2).double().mean().item()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_is_corrected_to_the_fractions_of_the_students_loss() -> None:
    """Of a teacher that learned rare classes as rare, for a student whose loss equals them."""
    teacher, images = model("resnet10t").eval(), torch.rand(6, 3, 32, 32)
    natural, equal = (0.3, 0.3, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05), (1 / 8,) * 8
    plain = Distillation((teacher,)).targets(images)
    assert torch.equal(Distillation((teacher,), prior=equal).targets(images).logits, plain.logits)
    teacher.prior = natural
    found = Distillation((teacher,), prior=equal).targets(images)
    expected = plain.logits.softmax(1) / torch.tensor(natural)
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(found.logits.softmax(1), expected)
    assert torch.equal(found.valence, plain.valence)
    # Without the fractions of either side, and with equal ones, nothing changes.
    for prior in (None, natural):
        same = Distillation((teacher,), prior=prior).targets(images)
        torch.testing.assert_close(same.logits, plain.logits)
    # A class that the student never sees leaves the loss finite.
    seven = Distillation((teacher,), prior=(*natural[:6], 0.1, 0.0))
    assert seven.loss(plain, seven.targets(images)).isfinite()


def test_training_on_a_teacher_alone_works_and_does_not_change_it() -> None:
    teacher = model("resnet10t")
    with torch.no_grad():
        teacher.heads.expression.bias[3] += 20  # predicts surprise for every face
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distillation = Distillation((teacher,), weight=1.0, temperature=1.0)
    student = model("resnet10t")
    module = AffectModule(student, optimisation=SGD, distillation=distillation)
    assert not any("teacher" in name for name in module.state_dict())
    fit(module, [faces(16)] * 10)
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert (student.eval()(torch.zeros(2, 3, 32, 32)).logits.argmax(dim=1) == 3).all()


def test_several_teachers_share_a_batch_and_take_turns() -> None:
    teachers = tuple(model("resnet10t").eval() for _ in range(3))
    with torch.no_grad():
        for number, teacher in enumerate(teachers):
            teacher.heads.expression.weight.zero_()
            teacher.heads.expression.bias.copy_(torch.full((8,), float(number)))
    teach = Distillation(teachers)
    images = torch.rand(7, 3, 32, 32)
    assert teach.targets(images).logits[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert teach.targets(images, 1).logits[:, 0].tolist() == [1, 1, 2, 2, 0, 0, 0]
    # Two processes with half the batch each have the same targets.
    halves = [
        teach.targets(images[:4], 2, first=0, of=7).logits[:, 0],
        teach.targets(images[4:], 2, first=4, of=7).logits[:, 0],
    ]
    assert torch.equal(torch.cat(halves), teach.targets(images, 2).logits[:, 0])
    assert teach.targets(images[:1]).valence.shape == (1,)


def test_a_teacher_of_other_classes_is_refused() -> None:
    teachers = (model(classes=SEVEN), model())
    with pytest.raises(ConfigError, match="contempt"):
        AffectModule(model(classes=SEVEN), distillation=Distillation(teachers))


def test_learned_task_weights_change_and_are_saved() -> None:
    module = AffectModule(model("resnet10t"), optimisation=SGD, learned_weights=True)
    fit(module, [faces(16)] * 3)
    learned = module.state_dict()["log_variances"]
    assert learned.shape == (3,)
    assert (learned != 0).all()
    assert "log_variances" not in AffectModule(model("resnet10t")).state_dict()
