"""The thin LightningModule: augment, forward, losses, optimiser, and the figures of an epoch."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from affectnet.data.augment import augment, normalise, step_generator, to_float
from affectnet.data.augmentation import Augmentation
from affectnet.data.dataset import Batch
from affectnet.evaluation import metrics
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.losses import affect_loss
from affectnet.training.seeds import derived_seed

BACKBONE: Final = "model.backbone."
"""What the backbone's weights are called in a checkpoint."""


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule; the units are those of `affectnet train --help`."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_size: int = 40
    gamma: float = 0.1
    warmup_epochs: float = 0.5

    def factor(self, epoch: float, epochs: int) -> float:
        """Learning rate as a share of the peak, `epoch` (fractional) epochs into `epochs`.

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


class AffectModule(L.LightningModule):
    """Trains an `AffectModel` on the batches of an `AffectDataModule`.

    Args:
        model: backbone and heads.
        augmentation: drawn anew for every face of every training batch.
        optimisation: optimiser and schedule.
        losses: keyword arguments for `affect_loss` (class weights, smoothing, task weights).
        seed: with the epoch and the batch it decides augmentation, dropout and stochastic depth,
            so an epoch does not depend on the ones before it, and resuming repeats it exactly.
    """

    def __init__(
        self,
        model: AffectModel,
        *,
        augmentation: Augmentation | None = None,
        optimisation: Optimisation | None = None,
        losses: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Convolutions are faster with the channels innermost, on GPUs and on CPUs.
        self.model = model.to(memory_format=torch.channels_last)
        self.augmentation = augmentation or Augmentation()
        self.optimisation = optimisation or Optimisation()
        self.losses = losses or {}
        self.seed = seed
        self._seen: dict[str, dict[str, list[Tensor]]] = {"train": {}, "val": {}}

    def on_fit_start(self) -> None:
        """Bring the class weights and counts of the losses to the model's device."""
        self.losses = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.losses.items()
        }

    def forward(self, images: Tensor) -> AffectOutput:
        """Run the model on uint8 RGB images of shape (B, 3, S, S)."""
        prep = self.model.preprocessing
        output: AffectOutput = self.model(normalise(to_float(images), prep.mean, prep.std))
        return output

    def on_train_epoch_start(self) -> None:
        """Tie dropout and stochastic depth to (seed, epoch, rank) alone."""
        torch.manual_seed(derived_seed(self.seed, "layers", self.current_epoch, self.global_rank))
        self._seen["train"] = defaultdict(list)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        if "features" in batch:
            output = self.model.heads(batch["features"])
        else:
            # The draws of the whole batch, of which a process takes its part: the number of
            # processes changes nothing.
            rows = len(batch["image"])
            images = augment(
                batch["image"],
                self.augmentation,
                step_generator(self.seed, self.current_epoch, batch_idx),
                first=self.global_rank * rows,
                of=self.trainer.world_size * rows,
            )
            prep = self.model.preprocessing
            output = self.model(normalise(images, prep.mean, prep.std, inplace=True))
        losses = affect_loss(output, batch, **self.losses)
        self._keep("train", batch, output, losses)
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        """Start the validation figures afresh."""
        self._seen["val"] = defaultdict(list)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep losses and predictions of one batch for the epoch's figures."""
        output = (
            self.model.heads(batch["features"]) if "features" in batch else self(batch["image"])
        )
        self._keep("val", batch, output, affect_loss(output, batch, **self.losses))

    def on_validation_epoch_end(self) -> None:
        """Log `val_*`: figures over the whole split, every face once."""
        self._log_figures("val")

    def on_train_epoch_end(self) -> None:
        """Log `train_*` (seen under augmentation, while the weights moved) and the rate."""
        self._log_figures("train")
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return row index, class probabilities, valence and arousal on the CPU."""
        output = self(batch["image"])
        return {
            "index": batch["index"].cpu(),
            "probabilities": output.logits.float().softmax(dim=1).cpu(),
            "valence": output.valence.float().cpu(),
            "arousal": output.arousal.float().cpu(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen backbone out: the run's `checkpoints/start` holds it once for all."""
        if self.model.frozen:
            for states in ("state_dict", "current_model_state"):
                for name in [n for n in checkpoint.get(states, ()) if n.startswith(BACKBONE)]:
                    del checkpoint[states][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen backbone back, as it stands in this model."""
        if self.model.frozen:
            own = {n: v for n, v in self.state_dict().items() if n.startswith(BACKBONE)}
            for states in ("state_dict", "current_model_state"):
                if states in checkpoint:
                    checkpoint[states] = own | checkpoint[states]

    def configure_optimizers(self) -> Any:
        """Adam, AdamW or SGD over the trainable weights, the rate set anew every step."""
        chosen = self.optimisation
        trainable = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": chosen.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer: torch.optim.Optimizer
        if chosen.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=chosen.lr, momentum=0.9, nesterov=True)
        else:
            kind = torch.optim.AdamW if chosen.optimizer == "adamw" else torch.optim.Adam
            optimizer = kind(groups, lr=chosen.lr)
        epochs = int(self.trainer.max_epochs or 1)
        steps_per_epoch = max(int(self.trainer.estimated_stepping_batches) // epochs, 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: chosen.factor(step / steps_per_epoch, epochs)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _keep(
        self, stage: str, batch: Batch, output: AffectOutput, losses: dict[str, Tensor]
    ) -> None:
        seen = self._seen[stage]
        rows = len(batch["index"])
        # Kept on the device, copied once an epoch: a copy a step would wait for the GPU.
        seen["loss"].append(losses["loss"].detach().float() * rows)
        seen["rows"].append(torch.tensor(rows))
        seen["expression_pred"].append(output.logits.detach().argmax(dim=1))
        seen["valence_pred"].append(output.valence.detach().float())
        seen["arousal_pred"].append(output.arousal.detach().float())
        for name in ("expression", "valence", "arousal"):
            seen[name].append(batch[name])

    def _log_figures(self, stage: str) -> None:
        seen = {
            name: torch.stack(parts) if parts[0].ndim == 0 else torch.cat(parts)
            for name, parts in self._seen[stage].items()
        }
        self._seen[stage] = {}
        rows = gather_over_ranks({name: part.cpu().numpy() for name, part in seen.items()})
        for name, value in epoch_figures(rows).items():
            # Equal on every rank already, since every rank gathered all rows.
            self.log(f"{stage}_{name}", value, sync_dist=False, prog_bar=name == "accuracy")


def epoch_figures(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Loss, accuracy, macro F1, and CCC and RMSE of valence and arousal; undefined ones left out.

    Args:
        rows: `expression` (-1 where missing), `valence`, `arousal` (NaN where missing), the same
            with `_pred`, each of shape (N,); `loss` summed over each batch, `rows` of each batch.
    """
    figures: dict[str, float | None] = {"loss": float(rows["loss"].sum() / rows["rows"].sum())}
    labelled = rows["expression"] >= 0
    if labelled.any():
        truth, preds = rows["expression"][labelled], rows["expression_pred"][labelled]
        figures["accuracy"] = float((truth == preds).mean())
        figures["f1_macro"] = metrics.f1_macro(truth, preds)
    for name in ("valence", "arousal"):
        known = np.isfinite(rows[name])
        if known.any():
            truth, preds = rows[name][known], rows[f"{name}_pred"][known]
            figures[f"{name}_ccc"] = metrics.ccc(truth, preds)
            figures[f"{name}_rmse"] = metrics.rmse(truth, preds)
    return {name: value for name, value in figures.items() if value is not None}


def gather_over_ranks(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all ranks, in rank order; the rows themselves where alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}
