"""What a run keeps while it trains: a row an epoch, the last and the best checkpoint."""

import csv
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, WeightAveraging
from torch import Tensor

from affectnet.errors import RunError, WeightsError
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder, write_beside
from affectnet.training.cost import PeakMemory

COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_accuracy",
    "train_f1_macro",
    "train_valence_ccc",
    "train_arousal_ccc",
    "train_valence_rmse",
    "train_arousal_rmse",
    "val_loss",
    "val_accuracy",
    "val_f1_macro",
    "val_valence_ccc",
    "val_arousal_ccc",
    "val_valence_rmse",
    "val_arousal_rmse",
)
"""The columns of `metrics.csv`; a figure that is undefined leaves its cell empty."""


class EpochLog(Checkpoint):
    """Write a row of `metrics.csv` and one line on the terminal at the end of every epoch.

    A `Checkpoint` by kind, so that Lightning runs it after the module has logged its figures.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop rows of epochs that the checkpoint resumed from has not seen."""
        if trainer.is_global_zero and self.run.metrics.is_file():
            kept = [row for row in self._rows() if int(row["epoch"]) < trainer.current_epoch]
            self._write(kept)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append this epoch's row."""
        if not trainer.is_global_zero:
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {name: f"{figures[name]:.8g}" for name in COLUMNS if name in figures}
        row["epoch"] = str(trainer.current_epoch)
        self._write([*self._rows(), row])
        shown = ("train_loss", "val_loss", "val_accuracy", "val_valence_ccc", "val_arousal_ccc")
        said = "  ".join(
            f"{name.replace('_', ' ')} {figures[name]:.4f}" for name in shown if name in figures
        )
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {said}", flush=True)

    def _rows(self) -> list[dict[str, str]]:
        if not self.run.metrics.is_file():
            return []
        with self.run.metrics.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        with write_beside(self.run.metrics) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its place, then rename it.

    Lightning's own writes to the system's temporary folder first, where the move may be a copy: a
    full disk or a kill during that copy would cost the checkpoint that stood there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`; the one that stood there lives until this one is whole.

        Raises:
            RunError: when it cannot be written, as on a full disk.
        """
        try:
            with write_beside(Path(path)) as new:
                torch.save(checkpoint, new)
        except (OSError, RuntimeError) as error:
            # PyTorch's writer tells a full disk as a fault of its own, which says nothing of disks.
            reason = getattr(error, "strerror", None) or "writing broke off: is the disk full?"
            before = "the one before it is whole; " if Path(path).is_file() else ""
            raise RunError(
                f"the checkpoint {path} could not be written ({reason}); {before}make room on the "
                "disk or raise the quota, then go on with `affectnet train --resume`"
            ) from error


def checkpoint_callbacks(run: RunFolder, monitor: str, keep: str) -> list[Callback]:
    """The epoch's row first, then `best.ckpt`, then `last.ckpt` (which knows the best score)."""
    folder = run.checkpoints.resolve()
    smaller = monitor.endswith(("loss", "rmse"))
    common: dict[str, Any] = {
        "dirpath": folder,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    every = ModelCheckpoint(filename="epoch-{epoch:03d}", save_top_k=-1, **common)
    return [
        EpochLog(run),
        PeakMemory(run),
        ModelCheckpoint(
            filename="best", monitor=monitor, mode="min" if smaller else "max", **common
        ),
        *([every] if keep == "all" else []),
        ModelCheckpoint(filename="last", save_top_k=1, every_n_epochs=1, **common),
    ]


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights: validated, saved and exported in their place.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the first n steps, so that the random
    start is forgotten within a short run too.
    """

    def __init__(self, decay: float) -> None:
        # All weights of one type in one call: a call a weight, each asking the GPU for the number
        # of steps, takes a GPU longer than the step does.
        def average(old: list[Tensor], new: list[Tensor], steps: Tensor | int) -> None:
            n = int(steps)
            weight = 1 - min(decay, (1 + n) / (10 + n))
            if old[0].is_floating_point():
                torch._foreach_lerp_(old, new, weight)
            else:
                torch._foreach_copy_(old, new)

        super().__init__(use_buffers=True, multi_avg_fn=average)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep the average where the weights will be; at this time the module is on the CPU yet."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


def keep_start(run: RunFolder, model: AffectModel) -> None:
    """Keep the model as it starts: its architecture, and the weights that will stay frozen.

    A run that is killed can then be exported without its pretrained weights being fetched again,
    and checkpoints need not repeat weights that do not change.
    """
    with write_beside(run.start) as new:
        model.save_pretrained(new)


def export_best(run: RunFolder) -> None:
    """Write `model/` from `best.ckpt`, unless the one there is of that checkpoint already.

    Raises:
        RunError: when no epoch was finished.
        WeightsError: when the checkpoint cannot be read.
    """
    saved = run.model / "config.json"
    if not run.best.is_file() and not saved.is_file():
        raise RunError(
            f"{run.path} has no finished epoch and no model/; train it first, or go on with "
            "`affectnet train --resume`"
        )
    if not run.best.is_file():
        return
    if saved.is_file() and saved.stat().st_mtime_ns >= run.best.stat().st_mtime_ns:
        return
    state = read_checkpoint(run.best)["state_dict"]
    model = AffectModel.from_pretrained(run.start if run.start.is_dir() else run.model)
    weights = model.state_dict()
    for name, value in state.items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = value
    model.load_state_dict(weights)
    with write_beside(run.model) as new:
        model.save_pretrained(new)
        card = run.model / "README.md"
        if card.is_file():  # somebody may have written in it
            shutil.copy(card, new)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours on the CPU, refusing pickles that hold more than plain data.

    Raises:
        RunError: when there is none.
        WeightsError: when it cannot be read.
    """
    if not path.is_file():
        raise RunError(f"{path} is not there: the run has no finished epoch; train it first")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a checkpoint of affectnet: {reason}") from error
    return checkpoint
