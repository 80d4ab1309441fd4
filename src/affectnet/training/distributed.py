"""Communication between the processes of a training; seeds that do not depend on their number."""

import hashlib

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]
from torch import Tensor, distributed

from affectnet.models.affect_model import AffectOutput
from affectnet.models.losses import Output

LABELS = ("expression", "valence", "arousal", "soft")


def rank() -> int:
    """The number of this process in the run, 0 if it is the only one; known before they connect."""
    return int(rank_zero_only.rank or 0)  # type: ignore[attr-defined]


def alone() -> bool:
    """Whether there is no other process to communicate with."""
    connected = distributed.is_available() and distributed.is_initialized()
    return not connected or distributed.get_world_size() == 1


def wait_for_all() -> None:
    """Wait until every process of the run has called this."""
    if not alone():
        distributed.barrier()


def gather_batch(output: Output, batch: dict[str, Tensor]) -> tuple[Output, dict[str, Tensor]]:
    """Outputs and labels of the whole batch, of which every process has an equal part.

    A loss of them equals the loss of a single process: CCC is not a mean over faces, and the mean
    over the labelled ones needs their total count. Only a process's own outputs have a gradient,
    multiplied by the number of processes, because DDP averages gradients that must be summed.
    """
    if alone():
        return output, batch
    outputs = map(_gather_with_gradient, (output.logits, output.valence, output.arousal))
    gathered = AffectOutput(*outputs)
    return gathered, {name: torch.cat(_gather(batch[name])) for name in LABELS if name in batch}


def _gather_with_gradient(own: Tensor) -> Tensor:
    own = own.float()
    parts = _gather(own)
    fixed = own.detach()
    parts[distributed.get_rank()] = fixed + len(parts) * (own - fixed)
    return torch.cat(parts)


def _gather(own: Tensor) -> list[Tensor]:
    """A tensor of every process, in rank order, without gradients."""
    own = own.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    return parts


def gather_over_ranks(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all processes, in rank order."""
    if alone():
        return rows
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
