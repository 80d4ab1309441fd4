"""The training step with the data loader, compared with the same model on one batch held in memory.

The difference is the cost of loading; the target is at most 5%. The faces are a few drawn ones,
repeated, so many that the loader uses as many worker processes as in a real training; batches that
the workers prepared in advance are taken before the time counts. If there is a GPU, ResNet-50,
ConvNeXt-L and Swin-V2 are measured at 224 px in bf16, with the fraction of the card's matrix peak,
which is measured by a large product. With `--check` the exit status is 1 if a target is missed.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from drawn import write_faces
from rich.console import Console
from rich.table import Table

from affectnet.data.augment import augment, normalise, step_generator
from affectnet.data.augmentation import AUGMENTATIONS
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import DatasetInfo
from affectnet.models.affect_model import AffectModel
from affectnet.models.losses import affect_loss
from affectnet.training.cost import cost_of

TARGET = 0.05
DISTINCT = 128  # drawn faces, which are repeated
ON_GPU = ("resnet50", "convnext_large", "swin_v2")


def main() -> int:
    """Draw faces, time the steps of each model, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backbones", default="", help="comma-separated (default resnet18; three on a GPU)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=0, help="faces (default 32; 128 on a GPU)"
    )
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument(
        "--stored-size", type=int, default=0, help="pixels of the stored faces (default the same)"
    )
    parser.add_argument(
        "--faces", type=int, default=0, help="in the dataset (default 4,096; 30,000 on a GPU)"
    )
    parser.add_argument("--turns", type=int, default=3, help="timed turns (default 3)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--workers", type=int, default=None, help="loader processes")
    parser.add_argument("--cache", default="none", help="none, ram or device (default none)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    size = options.batch_size or (128 if gpu else 32)
    names = options.backbones.split(",") if options.backbones else ON_GPU if gpu else ("resnet18",)
    peak = matrix_peak(device) if gpu else None
    table = Table(
        *("model", "workers", "images/s, loader alone", "training", "one batch", "overhead"),
        *("target", "", "peak"),
    )
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        faces = options.faces or (30_000 if gpu else 4096)
        data = repeated_faces(Path(folder), faces, options.stored_size or options.image_size)
        for name in names:
            own = 256 if name == "swin_v2" and options.image_size == 224 else options.image_size
            module = AffectDataModule(
                data, size, own, options.workers, cache=options.cache, device=device
            )
            step = training_step(name, own, device)
            alone = loading(module, min(2 * options.steps, faces // size))
            real, held, overhead = measure(step, module, options.steps, device, options.turns)
            met = overhead <= TARGET
            missed |= not met
            share = ""
            if peak:
                # Forward once, backward twice, two operations per multiply-add.
                flops = 6 * step.cost.multiply_adds * size / held  # type: ignore[attr-defined]
                share = f"{flops / peak:.0%} of {peak / 1e12:.0f} TFLOP/s"
            table.add_row(
                f"{name}, {own} px",
                str(module.workers_for(faces) if options.cache == "none" else 0),
                f"{alone:,.0f}",
                f"{size / real:,.1f}",
                f"{size / held:,.1f}",
                f"{overhead:+.1%}",
                f"{TARGET:.0%}",
                "met" if met else "MISSED",
                share,
            )
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    Console().print(f"batches of {size}; {where}; PyTorch {torch.__version__}")
    Console().print(table)
    return int(options.check and missed)


def repeated_faces(folder: Path, train: int, size: int, val: int = 0) -> Path:
    """Write a dataset of this many faces, of which only a few are distinct; return `folder`."""
    drawn = list(draw_faces(DISTINCT // 8, seed=0, size=size))
    for name, faces in (("train", train), ("val", val)):
        if faces:
            many = (
                dataclasses.replace(drawn[number % len(drawn)], id=f"{name}{number:06}")
                for number in range(faces)
            )
            write_faces(folder / f"{name}.arrow", many)
    DatasetInfo(
        source=[], release="drawn", counts={}, dropped={}, content_hash="", version=""
    ).write(folder)
    return folder


def loading(data: AffectDataModule, batches: int) -> float:
    """Return the images per second of the loader alone."""
    source = iter(data.train_dataloader())
    for _ in range(ahead(data)):
        next(source)
    started = time.perf_counter()
    images = sum(len(next(source)["index"]) for _ in range(batches - ahead(data)))
    return images / (time.perf_counter() - started)


def ahead(data: AffectDataModule) -> int:
    """Return how many batches the workers of a loader prepare in advance."""
    loader = data.train_dataloader()
    return loader.num_workers * (loader.prefetch_factor or 0)


def training_step(
    name: str, size: int, device: torch.device
) -> Callable[[dict[str, Any]], torch.Tensor]:
    """Return a function that augments a batch and makes one step of AdamW; bf16 on a GPU."""
    model = AffectModel(name, image_size=size).to(device, memory_format=torch.channels_last)
    cost = cost_of(model, device, seconds=0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    use = AUGMENTATIONS["standard"]

    def step(batch: dict[str, Any]) -> torch.Tensor:
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        images = augment(batch["image"], use, step_generator(0, 0))
        prep = model.preprocessing
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = model(normalise(images, prep.mean, prep.std, inplace=True))
        loss: torch.Tensor = affect_loss(output, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step.cost, step.model = cost, model  # type: ignore[attr-defined]
    return step


def measure(
    step: Callable[[dict[str, Any]], torch.Tensor],
    data: AffectDataModule,
    steps: int,
    device: torch.device,
    turns: int = 3,
) -> tuple[float, float, float]:
    """Return the seconds per step with the loader and with one batch, and the overhead.

    Both are measured in turns, so that a change of the machine's load affects both; all three are
    medians of the turns.
    """
    loader = data.train_dataloader()

    def epochs() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    batches = epochs()
    held = {k: v.to(device) for k, v in next(batches).items()}
    for _ in range(2):  # warm up
        step(next(batches))
    real_times, held_times = [], []
    for _ in range(turns):
        for _ in range(ahead(data)):  # while the other way was timed, the workers worked ahead
            next(batches)
        real_times.append(timed(lambda: step(next(batches)), steps, device))
        held_times.append(timed(lambda: step(held), steps, device))
    overhead = statistics.median(r / h - 1 for r, h in zip(real_times, held_times, strict=True))
    return statistics.median(real_times), statistics.median(held_times), overhead


def timed(work: Callable[[], object], steps: int, device: torch.device) -> float:
    """Return the mean seconds per step."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    started = time.perf_counter()
    for _ in range(steps):
        work()
    synchronise()
    return (time.perf_counter() - started) / steps


def matrix_peak(device: torch.device, side: int = 8192) -> float:
    """Return the operations per second of a large bf16 product: the fastest of several."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = min(timed(lambda: a @ a, 10, device) for _ in range(5))
    return 2 * side**3 / best


if __name__ == "__main__":
    sys.exit(main())
