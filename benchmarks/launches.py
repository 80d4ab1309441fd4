"""What a training asks of a GPU, counted without one: operations started, and waits for the device.

    python benchmarks/launches.py [--recipe cvnet] [--batch-size 128] [--check]

A GPU works behind the CPU, which starts one operation after another. Where a network is small,
starting them takes the time of a step; and each time that the CPU asks for a value, or copies a
tensor from main memory in the plain way, it waits until the GPU has done everything before, and the
GPU then waits for the CPU. Both can be counted anywhere: the training runs on a pretend device, an
extension of PyTorch in Python, whose tensors are computed on the CPU and whose operations pass
through here. The counts are those of the steps between the first and the last, and of the batches
of validation. Decoded faces are on the device, every layer is computed in each step, in 32 bits and
without compilation; optimisers and clipping are those of a GPU. Views and empty tensors do not
count, and neither does waiting for losses of eight steps before. With `--check` the exit status is
1 if a step waits.
"""

import argparse
import logging
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lightning as L
import timm
import torch
from drawn import drawn_dataset
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import optimizer
from torch.utils import _foreach_utils, backend_registration
from torch.utils._pytree import tree_flatten, tree_map

import affectnet
from affectnet.cli import parse
from affectnet.commands import train as training
from affectnet.commands.train_settings import with_defaults_of_data
from affectnet.config import TrainConfig
from affectnet.data import image_ops
from affectnet.training.checkpoints import MovingAverage
from affectnet.training.trainer import FiniteLoss

