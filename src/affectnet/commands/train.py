"""`affectnet train`: one dataset, one backbone, one run folder."""

import dataclasses
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import numpy as np
import torch

from affectnet.commands.train_settings import (
    augmentation,
    check,
    check_monitor,
    check_same_run,
    how_faces_were_cut,
    loss_settings,
    mixing,
    optimisation,
    run_name,
    unfreezing,
    with_classes_of_data,
    write_config,
)
from affectnet.config import TrainConfig
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import DatasetInfo
from affectnet.errors import RunError, Stopped
from affectnet.models.affect_model import AffectModel
from affectnet.models.cvnet import CVNet
from affectnet.models.model_config import local_path
from affectnet.run import RunFolder
from affectnet.seven import classes_for
from affectnet.training.checkpoints import export_best, read_checkpoint, save_start
from affectnet.training.distillation import Distillation
from affectnet.training.distributed import rank
from affectnet.training.features import FeatureDataModule, FeaturePass
from affectnet.training.module import AffectModule
from affectnet.training.signals import StopOnSignal, requeue
from affectnet.training.trainer import (
    device_settings,
    explain_memory_errors,
    make_trainer,
    on_gpu,
)

FEATURES = ".features"
"""Folder among the runs where the features of frozen backbones are kept."""


PROBE = "probe"
"""Folder in a run where the linear probe is kept from which the fine-tuning starts."""


def train(config: TrainConfig) -> RunFolder:
    """Train as `config` says; return the run folder, its `model/` being the best epoch's.

    Raises:
        ConfigError: listing every setting that is wrong, before anything is written.
        RunError: when the run exists already and neither --resume nor --overwrite was given.
    """
    check(config)
    with explain_memory_errors(config.batch_size, config.image_size, config.freeze == "backbone"):
        return _train(with_classes_of_data(config), config.runs / FEATURES)


def _train(config: TrainConfig, features: Path) -> RunFolder:
    run = RunFolder(config.runs / run_name(config))
    whole = features.parent == config.runs  # or the probe in a run
    if rank() == 0 and run.used() and not (config.resume or config.overwrite):
        raise RunError(
            f"the run {run.path} exists already; go on with it by --resume, replace it by "
            "--overwrite, or choose another --name"
        )
    if rank() == 0 and config.resume and run.config.is_file():
        check_same_run(config, run)

    L.seed_everything(config.seed, verbose=False)
    model = _create_model(config)
    data = AffectDataModule(
        config.data,
        batch_size=config.batch_size,
        image_size=model.preprocessing.size,
        interpolation=model.preprocessing.interpolation,
        workers=config.workers,
        sampler=config.sampler,
        seed=config.seed,
        cache=config.cache,
        max_per_class=config.max_per_class,
        without_contempt=config.without_contempt,
    )
    data.setup("fit")
    if config.without_contempt:
        _tell_left_out(data)
    check_monitor(config, _labels(data, "val"))
    module = AffectModule(
        model,
        augmentation=augmentation(config),
        optimisation=optimisation(config),
        losses=loss_settings(config, _labels(data, "train")["expression"], len(model.classes)),
        mixing=mixing(config),
        unfreezing=unfreezing(config),
        distillation=_distillation(config),
        learned_weights=config.task_weights == "learned",
        seed=config.seed,
    )
    devices = device_settings(
        config.accelerator, config.devices, config.nodes, config.precision, config.strategy
    )

    # Everything that can be wrong has been looked at: only now is the earlier run given up.
    if rank() == 0:  # the other processes of the run find all this done, or wait for it in fit
        if config.overwrite and run.used():
            shutil.rmtree(run.path)
        write_config(config, run)
    if config.probe_epochs:
        model.heads.load_state_dict(_probe(config, run, features).heads.state_dict())
    if rank() == 0:
        save_start(run, model)
    batches: L.LightningDataModule = data
    if config.freeze == "backbone" and config.features == "once":
        source = FeaturePass(
            model,
            features,
            data=[DatasetInfo.read(path).content_hash for path in config.data],
            augmentation=augmentation(config),
            seed=config.seed,
            device=torch.device("cuda" if on_gpu(config.accelerator) else "cpu"),
            precision=devices["precision"].split("-")[0],
        )
        batches = FeatureDataModule(data, source, config.views)
    if config.compile:
        # In place: the names of the weights, and so the checkpoints, stay what they are.
        model.compile()
    stop = StopOnSignal()
    trainer = make_trainer(
        run,
        stop=stop,
        epochs=config.epochs,
        monitor=config.monitor,
        keep=config.keep_checkpoints,
        ema=config.ema,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
        **devices,
    )
    resume_from = run.last if config.resume and run.last.is_file() else None
    if resume_from and read_checkpoint(resume_from)["epoch"] + 1 >= config.epochs:
        print(f"{run.path} has its {config.epochs} epochs already; more come with --epochs N")
    else:
        with _told_how_to_go_on(run if whole else RunFolder(run.path.parent)), stop.listening():
            trainer.fit(module, batches, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero:
        export_best(run)
        shutil.rmtree(run.start, ignore_errors=True)
        print(f"best model: {run.model}")
        if whole:
            where = " ".join(f"--data {path}" for path in config.data)
            print(f"next: affectnet evaluate {run.path} {where}")
    trainer.strategy.barrier("exported")
    return run


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
        model.preprocessing, **how_faces_were_cut([DatasetInfo.read(path) for path in config.data])
    )
    return model.freeze_backbone() if config.freeze == "backbone" else model


def _labels(data: AffectDataModule, split: str) -> dict[str, np.ndarray]:
    rows = data.rows(split, capped=split == "train")
    return {
        name: np.asarray(getattr(data.splits[split], name))[rows]
        for name in ("expression", "valence", "arousal")
    }


def _distillation(config: TrainConfig) -> Distillation | None:
    if not config.teacher:
        return None
    teachers = tuple(AffectModel.from_pretrained(model) for model in config.teacher)
    return Distillation(teachers, config.teacher_weight, config.teacher_temperature)


def _probe(config: TrainConfig, run: RunFolder, features: Path) -> AffectModel:
    """The model whose heads alone were trained, on features computed once: a run in the run.

    Done once: going on with the run finds it, and goes on with the probe where that was stopped.
    """
    probe = RunFolder(run.path / PROBE)
    done = (probe.model / "config.json").is_file() and not probe.start.is_dir()
    # What an earlier run left is no probe of this one: another process may see it before it goes.
    if not (config.resume and done):
        print(f"linear probe: {config.probe_epochs} epochs of the heads alone")
        settings = dataclasses.replace(
            config,
            name=PROBE,
            runs=run.path,
            overwrite=False,
            epochs=config.probe_epochs,
            lr=config.probe_lr,
            freeze="backbone",
            features="once",
            views=0,
            # What belongs to the fine-tuning alone.
            probe_epochs=0,
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
        _train(settings, features)
    return AffectModel.from_pretrained(probe.model)


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


def _tell_left_out(data: AffectDataModule) -> None:
    left_out = [
        f"{len(split) - len(data.rows(name, capped=False)):,} of {len(split):,} {name} faces"
        for name, split in data.splits.items()
    ]
    print(f"seven classes: without contempt, which leaves out {' and '.join(left_out)}")
