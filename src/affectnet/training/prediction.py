"""Predict a whole split: every face once, over any number of devices.

A model over a split of a dataset: the table of predictions, calibrated and mirrored as asked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import Split, open_split
from affectnet.evaluation.calibration import apply_temperature, fit_temperature, log_probabilities
from affectnet.evaluation.prediction_files import predictions_table
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.training.distributed import gather_over_ranks
from affectnet.training.module import AffectModule
from affectnet.training.trainer import device_settings, quiet_lightning


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


def predict_split(
    model: AffectModel,
    data: Path,
    split: str = "test",
    *,
    batch_size: int = 128,
    workers: int | None = None,
    accelerator: str = "auto",
    devices: int | None = 1,
    nodes: int = 1,
    strategy: str = "auto",
    flip: bool = False,
) -> pa.Table:
    """The table of `predictions.parquet` of a split, truth beside prediction.

    Args:
        model: its `temperature` divides the logits where it has one.
        data: dataset folder.
        split: train, val or test.
        batch_size: faces a forward pass.
        workers: loader processes; chosen where not given.
        accelerator: auto, cpu or gpu.
        devices: processes a machine, which share the faces; each gets the whole table.
        nodes: machines.
        strategy: auto, ddp or fsdp.
        flip: take the mean of each face and its mirror image.

    Raises:
        ConfigError: fsdp without a GPU.
        DataError: no such dataset or split.
    """
    settings = device_settings(accelerator, devices, nodes, strategy=strategy)
    faces, rows = _forward(model, data, split, batch_size, workers, settings, flip)
    probabilities = rows["probabilities"].astype(np.float64)
    if model.temperature is not None:
        probabilities = apply_temperature(probabilities, model.temperature)
    every = np.full((len(probabilities), len(EXPRESSIONS)), np.nan)
    every[:, [EXPRESSIONS.index(name) for name in model.classes]] = probabilities
    return predictions_table(
        faces.ids,
        faces.expression,
        faces.valence,
        faces.arousal,
        every,
        rows["valence"],
        rows["arousal"],
    )


def calibrate(
    model: AffectModel,
    data: Path,
    split: str = "val",
    *,
    batch_size: int = 128,
    workers: int | None = None,
    accelerator: str = "auto",
    devices: int | None = 1,
    nodes: int = 1,
    strategy: str = "auto",
    flip: bool = False,
) -> float:
    """Fit the model's `temperature` on a split it was not trained on; return it.

    Arguments as of `predict_split`.

    Raises:
        DataError: no such dataset or split, or no face in it has an expression of the model's.
    """
    settings = device_settings(accelerator, devices, nodes, strategy=strategy)
    faces, rows = _forward(model, data, split, batch_size, workers, settings, flip)
    truth = _indices_in(model.classes)[faces.expression]
    model.temperature = fit_temperature(log_probabilities(rows["probabilities"]), truth)
    return model.temperature


def _forward(
    model: AffectModel,
    data: Path,
    split: str,
    batch_size: int,
    workers: int | None,
    settings: dict[str, Any],
    flip: bool,
) -> tuple[Split, dict[str, NDArray[Any]]]:
    faces = open_split(data, split)
    module = AffectDataModule(
        data,
        batch_size=batch_size,
        image_size=model.preprocessing.size,
        interpolation=model.preprocessing.interpolation,
        workers=workers,
        cache="none",
    )
    rows = predict(model, module.loader(split), **settings)
    if flip:
        hook = model.register_forward_pre_hook(_mirror)
        try:
            mirrored = predict(model, module.loader(split), **settings)
        finally:
            hook.remove()
        rows = {name: (rows[name] + mirrored[name]) / 2 for name in rows}
    return faces, rows


def _mirror(_: AffectModel, images: tuple[Tensor]) -> tuple[Tensor]:
    return (images[0].flip(-1),)


def _indices_in(classes: Sequence[str]) -> NDArray[np.int64]:
    """AffectNet's index -> index in `classes`, -1 for a class not among them and for -1."""
    places = [classes.index(name) if name in classes else -1 for name in EXPRESSIONS]
    return np.array([*places, -1])
