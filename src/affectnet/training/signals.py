"""SIGTERM and SIGUSR1: the run stops where it can go on, and under SLURM queues itself again."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

from affectnet.errors import Stopped

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""What clusters send before they take a machine away."""

_AGREE_EVERY: Final = 8
"""Steps between two questions among processes whether one of them was told to stop."""


class StopOnSignal(Callback):
    """Raise `Stopped` on a signal: at once, or between steps where processes train together.

    A process that left alone would keep the others waiting for its gradients, so that all of them
    leave after the same step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._together = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals meanwhile; the earlier handlers come back after."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from Lightning, which would end the process without a word."""
        self._together = trainer.world_size > 1
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Leave after this step where any process was told to stop."""
        last = batch_idx + 1 == trainer.num_training_batches
        if self._together and (last or (batch_idx + 1) % _AGREE_EVERY == 0):
            told = self.received is not None
            if trainer.strategy.reduce_boolean_decision(told, all=False):
                raise Stopped(self.received or signal.SIGTERM)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here each process goes its own way."""
        self._together = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self._together:
            raise Stopped(number)


def rank() -> int:
    """This process's number among those of a run, 0 where it is alone; known before they join."""
    return int(rank_zero_only.rank or 0)  # type: ignore[attr-defined]


def requeue() -> str:
    """Ask SLURM to queue this job again, from one process of it; say what came of it.

    Outside SLURM, in an interactive job, and in every process but the first, nothing happens and
    the answer is empty.
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
        asked = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM was not asked to queue job {job} again: {error}"
    if asked.returncode:
        return f"SLURM would not queue job {job} again: {asked.stderr.strip() or 'no reason given'}"
    return f"SLURM queues job {job} again"
