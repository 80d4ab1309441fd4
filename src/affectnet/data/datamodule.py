"""Decoded faces kept in memory, on the machine or on its GPU, where they fit.

The LightningDataModule: a dataset's splits as batches, for one process or many.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from affectnet.data.dataset import AnySplit, Batch, FaceDataset, JoinedSplit
from affectnet.data.samplers import EvalBatches, TrainBatches
from affectnet.data.splits import Sampling, cap_per_class, sample_weights
from affectnet.data.store import SPLITS, open_split
from affectnet.errors import ConfigError, DataError, suggest
from affectnet.seven import CONTEMPT
from affectnet.threads import cores

Cache = Literal["auto", "none", "ram", "device"]

AUTO_BYTES = 1_000_000_000
"""`auto` keeps a split in memory when its decoded faces take less than this."""

_CHUNK = 256


def decoded_bytes(faces: int, size: int) -> int:
    """Return what `faces` decoded faces of `size` x `size` pixels take."""
    return faces * size * size * 3


def free_memory(device: torch.device | None = None) -> int | None:
    """Return how many bytes are free in main memory or on a CUDA device; None where unknown.

    In main memory it is what the kernel could hand out without swapping, or what is left of the
    control group's limit (containers, SLURM), whichever is less.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [_meminfo(), _control_group()]
    return min((figure for figure in known if figure is not None), default=None)


def fits_unasked(faces: int, size: int, copies: int = 1) -> bool:
    """Decide for `auto`: the faces take under 1 GB and at most half of the free memory."""
    need = decoded_bytes(faces, size)
    free = free_memory()
    return need < AUTO_BYTES and (free is None or 2 * copies * need <= free)


def check_fits(faces: int, size: int, device: torch.device | None = None, copies: int = 1) -> None:
    """Make sure that the decoded faces fit.

    Args:
        faces: their number.
        size: side in pixels.
        device: the CUDA device that is to hold them; main memory where not given.
        copies: processes on this machine that hold them.

    Raises:
        ConfigError: they do not; the message states the size.
    """
    on_gpu = device is not None and device.type == "cuda"
    free = free_memory(device)
    need = decoded_bytes(faces, size) * (1 if on_gpu else copies)
    if free is None or need <= free:
        return
    times = f", once for each of {copies} processes" if copies > 1 and not on_gpu else ""
    raise ConfigError(
        f"cache '{'device' if on_gpu else 'ram'}' needs {need / 1e9:.1f} GB for {faces:,} faces of "
        f"{size}x{size} pixels{times}, but {free / 1e9:.1f} GB are free"
        f"{f' on {device}' if on_gpu else ''}; choose a smaller image size or cache 'none'"
    )


