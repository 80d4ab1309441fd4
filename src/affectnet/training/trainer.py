"""Lightning's Trainer, set up for a run folder."""

import logging
import sys
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from affectnet.run import RunFolder
from affectnet.training.keeping import AtomicCheckpointIO, MovingAverage, checkpoint_callbacks


def on_gpu(accelerator: str) -> bool:
    """Whether training runs on a CUDA GPU."""
    return accelerator != "cpu" and torch.cuda.is_available()


def device_settings(
    accelerator: str = "auto", devices: int | None = None, nodes: int = 1, precision: str = "32"
) -> dict[str, Any]:
    """Trainer arguments for the device; precision `auto` is bf16 where the device computes in it.

    Training gains by it (1.8 times for CVNet on a CPU with AVX512-BF16) and loses nothing, since
    the weights stay 32-bit; scores are always computed in 32 bits.
    """
    gpu = on_gpu(accelerator)
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if gpu else _cpu_computes_in_bf16()
        precision = "bf16" if has_bf16 else "32"
    return {
        "accelerator": accelerator,
        "devices": devices or ("auto" if gpu else 1),
        "num_nodes": nodes,
        "precision": {"32": "32-true", "bf16": "bf16-mixed"}[precision],
        "enable_progress_bar": sys.stderr.isatty(),
    }


def _cpu_computes_in_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())


def make_trainer(
    run: RunFolder,
    *,
    epochs: int,
    monitor: str,
    keep: str = "last",
    ema: float | None = None,
    clip_norm: float | None = None,
    **devices: Any,
) -> L.Trainer:
    """A Trainer that keeps everything in `run` and takes no sampler of its own."""
    quiet_lightning()
    return L.Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger(run.tensorboard.parent, name="", version=run.tensorboard.name),
        callbacks=[
            *([MovingAverage(ema)] if ema else []),
            *checkpoint_callbacks(run, monitor, keep),
        ],
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=clip_norm,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        deterministic="warn",
        **devices,
    )


def quiet_lightning() -> None:
    """Keep Lightning's hints about loaders and devices off the user's terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*Checkpoint directory.*exists and is not empty.*",
        r".*Consider setting `persistent_workers=True`.*",
        r".*The number of training batches.*is smaller than the logging interval.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*module\(s\) in eval mode at the start of training.*",
        r".*deterministic.*",
    ):
        warnings.filterwarnings("ignore", message=message)
