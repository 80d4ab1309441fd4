"""Faults that training meets on the way, told in words that say what to try: memory, and NaN."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from affectnet.errors import RunError

_LOOK_EVERY: Final = 8
"""Steps between two looks at the losses on a GPU, where each look waits for it."""
_MOST_IDS: Final = 256


@contextmanager
def memory_faults_explained(
    batch_size: int, image_size: int | None, frozen: bool
) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or the machine, into a `RunError` that says what to try.

    Raises:
        RunError: there was not enough memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        half = max(1, batch_size // 2)
        tries = [
            *([f"--batch-size {half} with twice the --accumulate"] if batch_size > 1 else []),
            "--precision bf16",
            "a smaller --image-size" + (f" than {image_size}" if image_size else ""),
            *([] if frozen else ["--freeze backbone"]),
            "--cache none",
            "more --devices, which share the batch",
        ]
        said = " ".join(str(error).split())
        raise RunError(
            f"out of memory on {where} with --batch-size {batch_size}; try {', '.join(tries)}"
            + (f" ({said[:200]})" if said else "")
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation: CUDA's, PyTorch's on the CPU, or Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return any(
        words in said
        for words in ("not enough memory", "can't allocate memory", "cannot allocate memory")
    ) or ("out of memory" in said and isinstance(error, RuntimeError))


class FiniteLoss(Callback):
    """Stop with the faces named when the loss of a step is NaN or infinite.

    The last checkpoint is of the epoch before, and stays.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Tensor, Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start afresh."""
        self._waiting = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the loss of this step; on a GPU, of the last few together."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._waiting.append((batch_idx, loss.detach(), batch["index"]))
        last = batch_idx + 1 == trainer.num_training_batches
        if loss.is_cuda and len(self._waiting) < _LOOK_EVERY and not last:
            return
        finite = torch.stack([loss for _, loss, _ in self._waiting]).isfinite().tolist()
        for good, (step, value, rows) in zip(finite, self._waiting, strict=True):
            if not good:
                raise RunError(_told(trainer, step, float(value), rows))
        self._waiting = []


def _told(trainer: L.Trainer, step: int, loss: float, rows: Tensor) -> str:
    ids = _ids(trainer, rows)
    named = ", ".join(ids[:_MOST_IDS]) + (", ..." if len(ids) > _MOST_IDS else "")
    return (
        f"the loss became {loss} in epoch {trainer.current_epoch + 1}, step {step + 1}; the faces "
        f"of that batch: {named}. Checkpoints are of the epochs before. Try a smaller --lr, "
        "--clip-norm 1, --precision 32, or --warmup-epochs 1; where it is always the same faces, "
        "look at them and their labels with `affectnet audit`"
    )


def _ids(trainer: L.Trainer, rows: Tensor) -> list[str]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    splits = getattr(getattr(data, "data", data), "splits", {})
    if "train" not in splits:
        return [f"row {row}" for row in rows.tolist()]
    ids = splits["train"].ids
    return [str(ids[row]) for row in rows.tolist()]
