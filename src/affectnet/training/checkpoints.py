"""The files of a run in training: one row of metrics per epoch, the last and best checkpoint."""

import csv
import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from lightning.pytorch.callbacks import EarlyStopping as early_stopping_of_lightning
from lightning.pytorch.callbacks import ModelCheckpoint as checkpoint_of_lightning
from lightning.pytorch.plugins.io import TorchCheckpointIO
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from affectnet.errors import RunError, WeightsError
from affectnet.models.affect_model import AffectModel
from affectnet.models.weights import first_line
from affectnet.run import RunFolder, write_beside
from affectnet.training.cost import PeakMemory

_AFFECT = ("valence_ccc", "arousal_ccc", "valence_rmse", "arousal_rmse")
_METRICS = ("loss", "accuracy", "balanced_accuracy", "f1_macro", *_AFFECT, "all_tasks")
COLUMNS = (
    *("epoch", "lr", "seconds"),
    *(f"{split}_{name}" for split in ("train", "val") for name in _METRICS),
)
"""The columns of `metrics.csv`; an undefined metric leaves its cell empty. `seconds` are those of
training and validation."""
SHOWN = {
    "train_loss": "loss",
    "val_loss": "val loss",
    "val_accuracy": "accuracy",
    "val_balanced_accuracy": "balanced accuracy",
    "val_valence_ccc": "CCC valence",
    "val_arousal_ccc": "arousal",
}
"""The metrics that are shown while a run is trained, and how they are called there."""


def duration(seconds: float) -> str:
    """A duration as `45 s`, `12:30` (minutes) or `3:05:00` (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class EpochLog(Checkpoint):
    """Write a row of `metrics.csv` and one line on the terminal at the end of every epoch.

    A subclass of `Checkpoint`, so that Lightning calls it after the module has logged its metrics.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.metrics: dict[str, float] = {}
        """Of the last finished epoch."""
        self._started = 0.0
        self._seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the rows of epochs after the checkpoint from which the run is resumed."""
        if trainer.is_global_zero and self.run.metrics.is_file():
            self._write([row for row in self._rows() if int(row["epoch"]) < trainer.current_epoch])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append this epoch's row."""
        seconds = time.perf_counter() - self._started
        self._seconds.append(seconds)
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.metrics = metrics
        row = {name: f"{metrics[name]:.8g}" for name in COLUMNS if name in metrics}
        row |= {"epoch": str(trainer.current_epoch), "seconds": f"{seconds:.3f}"}
        self._write([*self._rows(), row])
        text = "  ".join(
            f"{label} {metrics[name]:.3f}" for name, label in SHOWN.items() if name in metrics
        )
        if left := self.seconds_left(trainer, 1.0):
            text += f"  {duration(seconds)}, {duration(left)} left"
        # Beside the progress bar, if there is one.
        tqdm.write(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}")

    def seconds_left(self, trainer: L.Trainer, done: float) -> float | None:
        """The estimated time until the last epoch ends, None if nothing is known yet.

        `done` is the finished fraction of the current epoch.
        """
        elapsed = time.perf_counter() - self._started
        if self._seconds:
            an_epoch = sum(self._seconds) / len(self._seconds)
        elif done:
            an_epoch = elapsed / done
        else:
            return None
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch - min(done, 1.0)
        return max(0.0, epochs * an_epoch)

    def history(self) -> dict[str, NDArray[np.float64]]:
        """The columns of `metrics.csv`, each (epochs,), NaN where a cell is empty."""
        rows = self._rows()
        return {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in COLUMNS}

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


class EarlyStopping(early_stopping_of_lightning):
    """Lightning's, except that the number of epochs may change when a run is resumed."""

    def __init__(self, monitor: str, epochs: int) -> None:
        super().__init__(
            monitor, patience=epochs, mode=_mode(monitor), check_on_train_epoch_end=True
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, without the number of epochs."""
        super().load_state_dict(state_dict | {"patience": self.patience})


def stopped_early(checkpoint: dict[str, Any], epochs: int | None) -> bool:
    """Whether a run that is resumed from this checkpoint would stop before its next epoch."""
    waited = [
        state["wait_count"]
        for name, state in checkpoint.get("callbacks", {}).items()
        if name.startswith(EarlyStopping.__name__)
    ]
    return epochs is not None and max(waited, default=0) >= epochs


def _mode(monitor: str) -> str:
    return "min" if monitor.endswith(("loss", "rmse")) else "max"


def checkpoint_callbacks(log: EpochLog, monitor: str | None, keep: str) -> list[Callback]:
    """In order: the row of metrics, `best.ckpt`, `last.ckpt` (which contains the best score).

    Without a monitored metric there is no `best.ckpt`.
    """
    run = log.run
    common: dict[str, Any] = {
        "dirpath": run.checkpoints.resolve(),
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    # The mode is of no use without a metric, but distinguishes the state from that of `last`.
    every = ModelCheckpoint(filename="epoch-{epoch:03d}", save_top_k=-1, mode="max", **common)
    return [
        log,
        PeakMemory(run),
        *(
            [ModelCheckpoint(filename="best", monitor=monitor, mode=_mode(monitor), **common)]
            if monitor
            else []
        ),
        *([every] if keep == "all" else []),
        ModelCheckpoint(filename="last", save_top_k=1, every_n_epochs=1, **common),
    ]


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, validated, saved and exported in their place."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the average on the device of training; the module is still on the CPU here."""
        if stage == "fit":
            # Private, because Lightning chooses the class of the average here.
            self._average_model = Average(pl_module, trainer.strategy.root_device, self._decay)


class Average(AveragedModel):
    """Exponential moving average of weights and buffers, counted in main memory.

    PyTorch's own asks the GPU for the number of steps several times in each step and so waits for
    all its work. The decay is min(decay, (1 + n) / (10 + n)) in step n, so that the random initial
    weights are forgotten in short runs too.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device, use_buffers=True)
        self.n_averaged = torch.tensor(0)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`; the first call copies them."""
        n = int(self.n_averaged)
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        own = itertools.chain(self.module.parameters(), self.module.buffers())
        others = itertools.chain(model.parameters(), model.buffers())
        pairs = [(old.detach(), new.detach()) for old, new in zip(own, others, strict=True)]
        # All in one call: one per weight takes a GPU longer than the step. No public name.
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], weight)
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        if counts:
            torch._foreach_copy_([old for old, _ in counts], [new for _, new in counts])
        self.n_averaged += 1


def save_start(run: RunFolder, model: AffectModel) -> None:
    """Save the model before training: its architecture and the weights that stay frozen.

    A killed run can then be exported without downloading its pretrained weights again, and
    checkpoints need not repeat weights that do not change.
    """
    with write_beside(run.start) as new:
        model.save_pretrained(new)


def export_best(run: RunFolder) -> None:
    """Write `model/` from `best.ckpt`, or `last.ckpt` of a refit, unless it is up to date.

    Raises `RunError` if no epoch was finished, `WeightsError` if the checkpoint cannot be read.
    """
    saved = run.model / "config.json"
    chosen = run.best if run.best.is_file() else run.last
    if not chosen.is_file():
        if saved.is_file():
            return
        raise RunError(
            f"{run.path} has no finished epoch and no model/; train it first, or resume it with "
            "`affectnet train --resume`"
        )
    if saved.is_file() and saved.stat().st_mtime_ns >= chosen.stat().st_mtime_ns:
        return
    state = read_checkpoint(chosen)["state_dict"]
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
