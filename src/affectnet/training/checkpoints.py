"""The files of a run in training: one row of metrics per epoch, the last and best checkpoint."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from lightning.pytorch.callbacks import ModelCheckpoint as checkpoint_of_lightning
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from affectnet.errors import RunError, WeightsError
from affectnet.models.affect_model import AffectModel
from affectnet.models.weights import first_line
from affectnet.run import RunFolder, write_beside
from affectnet.training.cost import PeakMemory

_AFFECT = ("valence_ccc", "arousal_ccc", "valence_rmse", "arousal_rmse")
_METRICS = ("loss", "accuracy", "balanced_accuracy", "f1_macro", *_AFFECT, "all_tasks")
COLUMNS = ("epoch", "lr", *(f"{split}_{name}" for split in ("train", "val") for name in _METRICS))
"""The columns of `metrics.csv`; an undefined metric leaves its cell empty."""


class EpochLog(Checkpoint):
    """Write a row of `metrics.csv` and one line on the terminal at the end of every epoch.

    A subclass of `Checkpoint`, so that Lightning calls it after the module has logged its metrics.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the rows of epochs after the checkpoint from which the run is resumed."""
        if trainer.is_global_zero and self.run.metrics.is_file():
            self._write([row for row in self._rows() if int(row["epoch"]) < trainer.current_epoch])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append this epoch's row."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {name: f"{metrics[name]:.8g}" for name in COLUMNS if name in metrics}
        row["epoch"] = str(trainer.current_epoch)
        self._write([*self._rows(), row])
        shown = ("train_loss", "val_loss", "val_accuracy", "val_valence_ccc", "val_arousal_ccc")
        text = "  ".join(
            f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in shown if name in metrics
        )
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}", flush=True)

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
    """Write each checkpoint next to its final path, then rename it.

    Lightning writes to the system's temporary folder first, from where moving may be a copy: a full
    disk or a kill during that copy would destroy the existing checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` at `path`; an existing one is replaced when the new one is complete.

        Raises `RunError` if it cannot be written, as on a full disk.
        """
        try:
            with write_beside(Path(path)) as new:
                torch.save(checkpoint, new)
        except (OSError, RuntimeError) as error:
            # PyTorch's error for a full disk does not mention the disk.
            reason = getattr(error, "strerror", None) or "writing failed: is the disk full?"
            before = "the previous one is intact; " if Path(path).is_file() else ""
            raise RunError(
                f"the checkpoint {path} could not be written ({reason}); {before}free space on the "
                "disk or raise the quota, then continue with `affectnet train --resume`"
            ) from error


class ModelCheckpoint(checkpoint_of_lightning):
    """Lightning's, but the run folder may have been moved since the checkpoint was saved.

    Otherwise it would forget the best score, and the next epoch would replace `best.ckpt`. Of the
    same name, since the state in a checkpoint is found by it.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, with the paths in this folder."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: moved(state_dict[name]) for name in names}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            state_dict | paths | {"best_k_models": best, "dirpath": str(self.dirpath)}
        )


def checkpoint_callbacks(run: RunFolder, monitor: str, keep: str) -> list[Callback]:
    """In order: the row of metrics, `best.ckpt`, `last.ckpt` (which contains the best score)."""
    mode = "min" if monitor.endswith(("loss", "rmse")) else "max"
    common: dict[str, Any] = {
        "dirpath": run.checkpoints.resolve(),
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    every = ModelCheckpoint(filename="epoch-{epoch:03d}", save_top_k=-1, **common)
    return [
        EpochLog(run),
        PeakMemory(run),
        ModelCheckpoint(filename="best", monitor=monitor, mode=mode, **common),
        *([every] if keep == "all" else []),
        ModelCheckpoint(filename="last", save_top_k=1, every_n_epochs=1, **common),
    ]


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, validated, saved and exported in their place."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=averaging(decay))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the average on the device of training; the module is still on the CPU here."""
        # Private, because the device is not yet known when Lightning wants it in the constructor.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


def averaging(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """The `multi_avg_fn` of `AveragedModel` for an exponential moving average.

    The decay is min(decay, (1 + n) / (10 + n)) in step n, so that the random initial weights are
    forgotten in short runs too.
    """

    # All weights of one type in one call: one call per weight, each asking the GPU for the number
    # of steps, takes a GPU longer than the training step. `torch._foreach_*` has no public name.
    def average(old: list[Tensor], new: list[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if old[0].is_floating_point():
            torch._foreach_lerp_(old, new, weight)
        else:
            torch._foreach_copy_(old, new)

    return average


def save_start(run: RunFolder, model: AffectModel) -> None:
    """Save the model before training: its architecture and the weights that stay frozen.

    A killed run can then be exported without downloading its pretrained weights again, and
    checkpoints need not repeat weights that do not change.
    """
    with write_beside(run.start) as new:
        model.save_pretrained(new)


def export_best(run: RunFolder) -> None:
    """Write `model/` from `best.ckpt`, unless it is up to date.

    Raises `RunError` if no epoch was finished, `WeightsError` if the checkpoint cannot be read.
    """
    saved = run.model / "config.json"
    if not run.best.is_file():
        if saved.is_file():
            return
        raise RunError(
            f"{run.path} has no finished epoch and no model/; train it first, or resume it with "
            "`affectnet train --resume`"
        )
    if saved.is_file() and saved.stat().st_mtime_ns >= run.best.stat().st_mtime_ns:
        return
    state = read_checkpoint(run.best)["state_dict"]
    model = AffectModel.from_pretrained(run.start if run.start.is_dir() else run.model)
    weights = model.state_dict()
    weights |= {n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    with write_beside(run.model) as new:
        model.save_pretrained(new)
        card = run.model / "README.md"
        if card.is_file():  # the user may have edited it
            shutil.copy(card, new)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU; pickles of more than plain data are refused.

    Raises `RunError` if there is none, `WeightsError` if it cannot be read.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist: the run has no finished epoch; train it first")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} is not a checkpoint of affectnet: {first_line(error)}"
        ) from error
    return checkpoint
