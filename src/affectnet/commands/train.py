"""`affectnet train`: one dataset, one backbone, one run folder."""

import dataclasses
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml

from affectnet.config import TrainConfig
from affectnet.data.augmentation import Augmentation, named_augmentation
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.splits import class_weights
from affectnet.data.store import DatasetInfo
from affectnet.errors import AffectNetError, ConfigError, RunError, Stopped
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, SEVEN
from affectnet.models.affect_model import AffectModel
from affectnet.models.shipped import local_path
from affectnet.run import RunFolder, write_beside
from affectnet.training.faults import memory_faults_explained
from affectnet.training.interruption import StopOnSignal, rank, requeue
from affectnet.training.keeping import export_best, keep_start, read_checkpoint
from affectnet.training.module import AffectModule
from affectnet.training.optimisation import Optimisation
from affectnet.training.probe import FeatureDataModule, FeaturePass
from affectnet.training.trainer import device_settings, make_trainer, on_gpu

# What may differ between a run and its continuation without making it another run.
FREE_TO_CHANGE = {
    "epochs",
    "resume",
    "overwrite",
    "runs",
    "name",
    "keep_checkpoints",
    "cache",
    "workers",
    "accelerator",
    "devices",
    "nodes",
    "strategy",
}

FEATURES = ".features"
"""Folder among the runs where the features of frozen backbones are kept."""


