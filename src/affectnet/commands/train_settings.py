"""The settings of `affectnet train`: checked, written to `config.yaml`, and converted."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Any, Final

import numpy as np
import torch
import yaml

from affectnet.config import RENAMED, TrainConfig, settings_of
from affectnet.data.augmentation import Augmentation, named_augmentation
from affectnet.data.splits import class_weights, sample_weights
from affectnet.data.store import DatasetInfo
from affectnet.errors import ConfigError, Faults, Limit, RunError
from affectnet.labels import N_EXPRESSIONS
from affectnet.models.model_config import TARGETS, Fractions, local_path, resolve_model
from affectnet.models.prior import effective_prior
from affectnet.run import RunFolder, changed_settings, folder_name, plain_settings, write_beside
from affectnet.seven import classes_for, seven_votes
from affectnet.training.checkpoints import read_checkpoint
from affectnet.training.distributed import rank
from affectnet.training.loggers import missing_packages
from affectnet.training.optimisation import Optimisation
from affectnet.training.trainer import device_type

# Settings that may change when a run is resumed.
FREE_TO_CHANGE = {
    "epochs",
    "resume",
    "overwrite",
    "runs",
    "name",
    "keep_checkpoints",
    "early_stop",
    "logger",
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
    """The named set of augmentations, with the settings that were given."""
    names = [f.name for f in dataclasses.fields(Augmentation) if hasattr(config, f.name)]
    return named_augmentation(config.augment).with_overrides(**settings_of(config, *names))


def targets_of(config: TrainConfig, labels: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """The targets of the expression loss for the training faces, (n, K), NaN where missing.

    Args:
        config: of the run.
        labels: (n,), -1 where missing.
        soft: vote shares, (n, 8), NaN where missing; used with `soft_labels`.
    """
    targets = np.eye(N_EXPRESSIONS)[labels]
    targets[labels < 0] = np.nan
    if config.soft_labels:
        votes = seven_votes(soft) if config.without_contempt else soft
        targets = np.where(np.isfinite(votes).all(axis=1, keepdims=True), votes, targets)
    return np.asarray(targets[:, : len(classes_for(config.without_contempt))])


def loss_settings(config: TrainConfig, targets: np.ndarray) -> dict[str, Any]:
    """Keyword arguments of `affect_loss`; `targets` as `targets_of` returns them."""
    # The frequencies that the loss sees: of vote shares, where it is trained on them.
    counts = np.nansum(targets, axis=0)
    weights = class_weights(counts) if config.class_weights == "balanced" else None
    return {
        "kind": config.loss,
        "class_weights": None if weights is None else torch.as_tensor(weights).float(),
        "class_counts": torch.as_tensor(counts).float(),
        "soft": config.soft_labels,
        **settings_of(config, "logit_tau", "label_smoothing", "va_loss", "va_weight"),
    }


def trained_fractions(
    config: TrainConfig, labels: np.ndarray, targets: np.ndarray, losses: dict[str, Any]
) -> tuple[Fractions, Fractions] | None:
    """The class fractions of the training faces, and those that the model's probabilities assume.

    Args:
        config: of the run.
        labels: of the training faces, (n,), -1 where missing.
        targets: as `targets_of` returns them.
        losses: as `loss_settings` returns them.

    Returns None if no face has an expression. Label smoothing and focal loss are left out: they
    change the confidence, which the temperature corrects.
    """
    known = np.isfinite(targets[:, 0])
    if not known.any():
        return None
    targets, rows = targets[known], sample_weights(labels, config.sampler)[known]
    drawn = (rows @ targets) / rows.sum()
    tau = config.logit_tau if config.loss == "logit_adjusted" else 0.0
    weights, counts = losses["class_weights"], losses["class_counts"]
    prior = effective_prior(drawn, weights=weights, counts=counts, tau=tau)
    return effective_prior(targets.mean(axis=0)), prior


def optimisation(config: TrainConfig) -> Optimisation:
    """Optimiser and schedule."""
    names = [field.name for field in dataclasses.fields(Optimisation)]
    return Optimisation(**settings_of(config, *names))


_LIMITS: Final[tuple[Limit, ...]] = (
    (
        (
            *("epochs", "schedule_epochs", "early_stop", "batch_size", "accumulate", "step_size"),
            *("nodes", "max_per_class", "devices"),
        ),
        lambda value: value >= 1,
        "at least 1",
    ),
    (("image_size",), lambda value: value >= 16, "at least 16 pixels"),
    (
        ("lr", "backbone_lr", "probe_lr", "layer_decay", "teacher_temperature"),
        lambda value: value > 0,
        "above 0",
    ),
    (("layer_decay", "mix_share", "teacher_weight"), lambda value: value <= 1, "at most 1"),
    (
        (
            *("weight_decay", "warmup_epochs", "va_weight", "seed", "views", "head_epochs"),
            *("unfreeze_every", "mixup", "cutmix", "mix_share", "probe_epochs", "teacher_weight"),
            "logit_tau",
        ),
        lambda value: value >= 0,
        "at least 0",
    ),
    (("dropout", "drop_path", "label_smoothing"), lambda value: 0 <= value < 1, "in [0, 1)"),
    (("ema",), lambda value: 0 < value < 1, "between 0 and 1"),
    (("clip_norm", "sam"), lambda value: value > 0, "above 0, or None"),
    (("name",), lambda value: Path(value).name == value, "a plain name without folders"),
)


def check(config: TrainConfig) -> None:
    """Raise one `ConfigError` that lists everything that is wrong with `config` by itself."""
    faults = Faults(config, _LIMITS)
    faults += [message for wrong, message in _combinations(config) if wrong]
    with faults.caught():
        if config.weights is not None and not local_path(config.weights).exists():
            faults.append(f"--weights {config.weights}: there is no such file or folder")
    if config.resume:
        faults += [
            f"--data {path} of the run does not exist; if it was moved, give its new place"
            for path in config.data
            if not path.exists()
        ]
    for teacher in config.teacher:
        with faults.caught("--teacher: "):
            resolve_model(teacher)
    with faults.caught():
        augmentation(config)
    faults += missing_packages(config.logger)
    faults.raise_all()


def _combinations(config: TrainConfig) -> Iterator[tuple[bool, str]]:
    """Whether each combination of settings that cannot be used is given, and the message on it."""
    yield not config.data, "--data is required: a dataset folder made by `affectnet ingest`"
    yield config.resume and config.overwrite, "--resume and --overwrite exclude each other"
    frozen = config.freeze == "backbone"
    for name, off in (("probe_epochs", 0), ("head_epochs", 0), ("layer_decay", 1.0)):
        yield (
            frozen and getattr(config, name) != off,
            f"--{name.replace('_', '-')} is for fine-tuning, and --freeze backbone trains only the "
            "heads; leave out one of them",
        )
    for name in ("mixup", "cutmix", "teacher"):
        yield (
            frozen and config.features == "once" and bool(getattr(config, name)),
            f"--{name} needs images in every step, and --features once has only features; add "
            "--features live",
        )
    given = _corrections(config)
    yield (
        len(given) > 1,
        f"{' and '.join(name for name, _ in given)} each correct the class frequencies: together "
        "they do it more than once, so that rare classes are predicted too often and the "
        f"probabilities are wrong; keep one of them ({', '.join(off for _, off in given)} turn "
        "them off)",
    )
    yield (
        config.unfreeze_every != 0 and config.head_epochs == 0,
        "--unfreeze-every applies after --head-epochs; give that too",
    )
    # A refit for the epochs that its run chose may end before.
    planned = config.schedule_epochs or config.epochs
    yield (
        config.head_epochs >= planned > 0,
        f"--head-epochs is {config.head_epochs}, allowed is less than --epochs ({planned}), "
        "or the backbone is never trained; use --freeze backbone for that",
    )
    yield (
        config.compile
        and device_type(config.accelerator) != "cuda"
        and not any(map(which, _COMPILERS)),
        "--compile needs a C++ compiler on a CPU: install g++, or leave it out",
    )
    yield (
        config.sam is not None and config.accumulate != 1,
        "--sam computes the gradient of a step twice, and --accumulate adds up those of several "
        "batches; leave out one of them",
    )
    for name in ("early_stop", "monitor"):
        yield (
            config.refit is not None and getattr(config, name) is not None,
            f"--{name.replace('_', '-')} needs a validation split, and --refit trains on it too; "
            "leave out one of them",
        )
    fsdp = config.strategy == "fsdp"
    yield (
        fsdp and config.optimizer == "muon",
        "--strategy fsdp flattens matrices, and --optimizer muon needs their shapes; choose adamw",
    )
    yield (
        fsdp and config.sam is not None,
        "--strategy fsdp cannot measure the gradient's norm, which --sam needs; leave out --sam",
    )
    yield (
        fsdp and config.head_epochs != 0,
        "--strategy fsdp cannot unfreeze layers later; leave out --head-epochs",
    )
    yield (
        fsdp and config.ema is not None,
        "--strategy fsdp cannot average weights; leave out --ema",
    )


def _corrections(config: TrainConfig) -> list[tuple[str, str]]:
    """The settings that correct the class frequencies, and the flags that turn them off."""
    adjusted = config.loss == "logit_adjusted" and config.logit_tau > 0
    given = [("--loss logit_adjusted", "--loss cross_entropy")] * adjusted
    return given + [
        (f"--{name.replace('_', '-')} {value}", f"--{name.replace('_', '-')} {off}")
        for name, off in (("class_weights", "none"), ("sampler", "natural"))
        if (value := getattr(config, name)) != off
    ]


def trained_targets(
    config: TrainConfig, labels: dict[str, np.ndarray], taught: Sequence[str] = ()
) -> tuple[str, ...]:
    """The targets that training changes: those with labels and a loss, and those of the teachers.

    `labels` are those of the training split. Raises `ConfigError` if there are none.
    """
    affect = config.va_loss != "none" and config.va_weight > 0
    learned = {name for name in _labelled(labels) if affect or name == "expression"}
    targets = tuple(name for name in TARGETS if name in learned or name in taught)
    if not targets:
        raise ConfigError(
            "there is nothing to train: no face of the train split has a label that these settings "
            "use; ingest a release with labels, or leave out --va-loss none and --va-weight 0"
        )
    return targets


def _labelled(labels: dict[str, np.ndarray]) -> set[str]:
    """The targets for which some face has a label."""
    affect = {name for name in ("valence", "arousal") if np.isfinite(labels[name]).any()}
    return affect | ({"expression"} if (labels["expression"] >= 0).any() else set())


def check_monitor(
    config: TrainConfig, val: dict[str, np.ndarray], targets: Sequence[str] = TARGETS
) -> None:
    """Raise `ConfigError` if the monitored metric is of a target that is not trained.

    Also if the val split lacks the labels for it.
    """
    present = _labelled(val)
    needs = {
        "val_accuracy": ["expression"],
        "val_balanced_accuracy": ["expression"],
        "val_f1_macro": ["expression"],
        "val_all_tasks": list(TARGETS),
        "val_valence_ccc": ["valence"],
        "val_valence_rmse": ["valence"],
        "val_arousal_ccc": ["arousal"],
        "val_arousal_rmse": ["arousal"],
    }.get(config.monitor or "", [])
    for target in needs:
        if target in present and target in targets:
            continue
        reason = "is not trained" if target in present else "has no labels in the val split"
        metrics = {"expression": "val_accuracy", "valence": "val_valence_ccc"}
        usable = [metric for name, metric in metrics.items() if name in present and name in targets]
        raise ConfigError(
            f"--monitor {config.monitor} needs {target}, which {reason}; "
            f"choose --monitor {[*usable, 'val_loss'][0]}"
        )


def check_same_run(config: TrainConfig, run: RunFolder) -> None:
    """Raise `ConfigError` if settings or data differ from those of the run that is resumed.

    A dataset is the same if its content is, wherever it was moved to.
    """
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    saved = {name: RENAMED.get(f"{name}: {value}", value) for name, value in saved.items()}
    ignored = set(FREE_TO_CHANGE)
    if run.datasets.is_file():  # runs of earlier versions have only the paths
        ignored.add("data")
        if differ := _other_data(config, run):
            raise ConfigError(
                f"--resume continues {run.path} with the data that it was started on {differ}; "
                "give the same datasets with --data, or start another run with --name"
            )
    if changed := changed_settings(TrainConfig, saved, _as_yaml(config), ignored):
        raise ConfigError(
            f"--resume continues {run.path} with its own settings, but these differ: {changed}; "
            "leave them out, or start another run with --name"
        )
    if run.metrics.is_file() and rank() == 0:
        done = len(run.metrics.read_text(encoding="utf-8").splitlines()) - 1
        planned = saved.get("schedule_epochs") or saved["epochs"]
        now = config.schedule_epochs or config.epochs
        if jump := optimisation(config).jump(done, planned, now):
            before, after = jump
            print(
                f"warning: the learning rate jumps from {before:.2g} to {after:.2g}: {run.path} "
                f"was planned for {planned} epochs, of which {done} are done, and is continued on "
                f"the schedule of {now}. A run with --epochs {now} from the start has no such jump"
            )


def _other_data(config: TrainConfig, run: RunFolder) -> str:
    """How the data differ in content from those of a run; empty if they do not."""
    before = json.loads(run.datasets.read_text(encoding="utf-8"))
    now = _datasets(config)
    if [one["content_hash"] for one in before] == [one["content_hash"] for one in now]:
        return ""
    was, given = (", ".join(one["path"] for one in those) for those in (before, now))
    return f"({was}), and the content of {given} differs"


def refitted(config: TrainConfig) -> TrainConfig:
    """The config of `--refit`: the epochs that its run chose, on the run's schedule.

    Raises `RunError` if the run is not there or not finished, `ConfigError` for other data.
    """
    assert config.refit is not None
    run = RunFolder(config.refit)
    if not run.config.is_file():
        raise RunError(f"--refit {run.path}: there is no such run; give the folder of one")
    if run.start.is_dir():
        raise RunError(
            f"--refit {run.path}: the run is not finished, so it has not chosen its epochs yet; "
            f"continue it with `affectnet train --runs {run.path.parent} --name {run.name} "
            "--resume`"
        )
    if not run.best.is_file():
        raise RunError(
            f"--refit {run.path}: the run has no checkpoints/best.ckpt and so no chosen epoch; "
            "give a run that was validated (not itself a refit), with its checkpoints"
        )
    if run.datasets.is_file() and (differ := _other_data(config, run)):
        raise ConfigError(
            f"--refit {run.path} trains on the data of that run {differ}; give the same with --data"
        )
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    chosen = read_checkpoint(run.best)["epoch"] + 1
    planned = saved.get("schedule_epochs") or saved["epochs"]
    if rank() == 0:
        print(
            f"refit of {run.path} on training and validation faces together, for the "
            f"{chosen} of {planned} planned epochs that it chose by {saved.get('monitor')}"
        )
    return dataclasses.replace(config, epochs=chosen, schedule_epochs=planned)


def banner_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults and are not in another line of the banner."""
    given = plain_settings(config)
    default = plain_settings(TrainConfig(data=()))
    elsewhere = {"data", "backbone", "image_size", "name", "runs", "resume", "overwrite"}
    return {
        name: value
        for name, value in given.items()
        if value != default[name] and name not in elsewhere
    }


