"""The LightningModule: augmentation, forward pass, losses, optimiser, metrics of each epoch."""

from collections import defaultdict
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from affectnet.data.augment import Mixing, augment, mix, normalise, step_generator, to_float
from affectnet.data.augmentation import Augmentation
from affectnet.data.dataset import Batch
from affectnet.evaluation.metrics import (
    accuracy,
    affect_metrics,
    balanced_accuracy,
    confusion_matrix,
    f1_macro,
    none_if_undefined,
)
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.losses import affect_loss
from affectnet.training.distillation import Distillation
from affectnet.training.distributed import derived_seed, gather_batch, gather_over_ranks
from affectnet.training.optimisation import Optimisation, Unfreezing, decayed_weights

BACKBONE: Final = "model.backbone."  # prefix of the backbone's weights in a checkpoint


class AffectModule(L.LightningModule):
    """Trains an `AffectModel` on the batches of an `AffectDataModule`.

    Args:
        model: backbone and heads.
        augmentation: of the training images.
        optimisation: optimiser and schedule.
        losses: keyword arguments for `affect_loss` (class weights, smoothing, task weights).
        mixing: mixup and CutMix of the training batches.
        unfreezing: which layers are trained in which epoch.
        distillation: teachers, if any.
        learned_weights: learn the weights of the three tasks (`log_variances` of `affect_loss`).
        schedule_epochs: that the schedule is planned for; those of the Trainer if None.
        seed: with epoch and batch it determines augmentation, dropout and stochastic depth, so that
            an epoch does not depend on earlier ones and resuming repeats it exactly.
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
        schedule_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Convolutions are faster with the channels last, on GPUs and CPUs.
        self.model = model.to(memory_format=torch.channels_last)
        self.augmentation = augmentation or Augmentation()
        self.optimisation = optimisation or Optimisation()
        self.losses = losses or {}
        self._train_loss = affect_loss
        self.mixing = mixing or Mixing()
        self.unfreezing = unfreezing or Unfreezing()
        if distillation is not None:
            distillation.check(model)
            for teacher in distillation.teachers:
                teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        # In a tuple, so that the teachers are not submodules and not in checkpoints.
        self._distillation = (distillation,)
        self.log_variances = nn.Parameter(torch.zeros(3)) if learned_weights else None
        self._decayed = decayed_weights(model)
        self.schedule_epochs = schedule_epochs
        self.seed = seed
        # Predictions and targets of the current epoch.
        self._epoch: dict[str, dict[str, list[Tensor]]] = {"train": {}, "val": {}}
        self._collected = -1  # the last batch among them

    def compile_parts(self, mode: str | None = None) -> None:
        """Compile the model (`torch.compile`'s `mode`) and the losses of training.

        In place, which does not change the names of the weights in checkpoints.
        """
        self.model.compile(mode=mode)
        self._train_loss = torch.compile(affect_loss)

    def setup(self, stage: str) -> None:
        """Order the weights as FSDP needs them: with the channels last, each gets wrong gradients.

        FSDP reads the weights in the order of memory and the gradients in that of the indices.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy):
            self.model.to(memory_format=torch.contiguous_format)

    def on_fit_start(self) -> None:
        """Move the tensors of the losses and the teachers to the model's device."""
        self.losses = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.losses.items()
        }
        (distillation,) = self._distillation
        for teacher in distillation.teachers if distillation else ():
            teacher.to(self.device)

    def forward(self, images: Tensor) -> AffectOutput:
        """Run the model on uint8 RGB images of shape (B, 3, S, S)."""
        return self._run_model(to_float(images))

    def _run_model(self, images: Tensor) -> AffectOutput:
        prep = self.model.preprocessing
        # CUDA graphs (--compile-mode reduce-overhead) use the memory of the outputs again.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        output: AffectOutput = self.model(normalise(images, prep.mean, prep.std))
        return output

    def on_train_epoch_start(self) -> None:
        """Seed dropout and stochastic depth by (seed, epoch, rank); choose the trained layers."""
        if self.unfreezing.head_epochs:
            layers = self.model.layers
            self.model.freeze_below(self.unfreezing.first_layer(self.current_epoch, layers))
        torch.manual_seed(derived_seed(self.seed, "layers", self.current_epoch, self.global_rank))
        self._epoch["train"] = defaultdict(list)
        self._collected = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        images = None
        labels = batch
        if "features" in batch:
            output = self.model.heads(batch["features"])
        else:
            images, labels = self.augmented(batch, batch_idx)
            output = self._run_model(images)
        settings = {**self.losses, "soft": True} if self.mixing else self.losses
        everyone = gather_batch(output, labels)
        loss = self._train_loss(*everyone, **settings, log_variances=self.log_variances)["loss"]
        if batch_idx != self._collected:  # SAM computes every batch twice
            self._collected = batch_idx
            self._collect("train", batch, output)
            # Every rank has the loss of the whole batch, weighted here by its own rows.
            self._epoch["train"]["loss"].append(loss.detach().float() * len(batch["index"]))
            self._epoch["train"]["rows"].append(torch.tensor(len(batch["index"])))
        (distillation,) = self._distillation
        if distillation is not None and images is not None:
            targets = distillation.targets(images, self.current_epoch, **self._place(len(images)))
            distilled = distillation.loss(output, targets)
            loss = (1 - distillation.weight) * loss + distillation.weight * distilled
        return loss * self._accumulation_factor(batch_idx)

    def augmented(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Batch]:
        """Augmented images, 0 to 1, and their labels, mixed if set.

        Random numbers are drawn for the whole batch, of which a process uses its part: the number
        of processes changes nothing.
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
        """The position of this process's rows in the batch of all processes."""
        return {"first": self.global_rank * rows, "of": self.trainer.world_size * rows}

    def _accumulation_factor(self, batch_idx: int) -> float:
        """The factor that corrects accumulated gradients in an epoch's last, shorter window.

        Lightning always divides by the number of batches of a full window.
        """
        window = self.trainer.accumulate_grad_batches
        batches = int(self.trainer.num_training_batches)
        rest = batches % window
        return window / rest if rest and batch_idx >= batches - rest else 1.0

    def on_validation_epoch_start(self) -> None:
        """Forget the predictions of the last epoch."""
        self._epoch["val"] = defaultdict(list)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the predictions of one batch for the epoch's metrics."""
        output = (
            self.model.heads(batch["features"]) if "features" in batch else self(batch["image"])
        )
        self._collect("val", batch, output)
        self._epoch["val"]["logits"].append(_copied(output.logits))
        self._epoch["val"]["soft"].append(batch["soft"])

    def on_validation_epoch_end(self) -> None:
        """Log `val_*`: metrics of the whole split, every face once."""
        self._log_metrics("val")

    def on_train_epoch_end(self) -> None:
        """Log `train_*` (of augmented images, while the weights changed) and the learning rate."""
        self._log_metrics("train")
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
        """Leave out a frozen backbone, which is in the run's `checkpoints/start`."""
        if self.model.frozen:
            for states in ("state_dict", "current_model_state"):
                for name in [n for n in checkpoint.get(states, ()) if n.startswith(BACKBONE)]:
                    del checkpoint[states][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen backbone of this model back."""
        if self.model.frozen:
            own = {n: v for n, v in self.state_dict().items() if n.startswith(BACKBONE)}
            for states in ("state_dict", "current_model_state"):
                if states in checkpoint:
                    checkpoint[states] = own | checkpoint[states]

    def configure_optimizers(self) -> Any:
        """The optimiser of `optimisation`, and its rates for every step."""
        optimisation = self.optimisation
        task_weights = [] if self.log_variances is None else [self.log_variances]
        optimizer = optimisation.create(self.model, task_weights, self._decayed)
        epochs = int(self.trainer.max_epochs or 1)
        steps_per_epoch = max(int(self.trainer.estimated_stepping_batches) // epochs, 1)
        epochs = self.schedule_epochs or epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: optimisation.factor(step / steps_per_epoch, epochs)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradient; of a model whose parts are on several GPUs, through FSDP.

        Each process knows the norm of its own part only.
        """
        # Not `clip_gradients` of Lightning, which refuses fused optimisers in mixed precision: they
        # can undo a scaling of the gradient, which bf16 does not need.
        if not gradient_clip_val:
            return
        whole = self.trainer.strategy.model
        if isinstance(whole, FullyShardedDataParallel):
            whole.clip_grad_norm_(gradient_clip_val)
        else:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, gradient_clip_val)

    def _collect(self, stage: str, batch: Batch, output: AffectOutput) -> None:
        seen = self._epoch[stage]
        # On the device, copied once per epoch: a copy in every step would wait for the GPU.
        seen["expression_pred"].append(output.logits.detach().argmax(dim=1))
        seen["valence_pred"].append(_copied(output.valence))
        seen["arousal_pred"].append(_copied(output.arousal))
        for name in ("expression", "valence", "arousal"):
            seen[name].append(batch[name])

    def _log_metrics(self, stage: str) -> None:
        seen = {
            name: torch.stack(parts) if parts[0].ndim == 0 else torch.cat(parts)
            for name, parts in self._epoch[stage].items()
        }
        self._epoch[stage] = {}
        rows = gather_over_ranks({name: part.cpu().numpy() for name, part in seen.items()})
        if stage == "val":
            rows |= self._loss_of_split(rows)
        for name, value in epoch_metrics(rows).items():
            # Equal on every rank, since every rank has gathered all rows.
            self.log(f"{stage}_{name}", value, sync_dist=False)

    @torch.no_grad()
    def _loss_of_split(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The loss of a whole split at once, because CCC is not a mean over batches."""
        values = {name: torch.from_numpy(value).to(self.device) for name, value in rows.items()}
        output = AffectOutput(values["logits"], values["valence_pred"], values["arousal_pred"])
        n = len(rows["expression"])
        loss = affect_loss(output, values, **self.losses, log_variances=self.log_variances)["loss"]
        return {
            "loss": loss.float().cpu().numpy()[None] * n,
            "rows": np.array([n]),
        }


def _copied(output: Tensor) -> Tensor:
    """An output to keep beyond this step; CUDA graphs use its memory again in the next one."""
    return output.detach().to(torch.float32, copy=True)


def epoch_metrics(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Loss, accuracies, macro F1, CCC and RMSE of valence and arousal, without undefined ones.

    `all_tasks` is the mean of balanced accuracy, CCC of valence and CCC of arousal: each is 1 for
    perfect predictions, and does not depend on how frequent the classes are.

    Args:
        rows: `expression` (-1 where missing), `valence`, `arousal` (NaN where missing), the same
            with `_pred`, each of shape (N,); `loss` summed over each batch, `rows` of each batch.
    """
    metrics: dict[str, float | None] = {"loss": float(rows["loss"].sum() / rows["rows"].sum())}
    labelled = rows["expression"] >= 0
    if labelled.any():
        target, preds = rows["expression"][labelled], rows["expression_pred"][labelled]
        confusion = confusion_matrix(target, preds)
        for metric in (accuracy, balanced_accuracy, f1_macro):
            metrics[metric.__name__] = none_if_undefined(metric(confusion))
    for name in ("valence", "arousal"):
        known = np.isfinite(rows[name])
        if known.any():
            affect = affect_metrics(rows[name][known], rows[f"{name}_pred"][known])
            metrics |= {f"{name}_{metric}": affect[metric] for metric in ("ccc", "rmse")}
    tasks = [metrics.get(name) for name in ("balanced_accuracy", "valence_ccc", "arousal_ccc")]
    known = [value for value in tasks if value is not None]
    if len(known) == len(tasks):
        metrics["all_tasks"] = float(np.mean(known))
    return {name: value for name, value in metrics.items() if value is not None}