NAME: Final = "pretended"
NOT_COUNTED: Final = (
    *("alias", "as_strided", "detach", "diagonal", "expand", "permute", "real", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze"),
    *("view", "view_as_real", "_reshape_alias", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty"),
)
"""Views, and tensors without values."""
READS: Final = (
    *("_local_scalar_dense", "bincount", "equal", "masked_select", "multinomial", "nonzero"),
    *("linalg_eigh", "_linalg_eigh", "linalg_inv_ex", "_linalg_svd"),
    *("repeat_interleave", "unique_consecutive", "unique_dim", "_unique2"),
)
"""Operations whose result, or its size, the CPU must know before it goes on."""
INDEXED: Final = ("index", "index_put", "index_put_", "_index_put_impl_")

ROOTS: Final = [Path(str(package.__file__)).parent for package in (affectnet, timm)]

launches: Counter[str] = Counter()
waits: Counter[str] = Counter()


class Pretended(Tensor):
    """A tensor of the pretend device: its values are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "Pretended":
        wrapped: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )
        wrapped.values = values
        return wrapped

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})


def run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU; count it, and whether the CPU would wait for its result."""
    name = op.overloadpacket.__name__
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    here = [one for one in tensors if isinstance(one, Pretended)]
    asked = kwargs.get("device")
    there = bool(here) if asked is None else torch.device(asked).type == NAME
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        there = isinstance(args[0], Pretended) if name == "copy_" else there
        soon = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, Pretended) != there and not soon:
            waits[place()] += 1
    elif here and name in READS:
        waits[place()] += 1
    elif here and name in INDEXED:
        given = [one for one in args[1] if one is not None]
        # A mask is counted first, and an index in main memory copied.
        if any(one.dtype == torch.bool or not isinstance(one, Pretended) for one in given):
            waits[place()] += 1
    elif here and any(one.ndim and not isinstance(one, Pretended) for one in tensors):
        raise RuntimeError(f"{name} has tensors of both devices: {place()}")

    plain_args, plain_kwargs = tree_map(plain, (args, kwargs))
    result = op(*plain_args, **plain_kwargs)
    if not there:
        return result
    if name not in NOT_COUNTED:
        launches[place()] += 1
    if op._schema.is_mutable:  # returns one of its arguments
        own = {id(one.values): one for one in here}
        return tree_map(lambda one: own.get(id(one), one), result)
    if name == "_to_copy" and not here:
        result = result.clone()  # for the CPU it was no copy
    return tree_map(lambda one: Pretended(one) if isinstance(one, Tensor) else one, result)


def plain(value: Any) -> Any:
    """What the CPU computes with in place of an argument."""
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value.values if isinstance(value, Pretended) else value


def place() -> str:
    """The line of this package, or of timm, that asked for an operation."""
    for frame in reversed(traceback.extract_stack()):
        file = Path(frame.filename)
        for root in ROOTS:
            if file.is_relative_to(root):
                return f"{file.relative_to(root.parent)}:{frame.lineno}"
    return "backward pass, and Lightning"


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def __getattr__(self, name: str) -> Any:  # memory statistics and so on
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: 0


class _Event:
    def __init__(self, *_args: Any) -> None:
        self.record = self.synchronize = lambda: None


class _TorchWithoutGenerators:
    """PyTorch for `image_ops`, with generators of the CPU: extensions in Python have none."""

    def __getattr__(self, name: str) -> Any:
        return (lambda _device: torch.Generator()) if name == "Generator" else getattr(torch, name)


def pretend() -> None:
    """Make the device, for the rest of the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
    library = torch.library.Library("aten", "IMPL")
    for op in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default):
        library.impl(op, lambda *args, _op=op, **kwargs: run(_op, args, kwargs), "PrivateUse1")
    copy = torch.ops.aten._to_copy.default
    library.impl(copy, lambda *args, **kwargs: run(copy, args, kwargs), "PrivateUse1")
    pretend.library = library  # type: ignore[attr-defined]
    # As on a GPU: one operation for all weights of a group.
    for module in (_foreach_utils, optimizer):
        module._foreach_supported_types.append(Pretended)  # type: ignore[attr-defined]
    torch.Event = _Event  # type: ignore[misc, assignment]
    image_ops.torch = _TorchWithoutGenerators()  # type: ignore[attr-defined]


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Accept any."""


@dataclass
class Counts:
    """What some steps asked for, by place."""

    steps: int = 0
    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class Steps(L.Callback):
    """Counts the steps of training between the first and the last, and validation."""

    def __init__(self) -> None:
        self.counts = {"training": Counts(), "validation": Counts()}
        self._before: tuple[Counter[str], Counter[str]] | None = None

    def _end(self, stage: str) -> None:
        if self._before is not None:
            counts = self.counts[stage]
            counts.steps += 1
            counts.launches += launches - self._before[0]
            counts.waits += waits - self._before[1]

    def on_train_batch_start(self, *hook: Any) -> None:
        """Count what came since the last step began; the first one also makes constants."""
        self._end("training")
        *_, number = hook
        self._before = (launches.copy(), waits.copy()) if number else None

    def on_validation_batch_start(self, *_: Any) -> None:
        """Begin to count a batch."""
        self._before = launches.copy(), waits.copy()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Count the batch."""
        self._end("validation")


def main() -> int:
    """Train an epoch of a recipe on the pretend device and print what it asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cvnet", help="of affectnet train (default cvnet)")
    parser.add_argument("--flags", default="", help="of affectnet train")
    parser.add_argument("--batch-size", type=int, default=128, help="faces (default 128)")
    parser.add_argument("--steps", type=int, default=12, help="of training (default 12)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a step waits")
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps is {options.steps}; it must be at least 3")
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        print("this needs PyTorch 2.10 or newer: older ones have no devices in Python")
        return 2
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pretend()
    with tempfile.TemporaryDirectory() as folder:
        # A fifth becomes the validation split.
        faces = options.batch_size * options.steps * 5 // 4
        data = drawn_dataset(Path(folder), -(-faces // 8), 48)
        flags = f"--data {data} --recipe {options.recipe} --batch-size {options.batch_size}"
        counted = count(parse("train", f"{flags} --cache device {options.flags}".split()))
    return report(counted) * options.check


def count(config: TrainConfig) -> dict[str, Counts]:
    """Train an epoch on the pretend device; what each stage asked for."""
    config = with_defaults_of_data(config)
    model = training._create_model(config)
    data = training._create_data(config, model)
    steps = Steps()
    average = [MovingAverage(config.ema)] if config.ema else []
    trainer = L.Trainer(
        strategy=SingleDeviceStrategy(torch.device(NAME, 0), _Accelerator()),
        max_epochs=1,
        gradient_clip_val=config.clip_norm,
        accumulate_grad_batches=config.accumulate,
        callbacks=[FiniteLoss(), *average, steps],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(training._create_module(config, model, data), datamodule=data)
    return steps.counts


def report(counted: dict[str, Counts]) -> int:
    """Print the tables; 1 if a step waited."""
    for stage, counts in counted.items():
        started, waited = counts.launches.total(), counts.waits.total()
        Console().print(
            f"{stage}, {counts.steps} steps: {started / counts.steps:,.0f} operations and "
            f"{waited / counts.steps:.1f} waits a step"
        )
        files: Counter[str] = Counter()
        for where, number in counts.launches.items():
            files[where.partition(":")[0]] += number
        for title, found in (("operations", files), ("waits", counts.waits)):
            table = Table("place", f"{title} a step")
            for where, number in found.most_common():
                table.add_row(where, f"{number / counts.steps:.1f}")
            if found:
                Console().print(table)
    return int(any(counts.waits for counts in counted.values()))


if __name__ == "__main__":
    sys.exit(main())
