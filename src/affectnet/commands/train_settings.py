"""What the settings of `affectnet train` mean: checked, written down, and made into parts."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from affectnet.config import RENAMED, TrainConfig
from affectnet.data.augment import Mixing
from affectnet.data.augmentation import Augmentation, named_augmentation
from affectnet.data.splits import class_weights
from affectnet.data.store import DatasetInfo
from affectnet.errors import AffectNetError, ConfigError
from affectnet.labels import N_EXPRESSIONS
from affectnet.models.model_config import local_path, resolve_model
from affectnet.run import RunFolder, folder_name, write_beside
from affectnet.training.optimisation import Optimisation, Unfreezing
from affectnet.training.trainer import on_gpu

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

_COMPILERS = (os.environ.get("CXX") or "c++", "g++", "clang++", "cl")


def run_name(config: TrainConfig) -> str:
    """The run's name: the user's, or the backbone's."""
    return config.name or folder_name(config.backbone)


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
        "logit_tau": config.logit_tau,
        "label_smoothing": config.label_smoothing,
        "soft": config.soft_labels,
        "va_loss": config.va_loss,
        "va_weight": config.va_weight,
    }


def optimisation(config: TrainConfig) -> Optimisation:
    """Optimiser and schedule."""
    names = [field.name for field in dataclasses.fields(Optimisation)]
    return Optimisation(**{name: getattr(config, name) for name in names})


def mixing(config: TrainConfig) -> Mixing:
    """Mixup and CutMix."""
    return Mixing(config.mixup, config.cutmix, config.mix_share)


def unfreezing(config: TrainConfig) -> Unfreezing:
    """Which layers learn when."""
    return Unfreezing(config.head_epochs, config.unfreeze_every)


def check(config: TrainConfig) -> None:
    """Raise one `ConfigError` that lists everything wrong with `config` by itself."""
    faults = []
    if not config.data:
        faults.append("--data is required: a dataset folder made by `affectnet ingest`")
    if config.resume and config.overwrite:
        faults.append("--resume and --overwrite exclude each other")
    for name in ("epochs", "batch_size", "accumulate", "step_size", "nodes", "max_per_class"):
        value = getattr(config, name)
        if value is not None and value < 1:
            faults.append(_fault(name, value, "at least 1"))
    if config.image_size is not None and config.image_size < 16:
        faults.append(_fault("image_size", config.image_size, "at least 16 pixels"))
    for name in ("lr", "backbone_lr", "probe_lr", "layer_decay", "teacher_temperature"):
        if getattr(config, name) <= 0:
            faults.append(_fault(name, getattr(config, name), "above 0"))
    for name in ("layer_decay", "mix_share", "teacher_weight"):
        if getattr(config, name) > 1:
            faults.append(_fault(name, getattr(config, name), "at most 1"))
    for name in (
        *("weight_decay", "warmup_epochs", "va_weight", "seed", "views", "head_epochs"),
        *("unfreeze_every", "mixup", "cutmix", "mix_share", "probe_epochs", "teacher_weight"),
        "logit_tau",
    ):
        if getattr(config, name) < 0:
            faults.append(_fault(name, getattr(config, name), "at least 0"))
    for name in ("dropout", "drop_path", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            faults.append(_fault(name, getattr(config, name), "in [0, 1)"))
    faults += _faults_of_combinations(config)
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
    for teacher in config.teacher:
        try:
            resolve_model(teacher)
        except AffectNetError as error:
            faults.append(f"--teacher: {error}")
    if config.name is not None and Path(config.name).name != config.name:
        faults.append(_fault("name", config.name, "a plain name without folders"))
    try:
        augmentation(config)
    except AffectNetError as error:
        faults.append(str(error))
    if faults:
        raise ConfigError("; ".join(faults))


def _faults_of_combinations(config: TrainConfig) -> list[str]:
    """What excludes one another."""
    frozen, faults = config.freeze == "backbone", []
    if frozen:
        for name, off in (("probe_epochs", 0), ("head_epochs", 0), ("layer_decay", 1.0)):
            if getattr(config, name) != off:
                flag = name.replace("_", "-")
                faults.append(
                    f"--{flag} is for fine-tuning, and --freeze backbone trains the heads alone; "
                    "leave one of them out"
                )
    if frozen and config.features == "once":
        for name in ("mixup", "cutmix", "teacher"):
            if getattr(config, name):
                faults.append(
                    f"--{name} needs pictures in every step, and --features once has features "
                    "alone; add --features live"
                )
    if config.unfreeze_every and not config.head_epochs:
        faults.append("--unfreeze-every says how it goes on after --head-epochs; give that too")
    if config.head_epochs >= config.epochs > 0 and config.head_epochs:
        faults.append(
            f"--head-epochs is {config.head_epochs}, below --epochs ({config.epochs}) is allowed: "
            "the backbone would never learn; --freeze backbone says so plainly"
        )
    if config.compile and not on_gpu(config.accelerator) and not any(map(shutil.which, _COMPILERS)):
        faults.append("--compile needs a C++ compiler on a CPU: install g++, or leave it out")
    if config.optimizer == "muon" and config.strategy == "fsdp":
        faults.append(
            "--strategy fsdp lays matrices flat, and --optimizer muon needs their shapes; choose "
            "adamw"
        )
    if config.head_epochs and config.strategy == "fsdp":
        faults.append("--strategy fsdp cannot free layers later; leave --head-epochs out")
    return faults


def _fault(name: str, given: object, allowed: str) -> str:
    return f"--{name.replace('_', '-')} is {given}, allowed is {allowed}"


def check_monitor(config: TrainConfig, val: dict[str, np.ndarray]) -> None:
    """Raise `ConfigError` where the val split lacks the labels by which the best epoch is told."""
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


def check_same_run(config: TrainConfig, run: RunFolder) -> None:
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    saved = {name: RENAMED.get(f"{name}: {value}", value) for name, value in saved.items()}
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


def write_config(config: TrainConfig, run: RunFolder) -> None:
    text = yaml.safe_dump(_as_yaml(config), sort_keys=False, allow_unicode=True)
    with write_beside(run.config) as new:
        new.write_text(text, encoding="utf-8")


def with_classes_of_data(config: TrainConfig) -> TrainConfig:
    """The config, which says seven classes where all datasets were ingested without contempt."""
    infos = [DatasetInfo.read(path) for path in config.data]
    seven = config.without_contempt or all(info.without_contempt for info in infos)
    return dataclasses.replace(config, without_contempt=seven)


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
