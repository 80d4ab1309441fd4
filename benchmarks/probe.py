"""Heads on a frozen backbone: features computed once, compared with features computed every epoch.

Both train the same heads on the same drawn faces, without augmentation, and must reach the same
losses within the rounding of float16. With `--check` the exit status is 1 if the ratio of times is
below 8 or the losses differ.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import torch
from drawn import drawn_dataset
from rich.console import Console
from rich.table import Table

from affectnet.commands.train import train
from affectnet.config import TrainConfig

TARGET = 8.0
TOLERANCE = 0.01
"""Largest relative difference of the losses, far above float16's rounding of the features."""


def main() -> int:
    """Draw faces, train with both methods, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50", help="timm model (default resnet50)")
    parser.add_argument("--faces", type=int, default=500, help="training faces (default 500)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs (default 10)")
    parser.add_argument("--image-size", type=int, default=112, help="pixels (default 112)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args()
    console = Console()
    times, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        data = drawn_dataset(Path(folder), -(-options.faces // 8), options.image_size)
        for features in ("once", "live"):
            config = TrainConfig(
                data=(data,),
                backbone=options.backbone,
                epochs=options.epochs,
                image_size=options.image_size,
                pretrained=False,
                freeze="backbone",
                features=features,
                augment="none",
                dropout=0.0,
                precision="32",
                runs=Path(folder) / "runs",
                name=features,
            )
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                run = train(config)
            times[features] = time.perf_counter() - started
            last = run.metrics.read_text().splitlines()
            row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
            losses[features] = [float(row["train_loss"]), float(row["val_loss"])]
    ratio = times["live"] / times["once"]
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses["once"], losses["live"], strict=True))
    console.print(
        f"{options.backbone}, {options.faces} drawn faces at {options.image_size} px, "
        f"{options.epochs} epochs, {torch.get_num_threads()} threads; PyTorch {torch.__version__}"
    )
    table = Table("method", "seconds", "train loss", "val loss", "ratio", "target", "")
    met = ratio >= TARGET and apart <= TOLERANCE
    for name, label in (("live", "recomputed each epoch"), ("once", "computed once")):
        own = name == "once"
        table.add_row(
            label,
            f"{times[name]:.1f}",
            *(f"{loss:.5f}" for loss in losses[name]),
            f"{ratio:.1f}" if own else "",
            f"{TARGET:g}" if own else "",
            ("met" if met else "MISSED") if own else "",
        )
    console.print(table)
    console.print(f"largest relative difference of the losses: {apart:.1e} (at most {TOLERANCE:g})")
    return int(options.check and not met)


if __name__ == "__main__":
    sys.exit(main())
