"""Loggers of Lightning for a run, each continued when the run is resumed, and pictures for them."""

import csv
import json
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image

from affectnet.errors import ConfigError
from affectnet.models.weights import first_line
from affectnet.run import RunFolder, write_beside
from affectnet.training.distributed import rank

PROJECT: Final = "affectnet"
"""Name of the project in Weights & Biases, unless WANDB_PROJECT is set, and of the experiment in
MLflow."""
COMPARED: Final = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy")
"""Metrics of the runs in TensorBoard's table of hyperparameters."""


def missing_packages(names: Sequence[str]) -> list[str]:
    """A message for each of these loggers whose package is not installed."""
    return [
        f"--logger {name} needs the package {name}: `pip install 'affectnet[{name}]'`, or choose "
        "--logger tensorboard or csv"
        for name in dict.fromkeys(names)
        if name in ("wandb", "mlflow") and find_spec(name) is None
    ]


def make_loggers(
    names: Sequence[str], run: RunFolder, runs: Path, settings: dict[str, Any], done: int = 0
) -> list[Logger]:
    """Create the loggers and log the settings of a run that starts.

    Args:
        names: of tensorboard, wandb, mlflow and csv; only tensorboard if empty.
        run: TensorBoard and CSV write into `tensorboard/` and `csv/` in it.
        runs: folder of the runs; it contains `wandb/` and, unless MLFLOW_TRACKING_URI is set,
            `mlruns/`.
        settings: of the run.
        done: steps that are done when the run is resumed, 0 when it starts; what was logged of
            later steps, before the run was killed, is dropped (by TensorBoard and CSV).

    Raises `ConfigError` if wandb or mlflow cannot start.
    """
    if not done and rank() == 0:
        _identifiers(run).unlink(missing_ok=True)  # of an earlier run that never finished an epoch
    loggers: list[Logger] = []
    for name in dict.fromkeys(names or ("tensorboard",)):
        try:
            logger = _create(name, run, runs, done)
            if not done:
                _log_settings(logger, settings)
        except Exception as error:
            if name not in ("wandb", "mlflow"):
                raise
            tip = (
                "log in with `wandb login`, or set WANDB_MODE=offline"
                if name == "wandb"
                else "check MLFLOW_TRACKING_URI"
            )
            raise ConfigError(
                f"--logger {name} could not start: {first_line(error)}; {tip}, or choose another "
                "--logger"
            ) from error
        loggers.append(logger)
    return loggers


def log_picture(logger: Logger, name: str, file: Path, step: int) -> None:
    """Show a picture in TensorBoard, Weights & Biases or MLflow."""
    if isinstance(logger, TensorBoardLogger):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(file)])
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(file))


def finish(loggers: Sequence[Logger]) -> None:
    """End the run in Weights & Biases: another one of this process would continue it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and rank() == 0:
            logger.experiment.finish()


def _log_settings(logger: Logger, settings: dict[str, Any]) -> None:
    flat = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    if isinstance(logger, TensorBoardLogger) and rank() == 0:
        from torch.utils.tensorboard.summary import hparams

        # Not `log_hyperparams`, which needs values of the metrics before there are any.
        known = {name: value for name, value in flat.items() if value is not None}
        for summary in hparams(known, dict.fromkeys(COMPARED, 0.0)):  # type: ignore[no-untyped-call]
            logger.experiment._get_file_writer().add_summary(summary)
    else:
        logger.log_hyperparams(flat)


def _create(name: str, run: RunFolder, runs: Path, done: int) -> Logger:
    if name == "wandb":
        return _wandb(run, runs)
    if name == "mlflow":
        return _mlflow(run, runs)
    if name == "csv":
        return _csv(run, done)
    return TensorBoardLogger(
        run.tensorboard.parent,
        name="",
        version=run.tensorboard.name,
        default_hp_metric=False,
        purge_step=done or None,
    )


def _csv(run: RunFolder, done: int) -> Logger:
    logger = CSVLogger(run.path, name="", version="csv", flush_logs_every_n_steps=1)
    file = Path(logger.log_dir, "metrics.csv")
    if rank() == 0 and file.is_file():
        with file.open(newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) < done]
        with warnings.catch_warnings():
            # It says that it deletes the file that it finds, which the next lines write again.
            warnings.filterwarnings("ignore", message=".*logs directory.*not empty.*")
            logger.experiment.metrics.extend(rows)
        logger.save()
    return logger


def _wandb(run: RunFolder, runs: Path) -> Logger:
    logger = WandbLogger(
        name=run.name,
        save_dir=runs,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=_kept(run, "wandb", lambda: secrets.token_hex(4)),
    )
    _ = logger.experiment  # starts it, on the first process
    return logger


def _mlflow(run: RunFolder, runs: Path) -> Logger:
    known = _kept(run, "mlflow")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (runs / "mlruns").resolve().as_uri()
    if uri.startswith("file:"):
        # MLflow asks for this; a database would need its full package.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(PROJECT, run_name=run.name, tracking_uri=uri, run_id=known)
    if rank() == 0:
        started = str(logger.run_id)
        _kept(run, "mlflow", lambda: started)
    return logger


def _identifiers(run: RunFolder) -> Path:
    return run.path / "loggers.json"


def _kept(run: RunFolder, name: str, create: Callable[[], str] | None = None) -> str | None:
    """The identifier of a resumed run in a logger, or that of a new one, which is kept."""
    file = _identifiers(run)
    ids: dict[str, str] = {}
    if file.is_file():
        ids = json.loads(file.read_text(encoding="utf-8"))
    if name not in ids and create is not None and rank() == 0:
        ids[name] = create()
        with write_beside(file) as new:
            new.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return ids.get(name)
