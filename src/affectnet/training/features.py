"""Frozen backbone: features are computed once, cached on disk, and the heads are trained on them.

The cache has one folder per key, with one file of float16 features for each split and view. The key
is a hash of everything that the features depend on, so features of other data, other weights or
another preprocessing are never used by mistake. A killed pass is resumed where it stopped.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from affectnet.data.augment import augment, normalise, to_float
from affectnet.data.augmentation import Augmentation
from affectnet.data.datamodule import AffectDataModule, FaceLoader
from affectnet.data.dataset import Batch, FaceDataset, labels_of
from affectnet.data.samplers import EvalBatches, TrainBatches
from affectnet.data.store import Split
from affectnet.models.affect_model import AffectModel
from affectnet.run import locked, write_beside
from affectnet.training.distributed import derived_seed
from affectnet.version import PREPROCESSING_VERSION

PLAIN: Final = 0  # the view without augmentation; views 1, 2, ... are augmented
LONGEST_PASS: Final = 30 * 24 * 3600.0
"""Seconds that a process waits for another one that computes the same features."""
# Images per forward pass; part of the key, since augmentation is drawn chunk by chunk.
_CHUNK: Final = 64


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeaturePass:
    """Computes the features of splits, or reads them from the cache.

    Args:
        model: its backbone is used unchanged, in evaluation mode.
        folder: the folder of all caches; each is named by 20 digits of its key's SHA-256.
        data: content hash of each dataset that the splits come from.
        augmentation: of the augmented views.
        seed: of the augmented views.
        device: where the backbone runs.
        precision: `32` or `bf16`.
    """

    def __init__(
        self,
        model: AffectModel,
        folder: Path,
        *,
        data: Sequence[str],
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        precision: str = "32",
    ) -> None:
        self.model = model
        self.augmentation = augmentation
        self.device = device
        self.precision = precision
        self.seed = seed
        self.key = {
            "data": list(data),
            "architecture": model.architecture,
            "weights": weights_hash(model.backbone),
            "preprocessing": asdict(model.preprocessing),
            "preprocessing version": PREPROCESSING_VERSION,
            "precision": f"{precision} {device.type}",
        }
        """Everything that the features of the plain view depend on."""
        self._folder = folder

    def key_of(self, view: int) -> dict[str, Any]:
        """Everything that the features of a view depend on.

        Runs of other seeds and augmentations share the plain view.
        """
        drawn = {"augmentation": asdict(self.augmentation), "seed": self.seed}
        return self.key if view == PLAIN else self.key | drawn

    def folder_of(self, view: int) -> Path:
        """The folder of the features of a view."""
        text = json.dumps([_CHUNK, self.key_of(view)], sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:20]

    def features(self, split: Split, name: str, view: int, workers: int) -> NDArray[np.float16]:
        """Return the features of one view of a split, float16 (n, num_features), memory-mapped.

        One process computes them, others that need the same wait for it. Raises `DataError` if an
        image cannot be decoded, and `OSError` on a full disk; the features computed before are
        kept.
        """
        shape = (len(split), self.model.num_features)
        file = self.folder_of(view) / f"{name}-{view}.f16"
        progress = file.with_suffix(".json")
        if _rows_done(file, progress, shape) < len(split):
            with locked(file, wait=LONGEST_PASS):
                self._complete(split, name, view, workers, file, shape)
        return np.memmap(file, np.float16, "r", shape=shape)

    def _complete(
        self,
        split: Split,
        name: str,
        view: int,
        workers: int,
        file: Path,
        shape: tuple[int, int],
    ) -> None:
        progress = file.with_suffix(".json")
        done = _rows_done(file, progress, shape)
        if done == 0:
            # The file is renamed into place at its full size, so that the size is always right.
            with write_beside(file) as new:
                np.memmap(new, np.float16, "w+", shape=shape).flush()
            self._write_progress(progress, 0, view)
        if done < len(split):
            rows = np.memmap(file, np.float16, "r+", shape=shape)
            self._compute(split, name, view, workers, rows, done, progress)

    @torch.no_grad()
    def _compute(
        self,
        split: Split,
        name: str,
        view: int,
        workers: int,
        rows: NDArray[np.float16],
        done: int,
        progress: Path,
    ) -> None:
        backbone = self.model.backbone.to(self.device).eval()
        preprocessing = self.model.preprocessing
        loader = FaceLoader(
            FaceDataset(split, preprocessing.size, interpolation=preprocessing.interpolation),
            batch_size=None,
            sampler=EvalBatches(np.arange(done, len(split)), _CHUNK, place=(0, 1)),
            num_workers=workers,
        )
        label = f"features of {name}" + (f", view {view}" if view else "")
        with tqdm(total=len(split), initial=done, desc=label, unit="face", disable=None) as bar:
            for batch in loader:
                images = batch["image"].to(self.device)
                if view == PLAIN:
                    images = to_float(images)
                else:
                    seed = derived_seed(self.seed, "view", view, name, done)
                    generator = torch.Generator().manual_seed(seed)
                    images = augment(images, self.augmentation, generator)
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
                ):
                    features = backbone(normalise(images, preprocessing.mean, preprocessing.std))
                # Beyond float16's range a feature, and every loss with it, would become infinite.
                rows[done : done + len(images)] = (
                    features.float().clamp(-65504, 65504).cpu().numpy().astype(np.float16)
                )
                done += len(images)
                bar.update(len(images))
                self._write_progress(progress, done, view)

    def _write_progress(self, progress: Path, done: int, view: int) -> None:
        with write_beside(progress) as new:
            new.write_text(json.dumps({"rows": done, "key": self.key_of(view)}, indent=1))


def _rows_done(file: Path, progress: Path, shape: tuple[int, int]) -> int:
    """Number of complete rows in a cache file."""
    if not file.is_file() or file.stat().st_size != 2 * shape[0] * shape[1]:
        return 0
    try:
        done = json.loads(progress.read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    # A pass restarts at the first row of a chunk, where the augmentation is drawn too.
    return shape[0] if done == shape[0] else int(done) // _CHUNK * _CHUNK


@dataclass(eq=False)
class FeatureDataset(Dataset[Batch]):
    """Features and labels by row number; a batch is `Batch` with `features` in place of `image`.

    Args:
        split: the labels.
        views: features (n, F) of each view.
        sampler: its epoch, with the seed, decides which view of a face is used.
        seed: see `sampler`.
    """

    split: Split
    views: Sequence[NDArray[np.float16]]
    sampler: TrainBatches | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        at = np.asarray(rows, np.int64)
        chosen = np.zeros(len(at), np.int64)
        if self.sampler is not None and len(self.views) > 1:
            # A hash of epoch and row, not a stream: any part of an epoch can be repeated.
            mixed = (at + 1) * 0x9E3779B1 + derived_seed(self.seed, "view", self.sampler.epoch)
            chosen = ((mixed.astype(np.uint64) >> np.uint64(13)) % len(self.views)).astype(np.int64)
        features = np.empty((len(at), self.views[0].shape[1]), np.float32)
        for view in np.unique(chosen):
            rows_of_view = chosen == view
            features[rows_of_view] = self.views[view][at[rows_of_view]]
        return {"features": torch.from_numpy(features), **labels_of(self.split, at)}


class FeatureDataModule(L.LightningDataModule):
    """Batches of features instead of images, in the order of `AffectDataModule`.

    Args:
        data: its splits, batch size, sampler and seed are used.
        source: computes the features when the Trainer asks for batches.
        views: augmented views of each training face, besides the plain one.
    """

    def __init__(self, data: AffectDataModule, source: FeaturePass, views: int = 0) -> None:
        super().__init__()
        # All machines of a run share the folder of the features, as they share the run folder.
        self.prepare_data_per_node = False
        self.data = data
        self.source = source
        self.views = views

    def prepare_data(self) -> None:
        """Compute missing features in one process, before the others read them."""
        self.data.setup("fit")
        for name in self.data.splits:
            for view in range(self.views + 1 if name == "train" else 1):
                self._features(name, view)

    def setup(self, stage: str) -> None:
        """Open the splits."""
        self.data.setup("fit")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled batches of the split `train`."""
        sampler = self.data.train_batches()
        views = [self._features("train", view) for view in range(self.views + 1)]
        dataset = FeatureDataset(self.data.splits["train"], views, sampler, self.data.seed)
        return _loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the split `val`, in order."""
        split = self.data.splits["val"]
        dataset = FeatureDataset(split, [self._features("val", PLAIN)])
        sampler = EvalBatches(self.data.rows("val", capped=False), self.data.batch_size)
        return _loader(dataset, sampler)

    def _features(self, name: str, view: int) -> NDArray[np.float16]:
        split = self.data.splits[name]
        # Of its own name: the same faces as in `train`, and more.
        stored = "train+val" if self.data.with_val else name
        return self.source.features(split, stored, view, self.data.workers_for(len(split)))


def _loader(dataset: FeatureDataset, sampler: TrainBatches | EvalBatches) -> DataLoader[Batch]:
    # A loader without its own generator would draw from the one that dropout draws from.
    return DataLoader(dataset, batch_size=None, sampler=sampler, generator=torch.Generator())