def train(config: TrainConfig) -> RunFolder:
    """Train as `config` says; return the run folder, its `model/` being the best epoch's.

    Raises:
        ConfigError: listing every setting that is wrong, before anything is written.
        RunError: when the run exists already and neither --resume nor --overwrite was given.
    """
    check(config)
    config = _with_classes_of_data(config)
    run = RunFolder(config.runs / run_name(config))
    if rank() == 0 and run.used() and not (config.resume or config.overwrite):
        raise RunError(
            f"the run {run.path} exists already; go on with it by --resume, replace it by "
            "--overwrite, or choose another --name"
        )
    if rank() == 0 and config.resume and run.config.is_file():
        _check_same_run(config, run)

    L.seed_everything(config.seed, verbose=False)
    model = AffectModel(
        config.backbone,
        pretrained=config.pretrained and config.weights is None,
        weights=None if config.weights is None else local_path(config.weights),
        image_size=config.image_size,
        dropout=config.dropout,
        drop_path=config.drop_path,
        classes=SEVEN if config.without_contempt else EXPRESSIONS,
    )
    model.preprocessing = dataclasses.replace(
        model.preprocessing, **how_faces_were_cut([DatasetInfo.read(path) for path in config.data])
    )
    if config.freeze == "backbone":
        model.freeze_backbone()
    data = AffectDataModule(
        config.data,
        batch_size=config.batch_size,
        image_size=model.preprocessing.size,
        interpolation=model.preprocessing.interpolation,
        workers=config.workers,
        sampler=config.sampler,
        seed=config.seed,
        cache=config.cache,
        without_contempt=config.without_contempt,
    )
    data.setup("fit")
    labels = {
        split: {
            name: np.asarray(getattr(data.splits[split], name))[data.rows(split, capped=False)]
            for name in ("expression", "valence", "arousal")
        }
        for split in ("train", "val")
    }
    if config.without_contempt:
        _tell_left_out(data)
    _check_monitor(config, labels["val"])
    module = AffectModule(
        model,
        augmentation=augmentation(config),
        optimisation=Optimisation(
            optimizer=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            schedule=config.schedule,
            step_size=config.step_size,
            gamma=config.gamma,
            warmup_epochs=config.warmup_epochs,
        ),
        losses=loss_settings(config, labels["train"]["expression"], len(model.classes)),
        seed=config.seed,
    )

    # Everything that can be wrong has been looked at: only now is the earlier run given up.
    devices = device_settings(
        config.accelerator, config.devices, config.nodes, config.precision, config.strategy
    )
    if rank() == 0:  # the other processes of the run find all this done, or wait for it in fit
        if config.overwrite and run.used():
            shutil.rmtree(run.path)
        _write_config(config, run)
        keep_start(run, model)
    batches: L.LightningDataModule = data
    if config.freeze == "backbone" and config.features == "once":
        source = FeaturePass(
            model,
            config.runs / FEATURES,
            data=[DatasetInfo.read(path).content_hash for path in config.data],
            augmentation=augmentation(config),
            seed=config.seed,
            device=torch.device("cuda" if on_gpu(config.accelerator) else "cpu"),
            precision=devices["precision"].split("-")[0],
        )
        batches = FeatureDataModule(data, source, config.views)
    stop = StopOnSignal()
    trainer = make_trainer(
        run,
        stop=stop,
        epochs=config.epochs,
        monitor=config.monitor,
        keep=config.keep_checkpoints,
        ema=config.ema,
        clip_norm=config.clip_norm,
        **devices,
    )
    resume_from = run.last if config.resume and run.last.is_file() else None
    if resume_from and read_checkpoint(resume_from)["epoch"] + 1 >= config.epochs:
        print(f"{run.path} has its {config.epochs} epochs already; more come with --epochs N")
    else:
        with (
            _told_how_to_go_on(run),
            stop.listening(),
            memory_faults_explained(
                config.batch_size, model.preprocessing.size, config.freeze == "backbone"
            ),
        ):
            trainer.fit(module, batches, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero:
        export_best(run)
        shutil.rmtree(run.start, ignore_errors=True)
        print(f"best model: {run.model}")
        where = " ".join(f"--data {path}" for path in config.data)
        print(f"next: affectnet evaluate {run.path} {where}")
    return run


@contextmanager
def _told_how_to_go_on(run: RunFolder) -> Iterator[None]:
    """Say how to go on after a signal, queue a SLURM job again, and keep Ctrl-C what it is."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        yield
    except Stopped as stop:
        again = requeue() if stop.signal == getattr(signal, "SIGUSR1", None) else ""
        raise Stopped(
            stop.signal,
            f"stopped by {signal.Signals(stop.signal).name}; every finished epoch is kept, go on "
            f"with `affectnet train --runs {run.path.parent} --name {run.name} --resume`"
            + (f"; {again}" if again else ""),
        ) from None
    except SystemExit:
        # Lightning ends the process on Ctrl-C, and takes no second one; the command line tells it.
        signal.signal(signal.SIGINT, on_ctrl_c)
        raise KeyboardInterrupt from None


def _with_classes_of_data(config: TrainConfig) -> TrainConfig:
    """The config, which says seven classes where all datasets were ingested without contempt."""
    infos = [DatasetInfo.read(path) for path in config.data]
    seven = config.without_contempt or all(info.without_contempt for info in infos)
    return dataclasses.replace(config, without_contempt=seven)


def _tell_left_out(data: AffectDataModule) -> None:
    left_out = [
        f"{len(split) - len(data.rows(name, capped=False)):,} of {len(split):,} {name} faces"
        for name, split in data.splits.items()
    ]
    print(f"seven classes: contempt leaves out {' and '.join(left_out)}")


def how_faces_were_cut(datasets: list[DatasetInfo]) -> dict[str, Any]:
    """Margin and alignment of the datasets' faces, which prediction has to repeat.

    Raises:
        ConfigError: when the datasets' faces are not aligned alike.
    """
    alignments = {info.settings.get("alignment") for info in datasets}
    if len(alignments) > 1:
        raise ConfigError(
            "some of the datasets hold aligned faces and some do not, so prediction could match "
            "only one kind; ingest all of them with --align, or none"
        )
    margins = {info.settings.get("margin") for info in datasets}
    return {
        "alignment": alignments.pop(),
        "margin": margins.pop() if len(margins) == 1 else None,
    }


def run_name(config: TrainConfig) -> str:
    """The run's name: the user's, or the backbone's."""
    return config.name or config.backbone.replace("/", "_").replace(":", "_")


def augmentation(config: TrainConfig) -> Augmentation:
    """The named set with the single settings that were given."""
    names = {field.name for field in dataclasses.fields(Augmentation)}
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name in names
    }
    return named_augmentation(config.augment).with_overrides(**given)