def decode_all(
    split: AnySplit,
    rows: NDArray[np.int64],
    size: int,
    device: torch.device | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Decode some rows once, by threads, with a progress bar.

    Returns:
        uint8 (n, size, size, 3) in main memory, or on `device`.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    faces = FaceDataset(split, size, interpolation=interpolation)
    shape = (len(rows), size, size, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, device=device)

    def decode(start: int) -> int:
        chunk = rows[start : start + _CHUNK]
        into = pixels[start : start + len(chunk)]
        if pixels.device.type == "cpu":
            faces.decode(chunk, into.numpy())
        else:
            decoded = np.empty(into.shape, np.uint8)
            faces.decode(chunk, decoded)
            into.copy_(torch.from_numpy(decoded))
        return len(chunk)

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(rows), desc="decoding", unit=" faces", disable=None, leave=False) as bar,
    ):
        for done in pool.map(decode, range(0, len(rows), _CHUNK)):
            bar.update(done)
    return pixels


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what is left of the limit, counting pages of files, which give way, as free."""
    for limit_name, used_name, stat_name, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            limit = (root / limit_name).read_text(encoding="ascii").strip()
            if limit == "max":
                return None
            used = int((root / used_name).read_text(encoding="ascii"))
            stat = (root / stat_name).read_text(encoding="ascii").split()
        except OSError:
            continue
        pairs = dict(zip(stat[::2], stat[1::2], strict=False))
        return max(0, int(limit) - used + int(pairs.get(key, 0)))
    return None


__all__ = ["AffectDataModule", "Batch", "FaceDataset", "FaceLoader"]

_MOST_WORKERS: Final = 8
_FEW_FACES: Final = 2048
"""Below this, starting worker processes takes longer than they save."""

_STAGES: Final[dict[str | None, tuple[str, ...]]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}


class AffectDataModule(L.LightningDataModule):
    """The splits of a dataset, or of several joined, as batches of uint8 images and labels.

    Batches are dictionaries (`affectnet.data.dataset.Batch`); images come as uint8, for `augment`
    and `normalise` to work on whole batches on the model's device. It shares the batches out over
    the processes by itself: give the Trainer `use_distributed_sampler=False`.

    Args:
        data: dataset folder made by `affectnet ingest`, or several. Their rows are joined; a
            dataset without some target trains the others.
        batch_size: images a step over all processes together.
        image_size: side of the images in pixels.
        workers: processes that decode. Where not given: as many as there are cores for each
            training process, at most 8, and none for less than 2,048 images or cached ones.
        sampler: 'natural' takes every training image once an epoch. 'balanced' and 'sqrt' draw as
            many with replacement: all classes alike, or a class of n images in proportion to
            sqrt(n); an image without expression is drawn as in 'natural'.
        seed: with the number of the epoch it decides the order.
        interpolation: how images of another size are resized, as `decode_image` names it.
        cache: 'ram' decodes every split once and keeps it in memory, 'device' on the GPU of the
            process (in memory where there is none); both decode in threads and need no workers.
            'none' decodes anew each epoch. 'auto' is 'ram' for those of `train_dataloader` and
            `val_dataloader` that take under 1 GB decoded and half of the free memory at most
            (145,000 images at 48, 6,600 at 224), else 'none'.
        max_per_class: use at most so many training images of each class, the same ones each time.
        without_contempt: leave the faces of contempt out of training, validation and test; `loader`
            gives them all the same.
        device: for cache 'device' without a Trainer; otherwise the Trainer's.

    Raises:
        ConfigError: a setting is wrong, or a cache that was asked for does not fit.
        DataError: a folder holds no dataset, or not the split that is asked for.
    """

    def __init__(
        self,
        data: Path | str | Sequence[Path | str],
        batch_size: int = 64,
        image_size: int = 224,
        workers: int | None = None,
        sampler: Sampling = "natural",
        seed: int = 0,
        *,
        interpolation: str = "bilinear",
        cache: Cache = "auto",
        max_per_class: int | None = None,
        without_contempt: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.folders = [Path(data)] if isinstance(data, Path | str) else [Path(d) for d in data]
        self.batch_size = batch_size
        self.image_size = image_size
        self.interpolation = interpolation
        self.workers = workers
        self.sampler = sampler
        self.seed = seed
        self.cache = cache
        self.max_per_class = max_per_class
        self.without_contempt = without_contempt
        self.device = None if device is None else torch.device(device)
        self.splits: dict[str, AnySplit] = {}
        """The splits opened so far, by name."""
        self._caches: dict[str, Tensor] = {}
        self._check()

    def _check(self) -> None:
        if not self.folders:
            raise ConfigError("no dataset was given; name a folder made by `affectnet ingest`")
        for name, value, least in (
            ("batch size", self.batch_size, 1),
            ("image size", self.image_size, 8),
            ("number of workers", self.workers, 0),
            ("cap per class", self.max_per_class, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"the {name} is {value}; it must be at least {least}")
        for name, given, allowed in (
            ("sampler", self.sampler, get_args(Sampling)),
            ("cache", self.cache, get_args(Cache)),
        ):
            if given not in allowed:
                raise ConfigError(
                    f"the {name} is '{given}'{suggest(given, allowed)}; "
                    f"it may be {', '.join(allowed)}"
                )

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: 'fit', 'validate', 'test'; all there are when None."""
        there = [s for s in SPLITS if any((f / f"{s}.arrow").is_file() for f in self.folders)]
        for name in _STAGES.get(stage, tuple(there)):
            self._open(name)

    def train_batches(self) -> TrainBatches:
        """The sampler of the split `train`: shuffled, weighted and capped as set."""
        rows = self.rows("train")
        weights = None
        if self.sampler != "natural":
            weights = sample_weights(self._open("train").expression[rows], self.sampler)
        return TrainBatches(rows, self.batch_size, seed=self.seed, weights=weights)

    def train_dataloader(self) -> "FaceLoader":
        """Return shuffled batches of the split `train`."""
        return self._loader("train", shuffled=True, reread=True)

    def val_dataloader(self) -> "FaceLoader":
        """Return the batches of the split `val`, in order."""
        return self._loader("val", reread=True)

    def test_dataloader(self) -> "FaceLoader":
        """Return the batches of the split `test`, in order."""
        return self._loader("test")

    def loader(self, split: str) -> "FaceLoader":
        """Return the batches of any split in the order of its rows, each row once.

        Neither a cap per class nor `without_contempt` applies. Over several processes each takes a
        part of the rows; `index` says which.
        """
        return self._loader(split, whole=True)

    def _loader(
        self, name: str, *, shuffled: bool = False, reread: bool = False, whole: bool = False
    ) -> "FaceLoader":
        split = self._open(name)
        rows = self.rows(name) if shuffled else self.rows(name, capped=False)
        if whole:
            rows = np.arange(len(split))
        cache = self._cached(name, rows, reread)
        sampler = self.train_batches() if shuffled else EvalBatches(rows, self.batch_size)
        workers = self.workers_for(len(rows)) if cache is None else 0
        return FaceLoader(
            FaceDataset(
                split,
                self.image_size,
                interpolation=self.interpolation,
                cache=cache,
                cached_rows=rows,
            ),
            # Lists of rows as samples, and no batching by the loader: the one way in which
            # Lightning leaves a sampler of batches alone in prediction, too.
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
            # A loader without its own would draw from the generator that dropout draws from.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available() and (cache is None or not cache.is_cuda),
        )

    def _open(self, name: str) -> AnySplit:
        if name not in self.splits:
            having = [folder for folder in self.folders if (folder / f"{name}.arrow").is_file()]
            parts = [open_split(folder, name) for folder in having or self.folders[:1]]
            split = parts[0] if len(self.folders) == 1 else JoinedSplit(parts)
            if len(split) == 0:
                raise DataError(
                    f"the split '{name}' of {', '.join(map(str, self.folders))} is empty; "
                    "make the dataset again with other sources or another validation fraction"
                )
            self.splits[name] = split
        return self.splits[name]

    def rows(self, name: str, *, capped: bool = True) -> NDArray[np.int64]:
        """Return the rows of an open split that are trained on; validated on, where not capped."""
        split = self.splits[name]
        cap = self.max_per_class if capped else None
        kept = cap_per_class(split.ids, split.expression, cap, self.seed)
        if self.without_contempt:
            kept &= split.expression != CONTEMPT
        return np.flatnonzero(kept)

    def _cached(self, name: str, rows: NDArray[np.int64], reread: bool) -> Tensor | None:
        copies = self._processes_here()
        if self.cache == "none":
            return None
        unasked = reread and fits_unasked(len(rows), self.image_size, copies)
        if self.cache == "auto" and not unasked:
            return None
        key = f"{name}:{len(rows)}"  # the same split may be wanted capped and whole
        if key not in self._caches:
            device = self._cache_device()
            check_fits(len(rows), self.image_size, device, copies)
            self._caches[key] = decode_all(
                self.splits[name], rows, self.image_size, device, self.interpolation
            )
        return self._caches[key]

    def _cache_device(self) -> torch.device | None:
        if self.cache != "device":
            return None
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        if self.device is not None:
            return self.device
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return None

    def workers_for(self, faces: int) -> int:
        """Return how many worker processes decode so many images."""
        if self.workers is not None:
            return self.workers
        if faces < _FEW_FACES:
            return 0
        return min(_MOST_WORKERS, max(1, cores() // self._processes_here()))

    def _processes_here(self) -> int:
        """Training processes on this machine."""
        if self.trainer is not None:
            return max(1, self.trainer.num_devices)
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class FaceLoader(DataLoader[Any]):
    """A DataLoader that passes on a worker's DataError without the traceback written into it.

    A pass begins when its first batch is asked for: Lightning makes the iterator of a resumed
    epoch before it tells the sampler which epoch that is.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            raise DataError(str(error).rsplit("DataError: ", 1)[-1].strip()) from error


def _as_it_is(batch: Any) -> Any:
    return batch
