"""The LightningDataModule: a dataset's splits as batches, for one process or many.

Decoded faces are cached in main memory or on the GPU where they fit.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from affectnet.data.dataset import Batch, FaceDataset
from affectnet.data.samplers import EvalBatches, TrainBatches
from affectnet.data.splits import Sampling, cap_per_class, sample_weights
from affectnet.data.store import SPLITS, JoinedSplit, Split, existing_splits, open_split
from affectnet.errors import ConfigError, DataError, check_choice
from affectnet.seven import CONTEMPT
from affectnet.threads import cores, ordered_map

Cache = Literal["auto", "none", "ram", "device"]
Leaks = Literal["keep", "drop"]

AUTO_BYTES = 1_000_000_000
"""`auto` caches a split in memory if its decoded faces take less than this."""

_CHUNK = 256
_MOST_WORKERS: Final = 16
_FEW_FACES: Final = 2048  # with fewer, starting worker processes takes longer than they save

_STAGES: Final[dict[str, Sequence[str]]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}


def decoded_bytes(faces: int, size: int) -> int:
    """Return the bytes that `faces` decoded faces of `size` x `size` pixels take."""
    return faces * size * size * 3


def free_memory(device: torch.device | None = None) -> int | None:
    """Return the free bytes of main memory or of a CUDA device; None where unknown.

    For main memory this is what the kernel can provide without swapping, or the rest of the
    control group's limit (containers, SLURM), whichever is less.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_available_memory(), control_group_memory()]
    return min((limit for limit in limits if limit is not None), default=None)


def fits_auto(faces: int, size: int, copies: int = 1) -> bool:
    """Whether `auto` caches the faces: under 1 GB and at most half of the free memory."""
    need = decoded_bytes(faces, size)
    free = free_memory()
    return need < AUTO_BYTES and (free is None or 2 * copies * need <= free)


def check_fits(faces: int, size: int, device: torch.device | None = None, copies: int = 1) -> None:
    """Check that the decoded faces fit in memory.

    Args:
        faces: number of faces.
        size: side in pixels.
        device: the CUDA device for the cache; main memory where None.
        copies: processes on this machine, each with its own cache.

    Raises:
        ConfigError: they do not fit; the message states the sizes.
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
    split: Split,
    rows: NDArray[np.int64],
    size: int,
    device: torch.device | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Decode some rows once, in threads, with a progress bar.

    Returns:
        uint8 (n, size, size, 3) in main memory, or on `device`.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    faces = FaceDataset(split, size, interpolation)
    pixels = torch.empty((len(rows), size, size, 3), dtype=torch.uint8, device=device)

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

    with tqdm(total=len(rows), desc="decoding", unit=" faces", disable=None, leave=False) as bar:
        for done in ordered_map(decode, range(0, len(rows), _CHUNK)):
            bar.update(done)
    return pixels


def _available_memory() -> int | None:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def control_group_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the free bytes below the limit; the page cache, which can shrink, counts as free."""
    second = ("", "max", "current", "inactive_file")
    first = ("memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file")
    for folder, limit_name, used_name, key in (second, first):
        try:
            limit, used, stat = (
                (root / folder / f"memory.{name}").read_text(encoding="ascii")
                for name in (limit_name, used_name, "stat")
            )
            if limit.strip() == "max":
                return None
        except OSError:
            continue
        numbers = dict(line.split() for line in stat.splitlines())
        return max(0, int(limit) - int(used) + int(numbers.get(key, 0)))
    return None


