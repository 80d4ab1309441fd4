"""What the processes of a training know together: rows for figures, outputs for losses.

Seeds that are functions of what they are for, and of nothing that happened before.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from affectnet.models.losses import Output

LABELS = ("expression", "valence", "arousal", "soft")


@dataclass(frozen=True)
class Gathered:
    """Outputs for the faces of all processes, in the order of the batch."""

    logits: Tensor
    valence: Tensor
    arousal: Tensor


def alone() -> bool:
    """Whether there is no other process to gather from."""
    together = distributed.is_available() and distributed.is_initialized()
    return not together or distributed.get_world_size() == 1


def gather_batch(output: Output, batch: dict[str, Tensor]) -> tuple[Output, dict[str, Tensor]]:
    """Outputs and labels of the whole batch, of which every process holds an equal part.

    A loss of them is the loss that one process would have: CCC is no mean over faces, and the mean
    over the labelled ones needs the count of all. Only a process's own outputs carry a gradient,
    times the number of processes, since DDP takes the mean of the gradients where the sum is meant.
    """
    if alone():
        return output, batch
    logits, valence, arousal = (
        torch.cat(_from_all(part, distributed.get_world_size()))
        for part in (output.logits, output.valence, output.arousal)
    )
    labels = {name: torch.cat(_held(batch[name])) for name in LABELS if name in batch}
    return Gathered(logits, valence, arousal), labels


def _from_all(part: Tensor, processes: int) -> list[Tensor]:
    own = part.float()
    parts = _held(own)
    fixed = own.detach()
    parts[distributed.get_rank()] = fixed + processes * (own - fixed)
    return parts


def _held(part: Tensor) -> list[Tensor]:
    """What every process holds of a tensor, in rank order, without gradients."""
    mine = part.detach().contiguous()
    parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, mine)
    return parts


def gather_over_ranks(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all ranks, in rank order; the rows themselves where alone."""
    if alone():
        return rows
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that is a function of `parts` alone, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