def _as_yaml(config: TrainConfig) -> dict[str, Any]:
    # An absolute path, so that the run can be repeated from any folder.
    data = [str(path.resolve()) for path in config.data]
    settings = plain_settings(config) | {"data": data, "name": run_name(config)}
    del settings["resume"], settings["overwrite"]
    return settings


def write_config(
    config: TrainConfig, run: RunFolder, faces: Mapping[str, Mapping[str, int]]
) -> None:
    """Write `config.yaml`, with which `affectnet train --config` repeats the run, the hashes of its
    data, and the numbers of faces that it uses."""
    text = yaml.safe_dump(_as_yaml(config), sort_keys=False, allow_unicode=True)
    hashes = json.dumps(_datasets(config), indent=2, ensure_ascii=False) + "\n"
    counts = json.dumps(faces, indent=2) + "\n"
    for path, content in ((run.datasets, hashes), (run.faces, counts), (run.config, text)):
        with write_beside(path) as new:
            new.write_text(content, encoding="utf-8")


def _datasets(config: TrainConfig) -> list[dict[str, str]]:
    """The path and the content hash of each dataset."""
    return [
        {"path": str(path.resolve()), "content_hash": DatasetInfo.read(path).content_hash}
        for path in config.data
    ]


def with_defaults_of_data(config: TrainConfig) -> TrainConfig:
    """The config, with the classes and the monitor that follow from the datasets.

    Seven classes if all datasets were ingested without contempt. If no monitor is set:
    `val_balanced_accuracy`, and a line that says so, if the first test split has equal classes and
    the training splits together do not; otherwise `val_accuracy`.
    """
    infos = [DatasetInfo.read(path) for path in config.data]
    seven = config.without_contempt or all(info.without_contempt for info in infos)
    config = dataclasses.replace(config, without_contempt=seven)
    if config.monitor is not None or config.refit is not None:
        return config
    train = sum((_faces_by_class(info, "train", seven) for info in infos), Counter())
    tests = [counts for info in infos if (counts := _faces_by_class(info, "test", seven))]
    if not tests or not _unequal(train) or _unequal(tests[0]):
        return dataclasses.replace(config, monitor="val_accuracy")
    if rank() == 0:
        (most, faces), *_, (least, fewest) = train.most_common()
        print(
            f"the test split has equal classes, the training split has {faces / fewest:.0f} faces "
            f"of {most} for each of {least}: val_balanced_accuracy selects the best epoch "
            "(--monitor chooses another metric)"
            + ("" if _corrections(config) else "; --loss logit_adjusted trains for equal classes")
        )
    return dataclasses.replace(config, monitor="val_balanced_accuracy")


def _faces_by_class(info: DatasetInfo, split: str, seven: bool) -> Counter[str]:
    counts = info.counts.get(split, {})
    return Counter({name: counts[name] for name in classes_for(seven) if counts.get(name)})


def _unequal(counts: Mapping[str, int]) -> bool:
    """Whether a class has over a quarter more faces than another."""
    return max(counts.values(), default=0) > 1.25 * min(counts.values(), default=0)


def crop_settings(datasets: list[DatasetInfo]) -> dict[str, Any]:
    """Margin, alignment and side of the datasets' faces, which prediction has to use too.

    Raises:
        ConfigError: some faces are aligned and some are not.
    """
    alignments = {info.settings.get("alignment") for info in datasets}
    if len(alignments) > 1:
        raise ConfigError(
            "some of the datasets have aligned faces and some do not, so prediction could match "
            "only one of them; ingest all of them with --align, or none"
        )
    same = {}
    for name in ("margin", "face_size"):
        values = {info.settings.get(name) for info in datasets}
        same[name] = values.pop() if len(values) == 1 else None
    return {"alignment": alignments.pop(), **same}
