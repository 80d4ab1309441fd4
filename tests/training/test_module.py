"""The metrics of an epoch; clipping of the gradient."""

import copy
import math
import socket
from collections.abc import Iterator

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from scipy.stats import pearsonr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    root_mean_squared_error,
)
from torch.distributed.fsdp import FullyShardedDataParallel

from affectnet.models.affect_model import AffectModel
from affectnet.training.module import AffectModule, epoch_metrics


def test_epoch_metrics_equal_the_references() -> None:
    rng = np.random.default_rng(0)
    n = 400
    rows = {
        "loss": rng.random(10) * 40,
        "rows": np.full(10, 40),
        "expression": rng.integers(-1, 8, n),
        "expression_pred": rng.integers(0, 8, n),
        "valence": rng.uniform(-1, 1, n),
        "arousal": rng.uniform(-1, 1, n),
        "valence_pred": rng.uniform(-1, 1, n),
        "arousal_pred": rng.uniform(-1, 1, n),
    }
    rows["valence"][::7] = np.nan
    metrics = epoch_metrics(rows)
    labelled = rows["expression"] >= 0
    truth, preds = rows["expression"][labelled], rows["expression_pred"][labelled]
    assert metrics["loss"] == pytest.approx(rows["loss"].sum() / 400)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, preds))
    balanced = balanced_accuracy_score(truth, preds)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced)
    assert metrics["f1_macro"] == pytest.approx(f1_score(truth, preds, average="macro"))
    known = ~np.isnan(rows["valence"])
    x, y = rows["valence"][known], rows["valence_pred"][known]
    assert metrics["valence_rmse"] == pytest.approx(root_mean_squared_error(x, y))
    ccc = 2 * pearsonr(x, y)[0] * x.std() * y.std() / (x.var() + y.var() + (x - y).mean() ** 2)
    assert metrics["valence_ccc"] == pytest.approx(ccc)
    assert metrics["all_tasks"] == pytest.approx((balanced + ccc + metrics["arousal_ccc"]) / 3)
    # The mean of three tasks is not that of two.
    rows["arousal"][:] = np.nan
    assert "all_tasks" not in epoch_metrics(rows)


def test_epoch_metrics_leave_out_what_is_missing() -> None:
    nothing = np.full(4, np.nan)
    metrics = epoch_metrics(
        {
            "loss": np.array([2.0]),
            "rows": np.array([4]),
            "expression": np.full(4, -1),
            "expression_pred": np.zeros(4, int),
            "valence": nothing,
            "valence_pred": np.zeros(4),
            "arousal": nothing,
            "arousal_pred": np.zeros(4),
        }
    )
    assert metrics == {"loss": 0.5}
    assert not any(math.isnan(value) for value in metrics.values())


class Sharded(FullyShardedDataParallel):
    """FSDP without its constructor, which needs a GPU."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.clipped: list[float] = []

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        self.clipped.append(max_norm)
        return torch.zeros(())


def test_fsdp_clips_the_gradient_itself() -> None:
    module = AffectModule(AffectModel("test_convnext", image_size=32))
    weights = list(module.parameters())
    # As on a GPU: Lightning refuses to clip for fused optimisers in mixed precision.
    optimizer = torch.optim.AdamW(weights, fused=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    whole = Sharded()
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False
    )
    module.trainer = trainer
    trainer.strategy.model = whole
    module.configure_gradient_clipping(optimizer, 2.0, "norm")
    assert whole.clipped == [2.0]
    assert all((weight.grad == 1).all() for weight in weights)
    # Without FSDP the norm of all gradients becomes the given one.
    trainer.strategy.model = module
    module.configure_gradient_clipping(optimizer, 2.0, "norm")
    squares = sum(float(weight.grad.square().sum()) for weight in weights)
    assert math.sqrt(squares) == pytest.approx(2.0, rel=1e-4)
    assert whole.clipped == [2.0]


@pytest.fixture
def one_process() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
@pytest.mark.parametrize("sharded", [False, True])
def test_fsdp_gives_every_weight_its_own_gradient(sharded: bool) -> None:
    """With the channels of the weights last, FSDP gives the gradients to wrong weights."""
    module = AffectModule(AffectModel("test_convnext", pretrained=False, image_size=32))
    module.trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    if sharded:
        module.trainer._accelerator_connector.strategy = FSDPStrategy()
    module.setup("fit")
    convolutions = [w for w in module.model.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
    assert convolutions
    assert all(w.is_contiguous() == sharded for w in convolutions)
    plain = copy.deepcopy(module.model)
    whole = FullyShardedDataParallel(
        module.model, device_id=torch.device("cpu"), use_orig_params=True
    )
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    for model in (plain, whole):
        model(images).logits.square().sum().backward()
    apart = [
        float((one.grad - own.grad).abs().max())
        for one, own in zip(plain.parameters(), whole.module.parameters(), strict=True)
        if one.grad is not None and own.grad is not None
    ]
    assert (max(apart) < 1e-6) == sharded
