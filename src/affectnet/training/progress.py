"""What a person sees of a training: the banner, the progress bar, and the pictures of the run."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from torch import Tensor

from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder
from affectnet.training.checkpoints import SHOWN, EpochLog, duration
from affectnet.training.loggers import log_picture

_SHOWN_FACES: Final = 32
_DRAWING_SHARE: Final = 0.05  # of the time that drawing the learning curves may take, at most


def banner(
    device: str,
    model: AffectModel,
    faces: Mapping[str, Counter[str]],
    settings: Mapping[str, Any],
    folder: Path,
) -> str:
    """The lines that are printed when a training starts.

    Args:
        device: in words.
        model: backbone, size and parameters are stated.
        faces: of each split, by class.
        settings: that differ from the defaults.
        folder: of the run.
    """
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    size = model.preprocessing.size
    heads = "" if trained == parameters else f", {trained:,} of them trained"
    lines = [
        ("device", device),
        ("model", f"{model.backbone_name}, {size} px, {parameters:,} parameters{heads}"),
        *(
            (
                split,
                f"{counts.total():,} faces: "
                + ", ".join(f"{number:,} {name}" for name, number in counts.items()),
            )
            for split, counts in faces.items()
        ),
        ("settings", ", ".join(f"{key} {value}" for key, value in settings.items()) or "defaults"),
        ("folder", str(folder)),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in lines)


class Bar(TQDMProgressBar):
    """Lightning's bar; counts epochs from 1 and shows loss, validation metrics and the time left.

    Args:
        loss: returns the mean loss of the last steps, None at the start. Reading it from a GPU in
            every step would make the GPU wait.
        log: its metrics and times are shown.
    """

    def __init__(self, loss: Callable[[], float | None], log: EpochLog) -> None:
        super().__init__()
        self._loss = loss
        self._log = log

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start the bar of an epoch; Lightning's would count from 0."""
        self.train_progress_bar.reset(self.total_train_batches)
        self.train_progress_bar.initial = 0
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the bar."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.val_progress_bar.set_description("validation")

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What the bar shows."""
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if (loss := self._loss()) is not None:
            shown["loss"] = f"{loss:.3f}"
        latest = self._log.metrics
        for name in ("val_balanced_accuracy", "val_valence_ccc", "val_arousal_ccc"):
            if name in latest:
                shown[SHOWN[name]] = f"{latest[name]:.3f}"
        done = self.train_progress_bar.n / (self.train_progress_bar.total or 1)
        if (left := self._log.seconds_left(trainer, done)) is not None:
            shown["time left"] = duration(left)
        return shown


class Pictures(Checkpoint):
    """Draw `train_batch.jpg`, augmented faces with labels, and `curves.png` after each epoch.

    The curves are drawn less often where epochs are so short that drawing would take over 5% of the
    time. A subclass of `Checkpoint`, so that Lightning calls it after `EpochLog`.
    """

    def __init__(self, run: RunFolder, log: EpochLog) -> None:
        self.run = run
        self._log = log
        self._seen = False
        self._due = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first batch of the run."""
        first, self._seen = not self._seen, True
        if not (first and trainer.is_global_zero and "image" in batch and not trainer.global_step):
            return
        from affectnet import figures

        # Drawn by seed, epoch and batch: augmenting it once more changes nothing.
        images, labels = pl_module.augmented(batch, batch_idx)
        some = slice(_SHOWN_FACES)
        pixels = (images[some].float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        shares = bool(pl_module.mixing) or bool(pl_module.losses.get("soft"))
        texts = label_texts({n: value[some] for n, value in labels.items()}, shares)
        figure = figures.training_batch(pixels, texts)
        self._save(trainer, figure, "train_batch", "jpg")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves, unless they were drawn too recently."""
        if trainer.is_global_zero and time.monotonic() >= self._due:
            self._draw_curves(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves of all epochs."""
        if trainer.is_global_zero:
            self._draw_curves(trainer)

    def _draw_curves(self, trainer: L.Trainer) -> None:
        from affectnet import figures

        started = time.monotonic()
        curves = figures.learning_curves({self.run.name: self._log.history()})
        self._save(trainer, curves, "curves", "png")
        now = time.monotonic()
        self._due = now + (now - started) / _DRAWING_SHARE

    def _save(self, trainer: L.Trainer, figure: Any, name: str, kind: str) -> None:
        from affectnet import figures

        (file,) = figures.save_figure(figure, self.run.path, name, (kind,), dpi=150)
        for logger in trainer.loggers:
            log_picture(logger, name, file, trainer.global_step)


def label_texts(labels: Mapping[str, Tensor], shares: bool) -> list[str]:
    """The labels of a batch in words, as training uses them.

    Args:
        labels: as in `Batch`, after mixing.
        shares: whether it uses the class shares `soft`; the two largest are stated then.
    """
    texts = []
    columns = (labels[name].tolist() for name in ("expression", "valence", "arousal", "soft"))
    for expression, valence, arousal, soft in zip(*columns, strict=True):
        if shares and not any(map(math.isnan, soft)):
            largest = sorted(zip(soft, EXPRESSIONS, strict=False), reverse=True)[:2]
            lines = [f"{name} {share:.0%}" for share, name in largest if share > 0.005]
        else:
            lines = [EXPRESSIONS[expression] if expression >= 0 else "unlabelled"]
        if not (math.isnan(valence) or math.isnan(arousal)):
            lines.append(f"V{valence:+.2f} A{arousal:+.2f}")
        texts.append("\n".join(lines))
    return texts