def loss_settings(
    config: TrainConfig, labels: np.ndarray, classes: int = N_EXPRESSIONS
) -> dict[str, Any]:
    """Keyword arguments of `affect_loss` for the first `classes` expressions.

    `labels` are those of the training split, -1 where missing.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    weights = class_weights(labels)[:classes] if config.class_weights == "balanced" else None
    return {
        "kind": config.loss,
        "class_weights": None if weights is None else torch.as_tensor(weights).float(),
        "class_counts": torch.as_tensor(counts).float(),
        "label_smoothing": config.label_smoothing,
        "soft": config.soft_labels,
        "va_loss": config.va_loss,
        "va_weight": config.va_weight,
    }


def check(config: TrainConfig) -> None:
    """Raise one `ConfigError` that lists everything wrong with `config` by itself."""
    faults = []
    if not config.data:
        faults.append("--data is required: a dataset folder made by `affectnet ingest`")
    if config.resume and config.overwrite:
        faults.append("--resume and --overwrite exclude each other")
    for name, low in (("epochs", 1), ("batch_size", 1), ("step_size", 1), ("nodes", 1)):
        if getattr(config, name) < low:
            faults.append(_fault(name, getattr(config, name), f"at least {low}"))
    if config.image_size is not None and config.image_size < 16:
        faults.append(_fault("image_size", config.image_size, "at least 16 pixels"))
    if config.lr <= 0:
        faults.append(_fault("lr", config.lr, "above 0"))
    for name in ("weight_decay", "warmup_epochs", "va_weight", "seed", "views"):
        if getattr(config, name) < 0:
            faults.append(_fault(name, getattr(config, name), "at least 0"))
    for name in ("dropout", "drop_path", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            faults.append(_fault(name, getattr(config, name), "in [0, 1)"))
    if config.strategy == "fsdp" and config.clip_norm is not None:
        faults.append("--strategy fsdp cannot clip the gradient's norm; add --clip-norm None")
    if config.strategy == "fsdp" and config.ema is not None:
        faults.append("--strategy fsdp cannot average weights; leave --ema out")
    if config.ema is not None and not 0 < config.ema < 1:
        faults.append(_fault("ema", config.ema, "between 0 and 1"))
    if config.clip_norm is not None and config.clip_norm <= 0:
        faults.append(_fault("clip_norm", config.clip_norm, "above 0, or None"))
    try:
        if config.weights is not None and not local_path(config.weights).exists():
            faults.append(f"--weights {config.weights}: there is no such file or folder")
    except AffectNetError as error:
        faults.append(str(error))
    if config.name is not None and Path(config.name).name != config.name:
        faults.append(_fault("name", config.name, "a plain name without folders"))
    try:
        augmentation(config)
    except AffectNetError as error:
        faults.append(str(error))
    if faults:
        raise ConfigError("; ".join(faults))


def _fault(name: str, given: object, allowed: str) -> str:
    return f"--{name.replace('_', '-')} is {given}, allowed is {allowed}"


def _check_monitor(config: TrainConfig, val: dict[str, np.ndarray]) -> None:
    """The monitored figure must exist, or the best epoch could not be told."""
    present = {
        "expression": bool((val["expression"] >= 0).any()),
        "valence": bool(np.isfinite(val["valence"]).any()),
        "arousal": bool(np.isfinite(val["arousal"]).any()),
    }
    needs = {
        "val_accuracy": "expression",
        "val_f1_macro": "expression",
        "val_valence_ccc": "valence",
        "val_valence_rmse": "valence",
        "val_arousal_ccc": "arousal",
        "val_arousal_rmse": "arousal",
    }.get(config.monitor)
    if needs and not present[needs]:
        usable = "val_valence_ccc" if present["valence"] else "val_loss"
        raise ConfigError(
            f"--monitor {config.monitor} needs {needs} labels, and the val split has none; "
            f"choose --monitor {usable}"
        )


def _check_same_run(config: TrainConfig, run: RunFolder) -> None:
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    now = _as_yaml(config)
    changed = [
        f"{name} (was {saved.get(name)}, now {value})"
        for name, value in now.items()
        # Runs older than a setting were trained at its default.
        if name not in FREE_TO_CHANGE and saved.get(name, getattr(TrainConfig, name, None)) != value
    ]
    if changed:
        raise ConfigError(
            f"--resume goes on with {run.path} as it was started, but these differ: "
            f"{', '.join(changed)}; leave them out, or start another run with --name"
        )


def _as_yaml(config: TrainConfig) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    settings = {name: plain(value) for name, value in dataclasses.asdict(config).items()}
    # The folder of the data is kept whole, so that the run can be repeated from anywhere.
    settings["data"] = [str(path.resolve()) for path in config.data]
    settings["name"] = run_name(config)
    del settings["resume"], settings["overwrite"]
    return settings


def _write_config(config: TrainConfig, run: RunFolder) -> None:
    text = yaml.safe_dump(_as_yaml(config), sort_keys=False, allow_unicode=True)
    with write_beside(run.config) as new:
        new.write_text(text, encoding="utf-8")
