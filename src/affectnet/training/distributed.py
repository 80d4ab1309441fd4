"""The processes of a run: communication between them, seeds, signals, SLURM.

Seeds do not depend on the number of processes. On SIGTERM and SIGUSR1 a run stops so that it can be
resumed; SLURM queues it again.
"""

import hashlib
import os
import re
import signal
import subprocess
import threading
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]
from torch import Tensor, distributed

from affectnet.errors import STOP_SIGNALS, Stopped, handle_signals
from affectnet.models.affect_model import AffectOutput
from affectnet.models.losses import Output

LABELS = ("expression", "valence", "arousal", "soft")
_AGREE_EVERY: Final = 8  # steps between two exchanges among processes about received signals


def rank() -> int:
    """The number of this process in the run, 0 if it is the only one; known before they connect."""
    return int(rank_zero_only.rank or 0)  # type: ignore[attr-defined]


def alone() -> bool:
    """Whether there is no other process to communicate with."""
    connected = distributed.is_available() and distributed.is_initialized()
    return not connected or distributed.get_world_size() == 1


def wait_for_all() -> None:
    """Wait until every process of the run has called this."""
    if not alone():
        distributed.barrier()


def gather_batch(output: Output, batch: dict[str, Tensor]) -> tuple[Output, dict[str, Tensor]]:
    """Outputs and labels of the whole batch, of which every process has an equal part.

    A loss of them equals the loss of a single process: CCC is not a mean over faces, and the mean
    over the labelled ones needs their total count. Only a process's own outputs have a gradient,
    multiplied by the number of processes, because DDP averages gradients that must be summed.
    """
    if alone():
        return output, batch
    outputs = map(_gather_with_gradient, (output.logits, output.valence, output.arousal))
    gathered = AffectOutput(*outputs)
    return gathered, {name: torch.cat(_gather(batch[name])) for name in LABELS if name in batch}


def _gather_with_gradient(own: Tensor) -> Tensor:
    own = own.float()
    parts = _gather(own)
    fixed = own.detach()
    parts[distributed.get_rank()] = fixed + len(parts) * (own - fixed)
    return torch.cat(parts)


def _gather(own: Tensor) -> list[Tensor]:
    """A tensor of every process, in rank order, without gradients."""
    own = own.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    return parts


def gather_over_ranks(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all processes, in rank order."""
    if alone():
        return rows
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StopOnSignal(Callback):
    """Raise `Stopped` on a signal: at once, or between steps if several processes train together.

    The others would wait for the gradients of a process that stops alone, so all stop after the
    same step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._together = False

    def listening(self) -> AbstractContextManager[None]:
        """Handle the signals in this context; the earlier handlers are restored after it."""
        return handle_signals(self._handle)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handlers, which end the process without a message."""
        self._together = trainer.world_size > 1
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._handle)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop after this step if any process received a signal."""
        last = batch_idx + 1 == trainer.num_training_batches
        if self._together and (last or (batch_idx + 1) % _AGREE_EVERY == 0):
            received = self.received is not None
            if trainer.strategy.reduce_boolean_decision(received, all=False):
                raise Stopped(self.received or signal.SIGTERM)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The processes no longer wait for each other."""
        self._together = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self._together:
            raise Stopped(number)


def requeue() -> str:
    """Ask SLURM to queue this job again and return the outcome as a sentence.

    Outside SLURM, in interactive jobs, and in all processes but the first, it does nothing and
    returns ''.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if not job or interactive or rank():
        return ""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"[0-9_+-]+", job):
        return ""
    try:
        answer = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM could not be asked to queue job {job} again: {error}"
    if answer.returncode:
        return (
            f"SLURM refused to queue job {job} again: {answer.stderr.strip() or 'no reason given'}"
        )
    return f"SLURM queues job {job} again"
