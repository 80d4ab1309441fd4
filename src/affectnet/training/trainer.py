"""Lightning's Trainer for a run folder, and errors that say what to try: no memory, NaN."""

import copy
import logging
import math
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch import Tensor
from torch.distributed.fsdp import MixedPrecision

from affectnet.errors import ConfigError, RunError
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder
from affectnet.training.checkpoints import (
    AtomicCheckpointIO,
    EarlyStopping,
    EpochLog,
    MovingAverage,
    checkpoint_callbacks,
)
from affectnet.training.distributed import StopOnSignal
from affectnet.training.progress import Bar, Pictures

# Steps whose losses are copied from a GPU together, and read when the next ones are.
_CHECK_EVERY: Final = 8
_MOST_IDS: Final = 256  # faces that an error names, at most
_NO_MEMORY: Final = re.compile(r"(not enough|out of|can('|no)t allocate) memory", re.IGNORECASE)


@contextmanager
def explain_memory_errors(batch_size: int, image_size: int | None, frozen: bool) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or the CPU, into a `RunError` that says what to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch's are RuntimeErrors
        message = " ".join(str(error).split())
        on_device = isinstance(error, torch.OutOfMemoryError)
        if not (on_device or isinstance(error, MemoryError) or _NO_MEMORY.search(message)):
            raise
        where = "the GPU" if on_device else "this machine"
        half = max(1, batch_size // 2)
        tries = [
            *([f"--batch-size {half} with twice the --accumulate"] if batch_size > 1 else []),
            "--precision bf16",
            "a smaller --image-size" + (f" than {image_size}" if image_size else ""),
            *([] if frozen else ["--freeze backbone"]),
            "--cache none",
            "more --devices, which share the batch",
        ]
        raise RunError(
            f"out of memory on {where} with --batch-size {batch_size}; try {', '.join(tries)}"
            + (f" ({message[:200]})" if message else "")
        ) from error


_Step = tuple[int, Tensor, Tensor]  # its number, its loss, and the rows of its batch


class FiniteLoss(Callback):
    """Raise a `RunError` that names the faces if the loss of a step is NaN or infinite."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._copying: tuple[list[_Step], Tensor, torch.Event] | None = None
        self.mean: float | None = None
        """Of the last losses, the latest ones counting most."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the losses of the last epoch."""
        self._steps, self._copying = [], None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the loss of this step; on a GPU, those of several steps together, and later.

        Reading a loss at once would wait for the GPU, which would then wait for the CPU.
        """
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        self._steps.append((batch_idx, loss, batch["index"]))
        if loss.device.type in ("cpu", "mps"):
            self._check(trainer, self._steps, [float(loss)])
            self._steps = []
            return
        last = batch_idx + 1 == trainer.num_training_batches
        if len(self._steps) < _CHECK_EVERY and not last:
            return
        earlier = self._copying
        losses = torch.stack([loss for _, loss, _ in self._steps])
        copied, done = losses.to("cpu", non_blocking=True), torch.Event(losses.device.type)
        done.record()
        self._steps, self._copying = [], (self._steps, copied, done)
        for steps, values, event in filter(None, (earlier, self._copying if last else None)):
            event.synchronize()
            self._check(trainer, steps, values.tolist())

    def _check(self, trainer: L.Trainer, steps: list[_Step], losses: list[float]) -> None:
        for value, (step, _, rows) in zip(losses, steps, strict=True):
            if not math.isfinite(value):
                raise _not_finite(trainer, step, value, rows)
            self.mean = value if self.mean is None else 0.9 * self.mean + 0.1 * value


def _not_finite(trainer: L.Trainer, step: int, loss: float, rows: Tensor) -> RunError:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    splits = getattr(getattr(data, "data", data), "splits", {})
    names = splits["train"].ids if "train" in splits else None
    ids = [f"row {row}" if names is None else str(names[row]) for row in rows.tolist()]
    faces = ", ".join(ids[:_MOST_IDS]) + (", ..." if len(ids) > _MOST_IDS else "")
    return RunError(
        f"the loss became {loss} in epoch {trainer.current_epoch + 1}, step {step + 1}; the faces "
        f"of that batch: {faces}. The checkpoints of earlier epochs are kept. Try a smaller --lr, "
        "--clip-norm 1, --precision 32, or --warmup-epochs 1; if the faces are always the same, "
        "check them and their labels with `affectnet audit`"
    )


def device_type(accelerator: str) -> Literal["cpu", "cuda", "mps"]:
    """The device that an accelerator stands for here; raises `ConfigError` if it is not there.

    `auto` is an NVIDIA GPU or the CPU: training on Apple's GPU, `mps`, has not been measured.
    """
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "cpu"):
        return "cpu"
    if not torch.backends.mps.is_available():
        raise ConfigError(
            f"--accelerator {accelerator}: PyTorch can use no such GPU here; give --accelerator "
            "auto or cpu, or install PyTorch for this machine's GPU"
        )
    return "mps"


def device_settings(
    accelerator: str = "auto",
    devices: int | None = None,
    nodes: int = 1,
    precision: str = "32",
    strategy: str = "auto",
) -> dict[str, Any]:
    """Trainer arguments for the devices; precision `auto` is bf16 if the device computes in it.

    bf16 makes training faster (1.8 times for CVNet on a CPU with AVX512-BF16) at no loss, since
    the weights stay 32-bit; scores are always computed in 32 bits.

    Args:
        accelerator: auto, cpu, gpu or mps.
        devices: processes per machine; all GPUs, or one CPU process, if None.
        nodes: machines.
        precision: auto, 32 or bf16.
        strategy: auto, ddp or fsdp; auto is ddp for several processes.

    Raises `ConfigError` for devices that this machine does not have, and for fsdp without a GPU.
    """
    device = device_type(accelerator)
    gpu = device == "cuda"
    if devices is not None and devices < 1:
        raise ConfigError(
            f"--devices is {devices}; it must be at least 1, or left out for all GPUs"
        )
    if gpu and (devices or 1) > torch.cuda.device_count():
        raise ConfigError(
            f"--devices is {devices}, but PyTorch can use {torch.cuda.device_count()} GPUs here; "
            "give at most that many"
        )
    several = nodes > 1 or (devices or (torch.cuda.device_count() if gpu else 1)) > 1
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if gpu else _cpu_computes_in_bf16()
        precision = "bf16" if has_bf16 and device != "mps" else "32"
    # TF32, the default of convolutions on NVIDIA GPUs, has ten bits of precision.
    torch.backends.cudnn.allow_tf32 = precision != "32"
    return {
        "accelerator": device,
        "devices": devices or ("auto" if gpu else 1),
        "num_nodes": nodes,
        "precision": {"32": "32-true", "bf16": "bf16-mixed"}[precision],
        "enable_progress_bar": sys.stdout.isatty(),
        "strategy": _strategy(strategy, several, gpu),
        # On a CPU PyTorch has no batch norm over processes: each uses its own statistics.
        "sync_batchnorm": several and gpu,
    }


def describe_device(devices: dict[str, Any]) -> str:
    """The devices of `device_settings` in words."""
    kind, number = devices["accelerator"], devices["devices"]
    if kind == "cuda":
        number = torch.cuda.device_count() if number == "auto" else number
        name = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        name = "CPU" if kind == "cpu" else "GPU of this Apple computer"
        name += f", {threads} thread{'s' * (threads > 1)}" if kind == "cpu" else ""
    each = number * devices["num_nodes"]
    return f"{f'{each} processes, each ' * (each > 1)}{name}, {devices['precision']}"


def check_batch(model: AffectModel, batch_size: int, devices: dict[str, Any]) -> None:
    """Raise `ConfigError` if a process gets one face per step and the model cannot train on one.

    Batch norm over features of one pixel has then nothing to take a mean of.
    """
    several = devices["num_nodes"] * (1 if devices["devices"] == "auto" else devices["devices"])
    if batch_size // several > 1 or devices["sync_batchnorm"]:
        return
    copied = copy.deepcopy(model).train()
    size = model.preprocessing.size
    with torch.random.fork_rng(devices=[]):
        try:
            copied(torch.zeros(1, 3, size, size))
        except ValueError as error:
            raise ConfigError(
                f"--batch-size {batch_size}: the batch norm of {model.backbone_name} cannot be "
                "trained on one face at a time; give --batch-size 2 or more for each device, or "
                "--freeze backbone"
            ) from error


def _strategy(name: str, several: bool, gpu: bool) -> Strategy | str:
    if name == "fsdp":
        if not gpu:
            raise ConfigError(
                "--strategy fsdp shards a model over GPUs, and no GPU is used here; choose "
                "--strategy ddp"
            )
        # One file per checkpoint, as with every other strategy, so that a run can be resumed on
        # another number of devices.
        # Gradients and the statistics of batch norm in 32 bits, as without FSDP: Lightning would
        # choose bf16 for them. The forward pass is in bf16 by autocast.
        exact = MixedPrecision(torch.float32, torch.float32, torch.float32)
        return FSDPStrategy(
            state_dict_type="full", sharding_strategy="FULL_SHARD", mixed_precision=exact
        )
    if name == "ddp" or several:
        # Without valence and arousal labels, or with --va-loss none, a head gets no gradient.
        return DDPStrategy(find_unused_parameters=True)
    return "auto"


def _cpu_computes_in_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    # Private, because its public form, torch.cpu.get_capabilities, is not in torch 2.6.
    return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())


def make_trainer(
    run: RunFolder,
    *,
    epochs: int,
    monitor: str | None,
    early_stop: int | None = None,
    loggers: Sequence[Logger] = (),
    keep: str = "last",
    ema: float | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    stop: StopOnSignal | None = None,
    after: Callback | None = None,
    **devices: Any,
) -> L.Trainer:
    """A Trainer that writes everything into `run` and does not replace the samplers.

    Without a monitored metric nothing is validated and no epoch is selected. With `stop` it handles
    SIGTERM and SIGUSR1; `after` is called after the checkpoints are saved.
    """
    quiet_lightning()
    finite, log = FiniteLoss(), EpochLog(run)
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=[*loggers],
        callbacks=[
            *([stop] if stop else []),
            finite,
            *([Bar(lambda: finite.mean, log)] if devices.get("enable_progress_bar") else []),
            *([MovingAverage(ema)] if ema else []),
            *([EarlyStopping(monitor, early_stop)] if monitor and early_stop else []),
            *checkpoint_callbacks(log, monitor, keep),
            Pictures(run, log),
            *([after] if after else []),
        ],
        limit_val_batches=1.0 if monitor else 0,
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=clip_norm,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        deterministic="warn",
        **devices,
    )
    # Memory is never read before it is written here; a GPU would run a fill for each tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on Ctrl-C, where Lightning would end the process without a word."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGINT, on_ctrl_c)  # Lightning ignores a second one
        raise KeyboardInterrupt from None


def quiet_lightning() -> None:
    """Hide Lightning's hints about loaders and devices."""
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
        r".*It is recommended to use `self.log.*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
