"""Faces by row number: pixels, decoded in batches, and labels with missing values marked."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from affectnet.data.images import Pixels, decode_into, resize
from affectnet.data.store import Split
from affectnet.errors import DataError

Batch = dict[str, Tensor]
"""A batch: `image` uint8 (B, 3, S, S); `index` int64 (B,), the row in the split; `expression`
int64 (B,), -1 where missing; `valence` and `arousal` float32 (B,) and `soft` float32 (B, 8), NaN
where missing."""


def copied_to(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Return copies on a device, in one transfer for which nobody waits.

    A plain `to` of a tensor in main memory waits until a GPU has done all its earlier work; on the
    CPU the tensors themselves are returned.
    """
    if device.type == "cpu" or not tensors:
        return list(tensors)
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    # Each begins at a multiple of 16 bytes, so that it can be viewed as its own type.
    padded = [F.pad(values, (0, -len(values) % 16)) for values in flat]
    packed = torch.cat(padded)
    if device.type == "cuda":
        packed = packed.pin_memory()
    moved = packed.to(device, non_blocking=True)
    parts = torch.split(moved, [len(values) for values in padded])
    return [
        part[: len(values)].view(tensor.dtype).view(tensor.shape)
        for part, values, tensor in zip(parts, flat, tensors, strict=True)
    ]


def labels_of(split: Split, rows: NDArray[np.int64]) -> Batch:
    """Return the entries of a `Batch` other than its images, for some rows."""
    return {
        "index": torch.from_numpy(rows),
        "expression": torch.from_numpy(split.expression[rows].astype(np.int64)),
        "valence": torch.from_numpy(split.valence[rows]),
        "arousal": torch.from_numpy(split.arousal[rows]),
        "soft": torch.from_numpy(split.soft[rows]),
    }


def fast_resize(pixels: Pixels, size: int, interpolation: str = "bilinear") -> Pixels:
    """`affectnet.data.images.resize`, which uses Pillow, in a fourth of its time.

    PyTorch has Pillow's algorithm with vector instructions. Bilinear values differ by at most 1 of
    255, bicubic ones by 2, and fewer than 3% differ at all. Prediction works without PyTorch.
    """
    if pixels.shape[:2] == (size, size) or interpolation not in ("bilinear", "bicubic"):
        return resize(pixels, size, interpolation)
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized = F.interpolate(image, (size, size), mode=interpolation, antialias=True)
    result: Pixels = resized[0].permute(1, 2, 0).numpy()
    return result


class FaceDataset(Dataset[Batch]):
    """The faces of a split at one size; indexed by a list of rows, it returns their `Batch`.

    Images are channels_last in memory, as the decoder writes them, with the shape (B, 3, S, S).
    Only the paths of the files are pickled, so worker processes may be forked or spawned.

    Args:
        split: the faces.
        size: side of the square images in pixels; others are resized.
        interpolation: of the resizing, as in `decode_image`.
        cache: decoded faces, uint8 (k, S, S, 3), on any device; None to decode on demand.
        cached_rows: the row of each of the k faces; all rows where None.

    Raises:
        DataError: on access, naming the face, when an image cannot be decoded.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        interpolation: str = "bilinear",
        cache: Tensor | None = None,
        cached_rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.split = split
        self.size = size
        self.interpolation = interpolation
        self._cache = cache
        self._slots: NDArray[np.int64] | None = None
        if cache is not None and cached_rows is not None:
            self._slots = np.full(len(split), -1)
            self._slots[cached_rows] = np.arange(len(cached_rows))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, rows: int | Sequence[int]) -> Batch:
        if isinstance(rows, int):
            return {name: values[0] for name, values in self.__getitems__([rows]).items()}
        return self.__getitems__(rows)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        at = np.asarray(rows, np.int64)
        labels = labels_of(self.split, at)
        if self._cache is None:
            return {"image": self.images(at), **labels}
        slots = torch.from_numpy(at if self._slots is None else self._slots[at])
        slots, *values = copied_to(self._cache.device, slots, *labels.values())
        pixels = self._cache.index_select(0, slots)
        return {"image": pixels.permute(0, 3, 1, 2), **dict(zip(labels, values, strict=True))}

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Decode the pixels of some rows, uint8 (n, 3, S, S)."""
        pixels = torch.empty((len(rows), self.size, self.size, 3), dtype=torch.uint8)
        if get_worker_info() is not None:
            # Decoding into memory that the main process reads saves a copy of the batch.
            pixels.share_memory_()  # type: ignore[no-untyped-call]
        self.decode(rows, pixels.numpy())
        return pixels.permute(0, 3, 1, 2)

    def decode(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Decode some rows into uint8 (n, S, S, 3)."""
        for row, target in zip(rows.tolist(), pixels, strict=True):
            data = self.split.image_bytes(row)
            try:
                decode_into(data, target, self.interpolation, fast_resize)
            except DataError as error:
                raise DataError(f"{self.split.describe(row)}: {error}") from error
