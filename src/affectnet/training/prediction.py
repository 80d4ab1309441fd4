"""Predictions of a model for a whole split, and the temperature that calibrates them."""

from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import Split, open_split
from affectnet.errors import ConfigError
from affectnet.evaluation.calibration import apply_temperature, fit_temperature, log_probabilities
from affectnet.evaluation.metrics import Calibration
from affectnet.evaluation.predictions import predictions_table
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import untrained_note
from affectnet.models.prior import corrected, correction
from affectnet.training.distributed import gather_over_ranks
from affectnet.training.module import AffectModule
from affectnet.training.trainer import ctrl_c_raises, device_settings, quiet_lightning


def predict(
    model: AffectModel, loader: DataLoader[Any], **trainer_settings: Any
) -> dict[str, np.ndarray]:
    """Predict every face of a loader of `AffectDataModule`.

    Args:
        model: backbone and heads.
        loader: yields batches with `image` (uint8, (B, 3, S, S)) and `index`.
        trainer_settings: devices, precision and so on, for Lightning's `Trainer`.

    Returns:
        `index` (N,), ascending, `probabilities` (N, K), `valence` and `arousal` (N,): float32, the
        same in every process, each row once.
    """
    quiet_lightning()
    trainer = L.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **trainer_settings,
    )
    with ctrl_c_raises():
        batches: Any = trainer.predict(AffectModule(model), loader) or []
    own = {
        name: np.concatenate([batch[name].numpy() for batch in batches])
        for name in ("index", "probabilities", "valence", "arousal")
    }
    rows = gather_over_ranks(own)
    _, first = np.unique(rows["index"], return_index=True)
    return {name: values[first] for name, values in rows.items()}


def predict_split(
    model: AffectModel,
    data: Path | str,
    split: str = "test",
    *,
    prior: str | None = None,
    prior_tau: float = 1.0,
    **settings: Any,
) -> pa.Table:
    """The table of `predictions.parquet` for a split: labels and predictions.

    Args:
        model: its `temperature`, if any, divides the logits; predictions of targets that it was not
            trained on are null.
        data: dataset folder.
        split: train, val or test.
        prior, prior_tau: correct the probabilities, after the temperature, for these class
            fractions; see `models.prior.correction`, whose errors it raises.
        settings: as of `forward_split`.

    Raises `ConfigError` for fsdp without a GPU, `DataError` if there is no such dataset or split.
    """
    ratios = None
    if prior is not None:
        ratios = correction(model, prior, prior_tau)
    faces, rows = forward_split(model, data, split, **settings)
    probabilities = rows["probabilities"].astype(np.float64)
    if model.temperature is not None:
        probabilities = apply_temperature(probabilities, model.temperature)
    if ratios is not None:
        probabilities = corrected(probabilities, ratios)
    all_classes = np.full((len(probabilities), len(EXPRESSIONS)), np.nan)
    if "expression" in model.targets:
        all_classes[:, [EXPRESSIONS.index(name) for name in model.classes]] = probabilities
    return predictions_table(
        faces.ids,
        faces.expression,
        faces.valence,
        faces.arousal,
        all_classes,
        *(
            rows[name] if name in model.targets else np.full(len(faces), np.nan)
            for name in ("valence", "arousal")
        ),
    )


class CalibrationFit(NamedTuple):
    """A fitted temperature, and the calibration error on the faces that it was fitted on."""

    temperature: float
    ece_before: float
    ece_after: float


def calibrate(
    model: AffectModel,
    data: Path | str,
    split: str = "val",
    *,
    scored: str = "test",
    prior: str | None = None,
    prior_tau: float = 1.0,
    **settings: Any,
) -> CalibrationFit:
    """Fit the model's `temperature` on a split that it was not trained on.

    Args:
        model: its `temperature` is replaced.
        data: dataset folder.
        split: to fit on.
        scored: split that will be scored. The faces of `split` are weighted so that each class has
            the fraction that it has there: a temperature that fits the frequent classes of `val`
            can make the calibration worse on a balanced test split. No other fact about the scored
            split is used.
        prior, prior_tau: the correction that will be applied after the temperature, as of
            `AffectModel.correct_prior`.
        settings: as of `forward_split`.

    Raises `DataError` if there is no such dataset or split, or no face has an expression of the
    model's, `ConfigError` if the model does not predict expressions, and the errors of
    `models.prior.correction`.
    """
    if "expression" not in model.targets:
        raise ConfigError(f"{untrained_note(model.targets)}: it has no temperature to calibrate")
    ratios = np.zeros(len(model.classes))
    if prior is not None:
        ratios = correction(model, prior, prior_tau)
    faces, rows = forward_split(model, data, split, **settings)
    truth = _labels_of(model, faces)
    counts = np.bincount(truth[truth >= 0], minlength=len(ratios))
    weights = np.ones(len(ratios))
    if scored != split:
        other = _labels_of(model, open_split(data, scored))
        wanted = np.bincount(other[other >= 0], minlength=len(ratios))
        if (wanted * counts).any():  # otherwise the scored split has no labels of these classes
            weights = wanted / np.maximum(counts, 1)
    logits = log_probabilities(rows["probabilities"])
    before, known = model.temperature or 1.0, truth >= 0
    model.temperature = fit_temperature(logits, truth, weights=weights, ratios=ratios)

    def error(temperature: float) -> float:
        scaled = corrected(apply_temperature(rows["probabilities"][known], temperature), ratios)
        return float(Calibration(truth[known], scaled)(weights[truth[known], None])[0])

    return CalibrationFit(model.temperature, error(before), error(model.temperature))


def _labels_of(model: AffectModel, faces: Split) -> NDArray[np.int64]:
    """The model's index of each face's expression; -1 for other classes and where missing."""
    indices = [model.classes.index(c) if c in model.classes else -1 for c in EXPRESSIONS] + [-1]
    return np.array(indices)[faces.expression]


def forward_split(
    model: AffectModel,
    data: Path | str,
    split: str,
    *,
    flip: bool = False,
    batch_size: int = 128,
    workers: int | None = None,
    accelerator: str = "auto",
    devices: int | None = 1,
    nodes: int = 1,
    strategy: str = "auto",
) -> tuple[Split, dict[str, NDArray[Any]]]:
    """A split and the uncalibrated predictions for it, as of `predict`.

    Args:
        model: backbone and heads.
        data: dataset folder.
        split: train, val or test.
        flip: take the mean of each face and its mirror image.
        batch_size: faces per forward pass.
        workers: loader processes; chosen automatically if None.
        accelerator: auto, cpu, gpu or mps.
        devices: processes per machine, which share the faces; each gets all predictions.
        nodes: machines.
        strategy: auto, ddp or fsdp.
    """
    trainer = device_settings(accelerator, devices, nodes, strategy=strategy)
    faces = open_split(data, split)
    module = AffectDataModule(
        data,
        batch_size=batch_size,
        image_size=model.preprocessing.size,
        interpolation=model.preprocessing.interpolation,
        workers=workers,
        cache="none",
    )
    rows = predict(model, module.loader(split), **trainer)
    if flip:
        hook = model.register_forward_pre_hook(_mirror)
        try:
            mirrored = predict(model, module.loader(split), **trainer)
        finally:
            hook.remove()
        rows = {name: (rows[name] + mirrored[name]) / 2 for name in rows}
    return faces, rows


def _mirror(_: AffectModel, images: tuple[Tensor]) -> tuple[Tensor]:
    return (images[0].flip(-1),)
