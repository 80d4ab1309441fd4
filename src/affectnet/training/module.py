"""The thin LightningModule: augment, forward, losses, optimiser, and the figures of an epoch."""

from collections import defaultdict
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from affectnet.data.augment import Mixing, augment, mix, normalise, step_generator, to_float
from affectnet.data.augmentation import Augmentation
from affectnet.data.dataset import Batch
from affectnet.evaluation.metrics import (
    affect_metrics,
    confusion_matrix,
    f1_macro,
    none_if_undefined,
)
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.losses import affect_loss
from affectnet.training.distillation import Distillation
from affectnet.training.distributed import Gathered, derived_seed, gather_batch, gather_over_ranks
from affectnet.training.optimisation import Optimisation, Unfreezing, names_of_matrices

BACKBONE: Final = "model.backbone."
"""What the backbone's weights are called in a checkpoint."""


class AffectModule(L.LightningModule):
    """Trains an `AffectModel` on the batches of an `AffectDataModule`.

    Args:
        model: backbone and heads.
        augmentation: drawn anew for every face of every training batch.
        optimisation: optimiser and schedule.
        losses: keyword arguments for `affect_loss` (class weights, smoothing, task weights).
        mixing: mixup and CutMix of the training batches.
        unfreezing: which layers learn in which epoch.
        distillation: teachers, where there are any.
        learned_weights: weigh the three tasks by what the training finds (`log_variances` of
            `affect_loss`).
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
        mixing: Mixing | None = None,
        unfreezing: Unfreezing | None = None,
        distillation: Distillation | None = None,
        learned_weights: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Convolutions are faster with the channels innermost, on GPUs and on CPUs.
        self.model = model.to(memory_format=torch.channels_last)
        self.augmentation = augmentation or Augmentation()
        self.optimisation = optimisation or Optimisation()
        self.losses = losses or {}
        self.mixing = mixing or Mixing()
        self.unfreezing = unfreezing or Unfreezing()
        if distillation is not None:
            distillation.check(model)
            for teacher in distillation.teachers:
                teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        # In a tuple, the teachers are no part of this module: no checkpoint holds them.
        self._distillation = (distillation,)
        self.log_variances = nn.Parameter(torch.zeros(3)) if learned_weights else None
        self._matrices = names_of_matrices(model)
        self.seed = seed
        self._seen: dict[str, dict[str, list[Tensor]]] = {"train": {}, "val": {}}

    def on_fit_start(self) -> None:
        """Bring the class weights and counts of the losses to the model's device."""
        self.losses = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.losses.items()
        }
        for distillation in filter(None, self._distillation):
            for teacher in distillation.teachers:
                teacher.to(self.device)

    def forward(self, images: Tensor) -> AffectOutput:
        """Run the model on uint8 RGB images of shape (B, 3, S, S)."""
        prep = self.model.preprocessing
        output: AffectOutput = self.model(normalise(to_float(images), prep.mean, prep.std))
        return output

    def on_train_epoch_start(self) -> None:
        """Tie dropout and stochastic depth to (seed, epoch, rank), the layers to the epoch."""
        if self.unfreezing.head_epochs:
            layers = self.model.layers
            self.model.freeze_below(self.unfreezing.first_layer(self.current_epoch, layers))
        torch.manual_seed(derived_seed(self.seed, "layers", self.current_epoch, self.global_rank))
        self._seen["train"] = defaultdict(list)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        images = None
        labels = batch
        if "features" in batch:
            output = self.model.heads(batch["features"])
        else:
            images, labels = self._varied(batch, batch_idx)
            prep = self.model.preprocessing
            output = self.model(normalise(images, prep.mean, prep.std))
        losses = self._losses(*gather_batch(output, labels), mixed=bool(self.mixing))
        self._keep("train", batch, output)
        # The loss is the whole batch's on every rank, so each keeps it for its own rows.
        self._seen["train"]["loss"].append(losses["loss"].detach().float() * len(batch["index"]))
        self._seen["train"]["rows"].append(torch.tensor(len(batch["index"])))
        loss = losses["loss"]
        (distillation,) = self._distillation
        if distillation is not None and images is not None:
            answers = distillation.answers(images, self.current_epoch, **self._place(len(images)))
            taught = distillation.loss(output, answers)
            loss = (1 - distillation.weight) * loss + distillation.weight * taught
        return loss * self._share_of_window(batch_idx)

    def _varied(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Batch]:
        """Augmented pictures, 0 to 1, and their labels, mixed where that is asked for.

        The draws are those of the whole batch, of which a process takes its part: the number of
        processes changes nothing.
        """
        place = self._place(len(batch["image"]))
        generator = step_generator(self.seed, self.current_epoch, batch_idx)
        images = augment(batch["image"], self.augmentation, generator, **place)
        if not self.mixing:
            return images, batch
        seed = derived_seed(self.seed, "mix", self.current_epoch, batch_idx)
        soft = bool(self.losses.get("soft"))
        return mix(images, batch, self.mixing, np.random.default_rng(seed), soft=soft, **place)

    def _place(self, rows: int) -> dict[str, Any]:
        """Where this process's rows stand in the batch of all processes."""
        return {"first": self.global_rank * rows, "of": self.trainer.world_size * rows}

    def _share_of_window(self, batch_idx: int) -> float:
        """What makes gradients accumulated over the epoch's last, shorter window a mean as well.

        Lightning divides by the whole window's number of batches, whatever there are.
        """
        window = self.trainer.accumulate_grad_batches
        batches = int(self.trainer.num_training_batches)
        rest = batches % window
        return window / rest if rest and batch_idx >= batches - rest else 1.0

    def _losses(self, output: Any, batch: Batch, *, mixed: bool = False) -> dict[str, Tensor]:
        settings = {**self.losses, "soft": True} if mixed else self.losses
        return affect_loss(output, batch, **settings, log_variances=self.log_variances)

    def on_validation_epoch_start(self) -> None:
        """Start the validation figures afresh."""
        self._seen["val"] = defaultdict(list)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the predictions of one batch for the epoch's figures."""
        output = (
            self.model.heads(batch["features"]) if "features" in batch else self(batch["image"])
        )
        self._keep("val", batch, output)
        self._seen["val"]["logits"].append(output.logits.float())
        self._seen["val"]["soft"].append(batch["soft"])

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
        """The optimiser of `optimisation`, its rates set anew every step."""
        chosen = self.optimisation
        own = [] if self.log_variances is None else [self.log_variances]
        optimizer = chosen.create(self.model, own, self._matrices)
        epochs = int(self.trainer.max_epochs or 1)
        steps_per_epoch = max(int(self.trainer.estimated_stepping_batches) // epochs, 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: chosen.factor(step / steps_per_epoch, epochs)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _keep(self, stage: str, batch: Batch, output: AffectOutput) -> None:
        seen = self._seen[stage]
        # Kept on the device, copied once an epoch: a copy a step would wait for the GPU.
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
        if stage == "val":
            rows |= self._whole_loss(rows)
        for name, value in epoch_figures(rows).items():
            # Equal on every rank already, since every rank gathered all rows.
            self.log(f"{stage}_{name}", value, sync_dist=False, prog_bar=name == "accuracy")

    @torch.no_grad()
    def _whole_loss(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The loss of a whole split at once: CCC is no mean over batches."""
        values = {name: torch.from_numpy(value).to(self.device) for name, value in rows.items()}
        output = Gathered(values["logits"], values["valence_pred"], values["arousal_pred"])
        n = len(rows["expression"])
        return {
            "loss": self._losses(output, values)["loss"].float().cpu().numpy()[None] * n,
            "rows": np.array([n]),
        }


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
        figures["f1_macro"] = none_if_undefined(f1_macro(confusion_matrix(truth, preds)))
    for name in ("valence", "arousal"):
        known = np.isfinite(rows[name])
        if known.any():
            truth, preds = rows[name][known], rows[f"{name}_pred"][known]
            found = affect_metrics(truth, preds)
            figures |= {f"{name}_{metric}": found[metric] for metric in ("ccc", "rmse")}
    return {name: value for name, value in figures.items() if value is not None}
