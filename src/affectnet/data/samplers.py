"""The rows of each batch, and the part of it that each process takes.

These samplers yield whole batches, as lists of row numbers. The place among the processes (rank and
number) is determined when a pass begins: a loader may be made before Lightning or torchrun has
initialised the process group.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import Sampler

from affectnet.errors import ConfigError, DataError

Place = tuple[int, int]
"""Rank of a process and number of processes."""


def current_place() -> Place:
    """Return this process's rank and the number of processes; (0, 1) for a single process."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class TrainBatches(Sampler[list[int]]):
    """Shuffled batches of an epoch; the order depends only on (seed, epoch).

    Without weights every row occurs once per epoch. With weights the same number of rows is drawn
    with replacement, each in proportion to its weight.

    Each process takes an equal contiguous part of a batch, so the parts of all processes, joined by
    rank, are the batch of a single process. The last batch is filled up with rows from the start of
    the order: every process takes the same number of steps, all of one size. A split smaller than a
    batch makes one batch of its own size, rounded up to a multiple of the processes.

    Args:
        rows: the row numbers to draw from, (n,).
        batch_size: rows per step over all processes.
        seed: 0 or above.
        weights: one per row, at least 0, or None.
        place: rank and number of processes; the current ones where None.

    Raises:
        ConfigError: when a pass begins and the batch cannot be divided equally.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
        place: Place | None = None,
    ) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._ends = None if weights is None else np.cumsum(weights) / np.sum(weights)
        self._place = place
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls it."""
        self.epoch = epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in the order of a single process."""
        random = np.random.default_rng([self._seed, epoch])
        if self._ends is None:
            return random.permutation(self._rows)
        # Rounding may leave the last end below 1, and no row would match a draw above it.
        drawn = np.searchsorted(self._ends[:-1], random.random(len(self._rows)), side="right")
        return self._rows[drawn]

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self._sizes()[0])

    def __iter__(self) -> Iterator[list[int]]:
        batch, part, rank = self._sizes()
        order = np.resize(self.order(self.epoch), len(self) * batch)  # np.resize repeats the start
        for start in range(rank * part, len(order), batch):
            yield order[start : start + part].tolist()

    def _sizes(self) -> tuple[int, int, int]:
        rank, processes = self._place or current_place()
        if self._batch_size % processes:
            near = max(1, round(self._batch_size / processes)) * processes
            raise ConfigError(
                f"a batch of {self._batch_size} cannot be divided equally among {processes} "
                f"processes; choose a multiple of {processes}, such as {near}"
            )
        batch = min(self._batch_size, math.ceil(len(self._rows) / processes) * processes)
        return batch, batch // processes, rank


class EvalBatches(Sampler[list[int]]):
    """Batches of all rows in order, each row in exactly one batch of one process.

    Every process gets the same number of batches, none empty, because processes that synchronise
    would otherwise wait forever; with several processes the parts differ by at most one row.

    Args:
        rows: the row numbers, (n,).
        batch_size: largest number of rows per step over all processes.
        place: rank and number of processes; the current ones where None.

    Raises:
        DataError: when a pass begins and there are fewer rows than processes.
    """

    def __init__(
        self, rows: NDArray[np.int64], batch_size: int, *, place: Place | None = None
    ) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._place = place

    def __len__(self) -> int:
        _, processes = self._place or current_place()
        n = len(self._rows)
        if n < processes:
            raise DataError(
                f"{n} images cannot be divided among {processes} processes; use at most {n} devices"
            )
        part = max(1, self._batch_size // processes)
        return min(math.ceil(n / (part * processes)), n // processes)

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = self._place or current_place()
        steps, n = len(self), len(self._rows)
        if processes == 1:
            ends = np.minimum(np.arange(steps + 1) * self._batch_size, n)
        else:
            ends = np.arange(steps * processes + 1) * n // (steps * processes)
        for part in range(rank, steps * processes, processes):
            yield self._rows[ends[part] : ends[part + 1]].tolist()
