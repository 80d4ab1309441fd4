"""`affectnet train`: one dataset, one backbone, one run folder."""

import dataclasses
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from affectnet.commands.train_settings import (
    augmentation,
    banner_settings,
    check,
    check_monitor,
    check_same_run,
    crop_settings,
    loss_settings,
    optimisation,
    refitted,
    run_name,
    targets_of,
    trained_fractions,
    trained_targets,
    with_defaults_of_data,
    write_config,
)
from affectnet.config import TrainConfig, settings_of
from affectnet.data.augment import Mixing
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import DatasetInfo, existing_splits
from affectnet.errors import RunError, Stopped
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.models.cvnet import CVNet
from affectnet.models.model_config import local_path, untrained_note
from affectnet.run import (
    RunFolder,
    later_place,
    locked,
    plain_settings,
    remove_leftovers,
    replaced_later,
)
from affectnet.seven import classes_for
from affectnet.training.checkpoints import (
    export_best,
    read_checkpoint,
    save_start,
    stopped_early,
)
from affectnet.training.distillation import Distillation
from affectnet.training.distributed import StopOnSignal, rank, requeue
from affectnet.training.features import FeatureDataModule, FeaturePass
from affectnet.training.loggers import finish, make_loggers
from affectnet.training.module import AffectModule
from affectnet.training.optimisation import Unfreezing
from affectnet.training.progress import banner
from affectnet.training.trainer import (
    check_batch,
    ctrl_c_raises,
    describe_device,
    device_settings,
    device_type,
    explain_memory_errors,
    make_trainer,
)

FEATURES = ".features"
"""Folder next to the runs with the features of frozen backbones."""
LOCK_WAIT = 5.0
"""Seconds to wait for another training of the same run, which may be stopping."""
PROBE = "probe"
"""Folder in a run with the linear probe from which fine-tuning starts."""


def train(config: TrainConfig) -> RunFolder:
    """Train and return the run folder, whose `model/` is the model of the best epoch.

    Raises:
        ConfigError: lists every wrong setting; nothing has been written.
        RunError: the run already exists, and neither --resume nor --overwrite was given, or another
            process is training it.
    """
    check(config)
    path = config.runs / run_name(config)
    with (
        explain_memory_errors(config.batch_size, config.image_size, config.freeze == "backbone"),
        locked(path, LOCK_WAIT) if rank() == 0 else nullcontext(),
    ):
        if rank() == 0:
            remove_leftovers(config.runs / FEATURES, deep=True)
        config = with_defaults_of_data(config)
        # A refit that is resumed has its epochs in its own config.yaml.
        if config.refit and not (config.resume and RunFolder(path).config.is_file()):
            config = refitted(config)
        if rank() == 0:
            _check_run(config, RunFolder(path))
        if not config.overwrite:
            return _train(config, RunFolder(path), config.runs / FEATURES)
        # An earlier run stays until the new one has its first checkpoint.
        with replaced_later(path) if rank() == 0 else nullcontext(lambda: None) as replace:
            new = RunFolder(later_place(path))
            _train(config, new, config.runs / FEATURES, _Replacement(path, replace))
            return RunFolder(path)


