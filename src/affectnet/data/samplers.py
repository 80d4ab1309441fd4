"""Which rows make up each batch, and which process takes which part of it.

A sampler here yields whole batches, as lists of row numbers. The place among the processes (rank
and number) is looked up when a pass begins, not before: a loader may be made before Lightning or
torchrun has joined the processes.
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
    """Return this process's rank and the number of processes; (0, 1) when it is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class TrainBatches(Sampler[list[int]]):
    """Shuffled batches of an epoch; the order is a function of (seed, epoch) alone.

    Without weights every row comes once an epoch. With weights as many rows as there are are drawn
    with replacement, each in proportion to its weight.

    A batch is shared out in equal contiguous parts, so the parts of all processes, joined by rank,
    are the batch that one process would have. The last batch is filled up with rows from the
    beginning of the order: every process takes the same number of steps, all of one size. A split
    smaller than a batch makes one batch of its own size, rounded up to a multiple of the processes.

    Args:
        rows: the row numbers to draw from, (n,).
        batch_size: rows a step over all processes.
        seed: 0 or above.
        weights: one a row, at least 0, or None.
        place: rank and number of processes; the current ones where not given.

    Raises:
        ConfigError: when a pass begins and the batch cannot be shared equally.
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
        """Choose the epoch of the next pass; Lightning calls it."""
        self.epoch = epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in the order in which one process would take them."""
        random = np.random.default_rng([self._seed, epoch])
        if self._ends is None:
            return random.permutation(self._rows)
        # Rounding may leave the last end below 1, and a draw above it would be no row.
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
                f"a batch of {self._batch_size} cannot be shared equally by {processes} processes; "
                f"choose a multiple of {processes}, such as {near}"
            )
        batch = min(self._batch_size, math.ceil(len(self._rows) / processes) * processes)
        return batch, batch // processes, rank


class EvalBatches(Sampler[list[int]]):
    """Batches of all rows in their order, each row in exactly one batch of one process.

    Every process gets the same number of batches, none empty, or those that wait for one another
    would wait for ever; with several processes the parts differ by one row at most.

    Args:
        rows: the row numbers, (n,).
        batch_size: rows a step over all processes, at most.
        place: rank and number of processes; the current ones where not given.

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
                f"{n} images cannot be shared by {processes} processes; use at most {n} devices"
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
