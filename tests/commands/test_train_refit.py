"""`train --refit` and `--early-stop`: the chosen epochs on all faces; no needless ones."""

import csv
import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from drawn import write_faces

from affectnet.cli import parse
from affectnet.commands.evaluate import evaluate
from affectnet.commands.train import train
from affectnet.config import EvaluateConfig, TrainConfig
from affectnet.data.store import DatasetInfo, Face, open_split
from affectnet.errors import ConfigError, RunError
from affectnet.report import write_report
from affectnet.run import RunFolder


def small(data: Path, runs: Path, **settings: object) -> TrainConfig:
    """A network without batch norm, so that a rate near zero changes no metric."""
    base = TrainConfig(
        data=(data,),
        backbone="test_convnext",
        epochs=4,
        image_size=32,
        pretrained=False,
        runs=runs,
        batch_size=64,
        workers=0,
        accelerator="cpu",
        precision="32",
    )
    return dataclasses.replace(base, **settings)


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    with run.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run.last, weights_only=True)
    return checkpoint.get("current_model_state", checkpoint["state_dict"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def chosen(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run whose best epoch is neither its first nor its last."""
    runs = tmp_path_factory.mktemp("runs")
    run = train(small(drawn, runs, name="a", ema=0.9, lr=3e-3, monitor="val_loss", seed=1))
    # As if its third epoch had been the best: the checkpoints of real runs depend on the machine.
    best = torch.load(run.best, weights_only=True) | {"epoch": 2}
    torch.save(best, run.best)
    return run


@pytest.fixture(scope="module")
def refit(chosen: RunFolder) -> RunFolder:
    return train(parse("train", ["--refit", str(chosen.path), "--keep-checkpoints", "all"]))


def both_splits(data: Path, folder: Path) -> Path:
    """A dataset whose train split is train and val of another one."""
    folder.mkdir()
    shutil.copy(data / "val.arrow", folder)
    names = ("train", "val")
    faces = [
        Face(
            id=f"{name}/{split.ids[row]}",
            image=bytes(split.image_bytes(row)),
            expression=int(split.expression[row]),
            valence=float(split.valence[row]),
            arousal=float(split.arousal[row]),
        )
        for name in names
        for split in [open_split(data, name)]
        for row in range(len(split))
    ]
    write_faces(folder / "train.arrow", faces)
    dataclasses.replace(DatasetInfo.read(data), content_hash="both").write(folder)
    return folder


def test_a_refit_is_a_training_on_both_splits(
    chosen: RunFolder, refit: RunFolder, drawn: Path, tmp_path: Path
) -> None:
    assert refit.path == chosen.path.with_name("a-refit")
    assert len(rows_of(refit)) == 3
    assert all(row["val_accuracy"] == "" for row in rows_of(refit))
    assert not refit.best.exists()
    settings = {"ema": 0.9, "lr": 3e-3, "seed": 1, "monitor": "val_loss", "schedule_epochs": 4}
    joined = both_splits(drawn, tmp_path / "both")
    whole = train(small(joined, tmp_path, name="whole", epochs=3, **settings))
    assert same(weights_of(refit), weights_of(whole))
    # The averaged weights of the last epoch are exported, not those of a selected one.
    last = torch.load(refit.last, weights_only=True)["state_dict"]
    from safetensors.torch import load_file

    exported = load_file(refit.model / "model.safetensors")
    assert all(torch.equal(last[f"model.{name}"], value) for name, value in exported.items())


def test_the_config_states_the_refit(chosen: RunFolder, refit: RunFolder, drawn: Path) -> None:
    saved = yaml.safe_load(refit.config.read_text())
    assert saved["refit"] == str(chosen.path)
    assert (saved["epochs"], saved["schedule_epochs"]) == (3, 4)
    assert saved["monitor"] is None
    assert saved["lr"] == 3e-3
    (both,) = json.loads(refit.faces.read_text()).items()
    assert (both[0], sum(both[1].values())) == (
        "train+val",
        sum(len(open_split(drawn, name)) for name in ("train", "val")),
    )


def test_a_refit_is_resumed_to_the_bit(refit: RunFolder, tmp_path: Path) -> None:
    copied = RunFolder(shutil.copytree(refit.path, tmp_path / refit.name))
    shutil.copy(copied.checkpoints / "epoch-000.ckpt", copied.last)
    flags = ["--runs", str(tmp_path), "--name", refit.name, "--resume"]
    resumed = train(parse("train", flags))
    assert same(weights_of(resumed), weights_of(refit))
    losses = [[row["train_loss"] for row in rows_of(run)] for run in (resumed, refit)]
    assert losses[0] == losses[1]
    # The command that started it continues it, too.
    again = parse("train", ["--refit", str(refit.path.with_name("a")), *flags])
    assert (again.refit, again.epochs, again.name) == (refit.path.with_name("a"), 3, refit.name)


def test_a_refit_is_evaluated_and_reported(
    refit: RunFolder, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"data": drawn, "accelerator": "cpu", "workers": 0, "figures": False}
    with pytest.raises(ConfigError, match=r"--calibrate fits on the val split.*--refit"):
        evaluate(EvaluateConfig(runs=(refit.path,), calibrate=True, **settings))
    evaluate(EvaluateConfig(runs=(refit.path,), split="val", **settings))
    assert "was trained on the val split too" in capsys.readouterr().out
    card = (refit.model / "README.md").read_text()
    assert "training and validation faces were trained on together" in " ".join(card.split())
    assert str(refit.path.parent) not in card
    report = write_report([refit.path], tmp_path / "r.html", "val", explain=False)
    assert report.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_refit_of_other_ways_of_training(
    chosen: RunFolder, drawn: Path, tmp_path: Path, frozen: bool
) -> None:
    """With a teacher; with features computed once, which are not those of the train split."""
    way = {"freeze": "backbone"} if frozen else {"teacher": (str(chosen.path),), "mixup": 0.2}
    first = train(small(drawn, tmp_path, name="w", epochs=1, monitor="val_loss", **way))
    again = train(parse("train", ["--refit", str(first.path)]))
    faces = len(open_split(drawn, "train")) + len(open_split(drawn, "val"))
    assert len(rows_of(again)) == 1
    if frozen:
        sizes = {file.name: file.stat().st_size for file in tmp_path.glob(".features/*/*.f16")}
        a_face = sizes["train-0.f16"] / len(open_split(drawn, "train"))
        assert sizes["train+val-0.f16"] / a_face == faces
        fresh = train(small(drawn, tmp_path, name="w2", epochs=1, monitor="val_loss", **way))
        assert same(weights_of(fresh), weights_of(first))


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ("--epochs 3", "leave out --epochs"),
        ("--early-stop 2", "--early-stop needs a validation split"),
        ("--monitor val_loss", "--monitor needs a validation split"),
    ],
)
def test_settings_that_a_refit_refuses(chosen: RunFolder, flags: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        train(parse("train", ["--refit", str(chosen.path), *flags.split()]))


def test_runs_that_cannot_be_refitted(
    chosen: RunFolder, refit: RunFolder, drawn_tars: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="there is no such run"):
        parse("train", ["--refit", str(tmp_path / "none")])
    with pytest.raises(RunError, match=r"no checkpoints/best\.ckpt"):
        train(parse("train", ["--refit", str(refit.path)]))
    open_one = RunFolder(shutil.copytree(chosen.path, tmp_path / "open"))
    open_one.start.mkdir()
    with pytest.raises(RunError, match="is not finished"):
        train(parse("train", ["--refit", str(open_one.path)]))
    from affectnet.commands.ingest import ingest
    from affectnet.config import IngestConfig

    ingest(IngestConfig(sources=drawn_tars, out=tmp_path / "other", seed=7))
    flags = ["--refit", str(chosen.path), "--data", str(tmp_path / "other")]
    with pytest.raises(ConfigError, match=r"the content of .*other differs"):
        train(parse("train", flags))


def test_early_stop(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate near zero changes no accuracy: the first epoch stays the best."""
    config = small(drawn, tmp_path, name="e", epochs=6, lr=1e-12, monitor="val_accuracy")
    run = train(dataclasses.replace(config, early_stop=2))
    assert len(rows_of(run)) == 3
    assert "stopped early" in capsys.readouterr().out
    resumed = dataclasses.replace(config, early_stop=2, resume=True)
    train(resumed)
    assert "was stopped early after epoch 3" in capsys.readouterr().out
    assert len(rows_of(run)) == 3
    train(dataclasses.replace(resumed, early_stop=4))
    assert [int(row["epoch"]) for row in rows_of(run)] == [0, 1, 2, 3, 4]
    train(dataclasses.replace(resumed, early_stop=None))
    assert len(rows_of(run)) == 6


def test_a_run_that_gets_better_is_not_stopped(drawn: Path, tmp_path: Path) -> None:
    config = small(drawn, tmp_path, epochs=3, lr=1e-3, monitor="val_loss", early_stop=3)
    run = train(config)
    assert len(rows_of(run)) == 3
    losses = [float(row["val_loss"]) for row in rows_of(run)]
    assert torch.load(run.best, weights_only=True)["epoch"] == int(np.argmin(losses))
    # Ordinary permissions: whoever may read other new files may read the weights.
    mask = os.umask(0)
    os.umask(mask)
    for file in (run.model / "model.safetensors", run.model / "config.json", run.last):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    assert all(float(row["seconds"]) > 0 for row in rows_of(run))