class _Replacement(Checkpoint):
    """Put the new run in place of an earlier one at the end of the first epoch.

    A subclass of `Checkpoint`, so that Lightning calls it after the checkpoint is saved.
    """

    def __init__(self, path: Path, replace: Callable[[], None]) -> None:
        self.path = path
        self.done = False
        self._replace = replace

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the earlier run, once."""
        if not self.done and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            self._replace()
        self.done = True


def _train(
    config: TrainConfig, run: RunFolder, features: Path, replacement: _Replacement | None = None
) -> RunFolder:
    """Train a run, or the probe in a run.

    `features` is the folder of cached features; with a `replacement` the run is at its path in the
    end.
    """
    devices = device_settings(
        **settings_of(config, "accelerator", "devices", "nodes", "precision", "strategy")
    )
    L.seed_everything(config.seed, verbose=False)
    model = _create_model(config)
    check_batch(model, config.batch_size, devices)
    data = _create_data(config, model)
    module = _create_module(config, model, data)
    if config.monitor is not None:
        check_monitor(config, _labels(data, "val"), model.targets)

    if rank() == 0:  # the other processes wait for this in `fit`
        write_config(config, run, _faces(data))
    if config.probe_epochs:
        model.heads.load_state_dict(_probe(config, run, features, replacement).heads.state_dict())
    if rank() == 0:
        save_start(run, model)
    batches: L.LightningDataModule = data
    if config.freeze == "backbone" and config.features == "once":
        precision = devices["precision"].split("-")[0]
        source = _feature_pass(config, model, features, precision)
        batches = FeatureDataModule(data, source, config.views)
    if config.compile:
        module.compile_parts(config.compile_mode)

    is_probe = features.parent != config.runs
    title = ""
    if rank() == 0 and not is_probe:
        title = _banner(config, model, data, devices, replacement.path if replacement else run.path)
    trainer = _fit(config, run, module, batches, devices, title, is_probe, replacement)
    if trainer.is_global_zero:
        export_best(run)
        shutil.rmtree(run.start, ignore_errors=True)
        run = RunFolder(replacement.path) if replacement and not is_probe else run
        print(f"best model: {run.model}")
        if not is_probe:
            print(f"next: {_next_command(config, run)}")
    trainer.strategy.barrier("exported")
    return run


def _next_command(config: TrainConfig, run: RunFolder) -> str:
    """The command that evaluates the run, on the test split where a dataset has one."""
    for split in ("test", "val"):
        having = [path for path in config.data if split in existing_splits(path)]
        if having:
            others = "" if split == "test" else " --split val"
            return f"affectnet evaluate {run.path} --data {having[0]}{others}"
    return f"affectnet evaluate {run.path} --data DATASET"


def _banner(
    config: TrainConfig,
    model: AffectModel,
    data: AffectDataModule,
    devices: dict[str, Any],
    folder: Path,
) -> str:
    device = describe_device(devices)
    return banner(device, model, _faces(data), banner_settings(config), folder)


def _faces(data: AffectDataModule) -> dict[str, Counter[str]]:
    """How many faces of each split and expression are used."""
    faces = {}
    for split in data.splits:
        counts = np.bincount(_labels(data, split)["expression"] + 1, minlength=9).tolist()
        named = dict(zip(("unlabelled", *EXPRESSIONS), counts, strict=True))
        together = "train+val" if data.with_val and split == "train" else split
        faces[together] = Counter({name: n for name, n in named.items() if n})
    return faces


def _check_run(config: TrainConfig, run: RunFolder) -> None:
    if run.used() and not (config.resume or config.overwrite):
        raise RunError(
            f"the run {run.path} already exists; continue it with --resume, replace it with "
            "--overwrite, or choose another --name"
        )
    if config.resume and run.config.is_file():
        check_same_run(config, run)


def _create_model(config: TrainConfig) -> AffectModel:
    model = AffectModel(
        config.backbone,
        pretrained=config.pretrained and config.weights is None,
        weights=None if config.weights is None else local_path(config.weights),
        image_size=config.image_size,
        dropout=config.dropout,
        drop_path=config.drop_path,
        classes=classes_for(config.without_contempt),
    )
    if isinstance(model.backbone, CVNet):
        model.backbone.take_turns(config.branches == "turns")
    model.preprocessing = dataclasses.replace(
        model.preprocessing, **crop_settings([DatasetInfo.read(path) for path in config.data])
    )
    return model.freeze_backbone() if config.freeze == "backbone" else model


def _create_data(config: TrainConfig, model: AffectModel) -> AffectDataModule:
    data = AffectDataModule(
        config.data,
        image_size=model.preprocessing.size,
        interpolation=model.preprocessing.interpolation,
        **settings_of(config, "batch_size", "workers", "sampler", "seed", "cache"),
        **settings_of(config, "max_per_class", "without_contempt", "leaks"),
        with_val=config.refit is not None,
    )
    data.setup("fit")
    _describe_leaks(data)
    if config.without_contempt:
        left_out = [
            f"{len(split) - len(data.rows(name, capped=False)):,} of {len(split):,} {name} faces"
            for name, split in data.splits.items()
        ]
        print(f"seven classes: without contempt, which leaves out {' and '.join(left_out)}")
    return data


def _describe_leaks(data: AffectDataModule) -> None:
    """State how many faces of the training data the test split contains, and what becomes of them.

    Raises `DataError` where they are to be left out and ingest did not search for them.
    """
    for name, split in data.splits.items():
        if data.leaks == "keep" and split.copied_in(()) is None:
            return
        leaking = int(data.leaking(name).sum())
        if leaking:
            later = " or ".join(data.later(name))
            action = "left out" if data.leaks == "drop" else "kept; --leaks drop leaves them out"
            print(
                f"duplicates: {leaking:,} of {len(split):,} {name} faces are also in {later}, "
                f"exactly or nearly: {action}"
            )


def _create_module(config: TrainConfig, model: AffectModel, data: AffectDataModule) -> AffectModule:
    teachers = tuple(AffectModel.from_pretrained(teacher) for teacher in config.teacher)
    distillation = None
    if teachers:
        distillation = Distillation(teachers, config.teacher_weight, config.teacher_temperature)
    taught = distillation.taught if distillation else ()
    labels = _labels(data, "train")
    model.targets = trained_targets(config, labels, taught)
    if (note := untrained_note(model.targets)) and rank() == 0:
        print(f"no labels for these targets in the train split, or no loss: {note}")
    targets = targets_of(config, labels["expression"], labels["soft"])
    losses = loss_settings(config, targets)
    if fractions := trained_fractions(config, labels["expression"], targets, losses):
        model.class_fractions, own = fractions
        # A teacher whose fractions are unknown pulls the model to them.
        unknown = "expression" in taught and any(one.prior is None for one in teachers)
        model.prior = None if unknown else own
        distillation = distillation and dataclasses.replace(distillation, prior=own)
    return AffectModule(
        model,
        augmentation=augmentation(config),
        optimisation=optimisation(config),
        losses=losses,
        mixing=Mixing(config.mixup, config.cutmix, config.mix_share),
        unfreezing=Unfreezing(config.head_epochs, config.unfreeze_every),
        distillation=distillation,
        learned_weights=config.task_weights == "learned",
        schedule_epochs=config.schedule_epochs,
        seed=config.seed,
    )


def _labels(data: AffectDataModule, split: str) -> dict[str, np.ndarray]:
    rows = data.rows(split, capped=split == "train")
    return {
        name: np.asarray(getattr(data.splits[split], name))[rows]
        for name in ("expression", "valence", "arousal", "soft")
    }


def _feature_pass(
    config: TrainConfig, model: AffectModel, features: Path, precision: str
) -> FeaturePass:
    return FeaturePass(
        model,
        features,
        data=[DatasetInfo.read(path).content_hash for path in config.data],
        augmentation=augmentation(config),
        seed=config.seed,
        device=torch.device(device_type(config.accelerator)),
        precision=precision,
    )


def _probe(
    config: TrainConfig, run: RunFolder, features: Path, replacement: _Replacement | None
) -> AffectModel:
    """The model whose heads were trained on features computed once: a run inside the run.

    With --resume a finished probe is used and an unfinished one is resumed.
    """
    probe = RunFolder(run.path / PROBE)
    done = (probe.model / "config.json").is_file() and not probe.start.is_dir()
    # Without --resume a probe here is of an earlier run: another process may not have deleted it.
    if not (config.resume and done):
        print(f"linear probe: {config.probe_epochs} epochs of the heads alone")
        settings = dataclasses.replace(
            config,
            name=PROBE,
            runs=run.path,
            overwrite=False,
            epochs=config.probe_epochs,
            schedule_epochs=None,
            lr=config.probe_lr,
            freeze="backbone",
            features="once",
            views=0,
            # Settings of the fine-tuning only.
            probe_epochs=0,
            early_stop=None,
            logger=(),
            head_epochs=0,
            unfreeze_every=0,
            layer_decay=1.0,
            ema=None,
            mixup=0.0,
            cutmix=0.0,
            teacher=(),
            accumulate=1,
            compile=False,
        )
        _train(settings, probe, features, replacement)
    return AffectModel.from_pretrained(probe.model)


def _fit(
    config: TrainConfig,
    run: RunFolder,
    module: AffectModule,
    batches: L.LightningDataModule,
    devices: dict[str, Any],
    title: str,
    is_probe: bool,
    replacement: _Replacement | None,
) -> L.Trainer:
    """Train the epochs that are not done yet; print the title before."""
    stop = StopOnSignal()
    resume_from = run.last if config.resume and run.last.is_file() else None
    done = read_checkpoint(resume_from) if resume_from else {"epoch": -1, "global_step": 0}
    enough = ""
    if done["epoch"] + 1 >= config.epochs:
        enough = f"{run.path} already has its {config.epochs} epochs; --epochs N trains more"
    elif stopped_early(done, config.early_stop):
        enough = (
            f"{run.path} was stopped early after epoch {done['epoch'] + 1}; a larger --early-stop, "
            "or None, trains more"
        )
    loggers = []
    if not enough:
        runs = run.path if is_probe else config.runs
        settings = plain_settings(config)
        loggers = make_loggers(config.logger, run, runs, settings, done["global_step"])
    trainer = make_trainer(
        run,
        stop=stop,
        after=None if is_probe else replacement,
        keep=config.keep_checkpoints,
        loggers=loggers,
        **settings_of(config, "epochs", "monitor", "early_stop", "ema", "clip_norm", "accumulate"),
        **devices,
    )
    if enough:
        print(enough)
        return trainer
    if title:
        print(title, flush=True)
    resumable = RunFolder(run.path.parent) if is_probe else run
    with _explain_stop(resumable, replacement), stop.listening():
        trainer.fit(module, batches, ckpt_path=resume_from, weights_only=True)
    finish(loggers)
    if trainer.current_epoch < config.epochs and rank() == 0:
        print(f"stopped early: no better {config.monitor} in the last {config.early_stop} epochs")
    return trainer


@contextmanager
def _explain_stop(run: RunFolder, replacement: _Replacement | None) -> Iterator[None]:
    """After a signal, state how to resume and queue a SLURM job again; leave Ctrl-C as it is."""
    try:
        with ctrl_c_raises():
            yield
    except Stopped as stop:
        requeued = requeue() if stop.signal == getattr(signal, "SIGUSR1", None) else ""
        run = RunFolder(replacement.path) if replacement else run
        state = (
            "every finished epoch is saved, continue with `affectnet train --runs "
            f"{run.path.parent} --name {run.name} --resume`"
        )
        if replacement and not replacement.done:
            state = f"no epoch was finished, and {run.path} is as it was before"
        raise Stopped(
            stop.signal,
            f"stopped by {signal.Signals(stop.signal).name}; {state}"
            + (f"; {requeued}" if requeued else ""),
        ) from None
    except ValueError as error:
        if "parameter group" not in str(error):
            raise
        raise RunError(
            f"{run.path} was started by an earlier affectnet, which divided the weights among "
            "learning rates and weight decays in another way, so it cannot be continued; train it "
            "again with --overwrite, or continue it with the version that started it"
        ) from error
