"""SIGTERM and SIGUSR1: the run stops so that it can be resumed; SLURM queues it again."""

import os
import re
import signal
import subprocess
import threading
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Final

import lightning as L
from lightning.pytorch.callbacks import Callback

from affectnet.errors import STOP_SIGNALS, Stopped, handle_signals
from affectnet.training.distributed import rank

_AGREE_EVERY: Final = 8
"""Steps between two exchanges among processes about received signals."""


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