class AffectDataModule(L.LightningDataModule):
    """The splits of a dataset, or of several joined, as batches of uint8 images and labels.

    Batches are dictionaries (`affectnet.data.dataset.Batch`); images come as uint8, for `augment`
    and `normalise` on whole batches on the model's device. It distributes the batches over the
    processes itself: give the Trainer `use_distributed_sampler=False`.

    Args:
        data: dataset folder made by `affectnet ingest`, or several. Their rows are joined; a
            dataset that lacks a target trains only the others.
        batch_size: images per step over all processes together.
        image_size: side of the images in pixels.
        workers: processes that decode. Where None: the cores per training process, at most 16, and
            none for fewer than 2,048 images or a cache.
        sampler: 'natural' takes every training image once per epoch. 'balanced' and 'sqrt' draw the
            same number with replacement: all classes equally often, or a class of n images in
            proportion to sqrt(n); an image without expression is drawn as often as in 'natural'.
        seed: determines the order, with the number of the epoch.
        interpolation: for images of another size, as in `decode_image`.
        cache: 'ram' decodes every split once into memory, 'device' onto the GPU of the process
            (into memory without a GPU); both decode in threads and need no workers. 'none' decodes
            again in each epoch. 'auto' is 'ram' for the splits of `train_dataloader` and
            `val_dataloader` that take under 1 GB decoded and at most half of the free memory
            (145,000 images at 48, 6,600 at 224), else 'none'.
        max_per_class: largest number of training images per class, the same ones every time.
        without_contempt: leave the faces of contempt out of training, validation and test, but not
            out of `loader`.
        leaks: 'drop' leaves out of training the faces with a duplicate in `val` or `test`, and out
            of validation those with one in `test`; 'keep' does not.
        with_val: train on the splits `train` and `val` together, as the split `train`; nothing is
            left to validate on.
        device: for cache 'device' without a Trainer, whose device is used otherwise.

    Raises:
        ConfigError: a setting is invalid, or a requested cache does not fit.
        DataError: a folder is not a dataset, or lacks the requested split.
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
        leaks: Leaks = "keep",
        with_val: bool = False,
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
        self.leaks = leaks
        self.with_val = with_val
        self.device = None if device is None else torch.device(device)
        self.splits: dict[str, Split] = {}
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
        check_choice("sampler", self.sampler, get_args(Sampling))
        check_choice("cache", self.cache, get_args(Cache))
        check_choice("leaks", self.leaks, get_args(Leaks))

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: 'fit', 'validate', 'test', or all where None."""
        found = {name for folder in self.folders for name in existing_splits(folder)}
        for name in _STAGES.get(stage or "", [name for name in SPLITS if name in found]):
            if not (self.with_val and name == "val"):
                self._open(name)

    def train_batches(self) -> TrainBatches:
        """Return the sampler of the split `train`: shuffled, weighted and capped as set."""
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

        Neither the cap per class nor `without_contempt` applies. With several processes each takes
        a part of the rows, which `index` identifies.
        """
        return self._loader(split, whole=True)

    def _loader(
        self, name: str, *, shuffled: bool = False, reread: bool = False, whole: bool = False
    ) -> "FaceLoader":
        split = self._open(name)
        rows = np.arange(len(split)) if whole else self.rows(name, capped=shuffled)
        cache = self._cached(name, rows, reread)
        sampler = self.train_batches() if shuffled else EvalBatches(rows, self.batch_size)
        workers = self.workers_for(len(rows)) if cache is None else 0
        return FaceLoader(
            FaceDataset(split, self.image_size, self.interpolation, cache, rows),
            # Samples are lists of rows and the loader does not batch: only then does Lightning
            # keep a sampler of batches in prediction, too.
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_unchanged,
            # Without its own, a loader would draw from the generator that dropout uses.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available() and (cache is None or not cache.is_cuda),
        )

    def _open(self, name: str) -> Split:
        if name not in self.splits:
            names = ("train", "val") if self.with_val and name == "train" else (name,)
            parts = [
                (folder, part)
                for folder in self.folders
                for part in names
                if (folder / f"{part}.arrow").is_file()
            ]
            opened = [open_split(*part) for part in parts or [(self.folders[0], name)]]
            alone = len(self.folders) == len(names) == 1
            split = opened[0] if alone else JoinedSplit(opened)
            if len(split) == 0:
                raise DataError(
                    f"the split '{name}' of {', '.join(map(str, self.folders))} is empty; "
                    "make the dataset again with other sources or another validation fraction"
                )
            self.splits[name] = split
        return self.splits[name]

    def rows(self, name: str, *, capped: bool = True) -> NDArray[np.int64]:
        """Return the rows of an open split for training, or for validation where not `capped`."""
        split = self.splits[name]
        cap = self.max_per_class if capped else None
        used = cap_per_class(split.ids, split.expression, cap, self.seed)
        if self.without_contempt:
            used &= split.expression != CONTEMPT
        if self.leaks == "drop":
            used &= ~self.leaking(name)
        return np.flatnonzero(used)

    def leaking(self, name: str) -> NDArray[np.bool_]:
        """Return which rows of an open split have a duplicate in a later split, bool (n,).

        Raises:
            DataError: ingest did not search for duplicates.
        """
        copied = self.splits[name].copied_in(self.later(name))
        if copied is None:
            raise DataError(
                f"{' or '.join(map(str, self.folders))} does not record which faces have "
                "duplicates in its test split; ingest the release again, without --group none"
            )
        return copied

    def later(self, name: str) -> tuple[str, ...]:
        """Return the splits after an open one: those on which its faces must not be."""
        last = "val" if self.with_val and name == "train" else name
        return SPLITS[SPLITS.index(last) + 1 :]

    def _cached(self, name: str, rows: NDArray[np.int64], reread: bool) -> Tensor | None:
        copies = self._processes_here()
        if self.cache == "none":
            return None
        automatic = reread and fits_auto(len(rows), self.image_size, copies)
        if self.cache == "auto" and not automatic:
            return None
        key = f"{name}:{len(rows)}"  # the same split may be used capped and whole
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
        """Return the number of worker processes for decoding this many images."""
        if self.workers is not None:
            return self.workers
        if faces < _FEW_FACES:
            return 0
        return min(_MOST_WORKERS, max(1, cores() // self._processes_here()))

    def _processes_here(self) -> int:
        """Return the number of training processes on this machine."""
        if self.trainer is not None:
            return max(1, self.trainer.num_devices)
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class FaceLoader(DataLoader[Any]):
    """A DataLoader that raises a worker's DataError without the traceback in its text.

    A pass begins when its first batch is requested: Lightning makes the iterator of a resumed
    epoch before it sets the epoch of the sampler.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            raise DataError(str(error).rsplit("DataError: ", 1)[-1].strip()) from error


def _unchanged(batch: Any) -> Any:
    return batch
