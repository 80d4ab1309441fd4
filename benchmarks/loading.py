"""Images per second per core: loading in this package compared with the original notebook.

    python benchmarks/loading.py [--faces 512] [--repeats 3] [--check]

Everything runs in this process on one thread, on the same drawn faces at 224x224. The notebook
reads loose JPEG files, one image at a time; this package reads the Arrow dataset. The methods are
measured in turns, and the fastest turn of each counts, so that the load of other processes affects
all of them equally. With --check the exit status is 1 if a target is missed.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from drawn import write_faces
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision import transforms

from affectnet.data.augment import augment, normalise, step_generator
from affectnet.data.augmentation import AUGMENTATIONS, Augmentation
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.dataset import fast_resize
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import Pixels, decode_image, resize
from affectnet.data.store import DatasetInfo, open_split

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = [
    transforms.ToTensor(),
    transforms.Resize((SIZE, SIZE)),
    transforms.Normalize(MEAN, STD),
]
AUGMENTED = [
    *PLAIN,
    transforms.RandomHorizontalFlip(),
    transforms.RandomVerticalFlip(),
    transforms.RandomRotation(45),
    transforms.GaussianBlur(5),
]


@dataclass(frozen=True)
class Way:
    """A loading method, the method it is compared with, and the ratio that it must reach."""

    name: str
    batches: Callable[[], Iterable[Tensor]]
    against: str | None = None
    target: float | None = None


def main() -> int:
    """Write the faces, measure every method, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=512, help="number of faces (default 512)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each method (default 3)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        count, size = write_twice(Path(folder), options.faces)
        ways = [*make_ways(Path(folder)), *resizing(Path(folder))]
        rates = measure(ways, count, options.repeats)
    console.print(
        f"{count} drawn faces, {SIZE}x{SIZE}, {size / 1000:.1f} kB per JPEG; batches of {BATCH}; "
        f"one thread; PyTorch {torch.__version__}"
    )
    table = Table("method", "images/s/core", "compared with", "ratio", "target", "")
    missed = False
    for way in ways:
        ratio = rates[way.name] / rates[way.against] if way.against else None
        met = way.target is None or (ratio is not None and ratio >= way.target)
        missed |= not met
        table.add_row(
            way.name,
            f"{rates[way.name]:,.0f}",
            way.against or "",
            f"{ratio:.1f}" if ratio else "",
            f"{way.target:g}" if way.target else "",
            "" if way.target is None else "met" if met else "MISSED",
        )
    console.print(table)
    return int(options.check and missed)


def write_twice(folder: Path, wanted: int) -> tuple[int, float]:
    """Write the same faces as a dataset and as loose files; return their number and mean size."""
    loose = folder / "loose"
    loose.mkdir()
    faces = list(draw_faces(-(-wanted // 8), seed=0, size=SIZE))
    write_faces(folder / "train.arrow", faces)
    for face in faces:
        (loose / f"{face.id}.jpg").write_bytes(face.image)
    info = DatasetInfo(
        source=[], release="drawn", counts={}, dropped={}, content_hash="", version=""
    )
    info.write(folder)
    return len(faces), sum(len(face.image) for face in faces) / len(faces)


def make_ways(folder: Path) -> list[Way]:
    """List the methods in the order of the table."""
    files = sorted((folder / "loose").glob("*.jpg"))
    notebook = AUGMENTATIONS["notebook"].with_overrides(vflip=0.5)  # as in the notebook

    def decoded(cache: str) -> Callable[[], Iterator[Tensor]]:
        loader = AffectDataModule(folder, BATCH, SIZE, 0, cache=cache).train_dataloader()
        return lambda: (batch["image"] for batch in loader)

    stored = decoded("none")

    def ready(use: Augmentation) -> Callable[[], Iterator[Tensor]]:
        place = torch.empty(BATCH, 3, SIZE, SIZE)  # reused for every batch, as in training

        def batches() -> Iterator[Tensor]:
            for step, images in enumerate(stored()):
                varied = augment(images, use, step_generator(0, step), out=place[: len(images)])
                yield normalise(varied, MEAN, STD, inplace=True)

        return batches

    augmented, plain = "notebook, augmented", "notebook, not augmented"
    loose = "loose files, PIL to uint8"
    ways = [
        Way(augmented, lambda: one_at_a_time(files, transforms.Compose(AUGMENTED))),
        Way(plain, lambda: one_at_a_time(files, transforms.Compose(PLAIN))),
        Way("uint8 batch", stored, augmented, 15),
        Way("uint8 batch, not augmented", stored, plain),
        Way("+ the notebook's augmentation, normalised, on CPU", ready(notebook), augmented, 4),
        Way("+ 'standard', normalised, on CPU", ready(AUGMENTATIONS["standard"]), augmented),
        Way("+ 'strong', normalised, on CPU", ready(AUGMENTATIONS["strong"]), augmented),
        Way(loose, lambda: one_at_a_time(files, transforms.PILToTensor())),
        Way("--cache none", stored, loose),
        Way("--cache ram", decoded("ram"), loose),
    ]
    if torch.cuda.is_available():
        ways.append(Way("--cache device", decoded("device"), loose))
    return ways


def resizing(folder: Path) -> list[Way]:
    """List both ways of resizing decoded faces for a network of 256 px."""
    split = open_split(folder, "train")
    pixels = [decode_image(split.image_bytes(row)) for row in range(len(split))]

    def resized(function: Callable[[Pixels, int, str], Pixels], name: str) -> Callable[[], Any]:
        return lambda: (
            torch.from_numpy(np.stack([function(face, 256, name) for face in some]))
            for some in (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        )

    ways = []
    for name in ("bilinear", "bicubic"):
        by_pillow = f"resizing {SIZE} to 256 px, {name}, Pillow"
        ways += [
            Way(by_pillow, resized(resize, name)),
            Way(f"the same, {name}, as in training", resized(fast_resize, name), by_pillow, 3),
        ]
    return ways


def one_at_a_time(
    files: list[Path], transform: Callable[[Image.Image], Tensor]
) -> Iterator[Tensor]:
    """Load like the notebook: open, convert and transform each file, then stack a batch."""
    for start in range(0, len(files), BATCH):
        images = [
            transform(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
            for path in files[start : start + BATCH]
        ]
        yield torch.stack(images)


def measure(ways: list[Way], faces: int, repeats: int) -> dict[str, float]:
    """Return the images per second of each method: the fastest of its turns."""
    best = {way.name: float("inf") for way in ways}
    for way in ways:  # fill caches and warm up
        next(iter(way.batches()))
    for _ in range(repeats):
        for way in ways:
            start = time.perf_counter()
            for batch in way.batches():
                if batch.is_cuda:
                    torch.cuda.synchronize()
            best[way.name] = min(best[way.name], time.perf_counter() - start)
    return {name: faces / seconds for name, seconds in best.items()}


if __name__ == "__main__":
    sys.exit(main())
