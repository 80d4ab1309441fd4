"""Predict a whole split: every face once, over any number of devices."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from affectnet.models.affect_model import AffectModel
from affectnet.training.gathering import gather_over_ranks
from affectnet.training.module import AffectModule
from affectnet.training.trainer import quiet_lightning


def predict(
    model: AffectModel, loader: DataLoader[Any], **trainer_settings: Any
) -> dict[str, np.ndarray]:
    """Run `model` over a loader of `AffectDataModule`.

    Args:
        model: backbone and heads.
        loader: yields batches with `image` (uint8, (B, 3, S, S)) and `index`.
        trainer_settings: devices, precision and so on, for Lightning's `Trainer`.

    Returns:
        `index` (N,) in rising order, `probabilities` (N, 8), `valence` and `arousal` (N,): float32,
        the same on every rank, each row once.
    """
    quiet_lightning()
    trainer = L.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **trainer_settings,
    )
    batches: Any = trainer.predict(AffectModule(model), loader) or []
    mine = {
        name: np.concatenate([batch[name].numpy() for batch in batches])
        for name in ("index", "probabilities", "valence", "arousal")
    }
    rows = gather_over_ranks(mine)
    _, first = np.unique(rows["index"], return_index=True)
    return {name: values[first] for name, values in rows.items()}


def wait_for_all() -> None:
    """Wait until every process of the run has come here; return at once where this one is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
