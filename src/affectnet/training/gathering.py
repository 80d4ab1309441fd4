"""What the processes of a training know together: rows for figures, outputs for losses."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather

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
    over the labelled ones needs the count of all. Gradients flow back to the process that each
    output came from; every process adds the same share, so that DDP's mean is the whole gradient.
    """
    if alone():
        return output, batch
    parts = (
        torch.cat(cast(Any, all_gather)(part.float().contiguous()))
        for part in (output.logits, output.valence, output.arousal)
    )
    labels = {}
    for name in LABELS:
        if name in batch:
            held = [torch.empty_like(batch[name]) for _ in range(distributed.get_world_size())]
            distributed.all_gather(held, batch[name].contiguous())
            labels[name] = torch.cat(held)
    return Gathered(*parts), labels


def gather_over_ranks(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all ranks, in rank order; the rows themselves where alone."""
    if alone():
        return rows
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in rows}
