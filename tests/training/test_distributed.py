"""Two processes on one machine (gloo, CPU) train and predict like one.

The model has no batch norm and no dropout: on a CPU PyTorch has no batch norm over processes, and
each process draws its own dropout.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from affectnet.errors import ConfigError
from affectnet.run import RunFolder
from affectnet.training import trainer
from affectnet.training.distributed import derived_seed
from affectnet.training.trainer import device_settings


def run(*flags: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "affectnet", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one_and_two(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    runs = tmp_path_factory.mktemp("runs")
    for name, devices in (("one", "1"), ("two", "2")):
        run(
            *("train", "--data", str(drawn), "--runs", str(runs), "--name", name),
            *("--backbone", "test_convnext", "--image-size", "32", "--no-pretrained"),
            *("--dropout", "0", "--epochs", "2", "--batch-size", "32", "--workers", "0"),
            *("--accelerator", "cpu", "--precision", "32", "--devices", devices),
            *("--logger", "csv", "--logger", "tensorboard", "--early-stop", "2"),
        )
    return [RunFolder(runs / "one"), RunFolder(runs / "two")]


def test_two_processes_train_as_one(one_and_two: list[RunFolder]) -> None:
    figures = []
    for one in one_and_two:
        with one.metrics.open(newline="") as file:
            figures.append(
                [
                    [float(row[n]) for n in ("train_loss", "val_loss")]
                    for row in csv.DictReader(file)
                ]
            )
    assert len(figures[0]) == 2
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-4)
    a, b = (torch.load(one.last, weights_only=True)["state_dict"] for one in one_and_two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-4)


def test_the_first_process_writes_everything_once(one_and_two: list[RunFolder]) -> None:
    one, two = one_and_two

    def files(run: RunFolder) -> list[str]:
        return sorted(
            re.sub(r"tfevents\..*", "tfevents", str(file.relative_to(run.path)))
            for file in run.path.rglob("*")
        )

    assert files(one) == files(two)
    for run in one_and_two:
        with (run.path / "csv" / "metrics.csv").open(newline="") as lines:
            logged = [row["epoch"] for row in csv.DictReader(lines) if row["train_loss"]]
        assert logged == ["0", "1"]
        with run.metrics.open(newline="") as lines:
            assert [row["epoch"] for row in csv.DictReader(lines)] == ["0", "1"]


def test_two_processes_predict_exactly_as_one(
    one_and_two: list[RunFolder], drawn: Path, tmp_path: Path
) -> None:
    tables = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        run(
            *("evaluate", str(one_and_two[0].path), "--data", str(drawn), "--devices", devices),
            *("--split", "val", "--accelerator", "cpu", "--batch-size", "14", "--out", str(out)),
            *("--no-figures", "--no-card", "--resamples", "0", "--workers", "0"),
        )
        tables.append(pq.read_table(next(out.rglob("predictions.parquet"))))
    ids = tables[0]["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 40
    assert tables[1]["id"].to_pylist() == ids
    for name in tables[0].column_names[1:]:
        np.testing.assert_allclose(
            tables[1][name].to_numpy(), tables[0][name].to_numpy(), rtol=1e-6, atol=1e-7
        )


def test_strategies_are_passed_to_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_settings("cpu")["strategy"] == "auto"
    assert isinstance(device_settings("cpu", devices=2)["strategy"], DDPStrategy)
    assert isinstance(device_settings("cpu", nodes=2)["strategy"], DDPStrategy)
    assert not device_settings("cpu", devices=2)["sync_batchnorm"]
    with pytest.raises(ConfigError, match="--strategy ddp"):
        device_settings("cpu", devices=2, strategy="fsdp")
    # There is no GPU here: only the settings of Lightning's strategy can be tested.
    monkeypatch.setattr(trainer, "FSDPStrategy", lambda **given: given)
    monkeypatch.setattr(trainer, "device_type", lambda _: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    settings = device_settings("gpu", devices=8, precision="bf16", strategy="fsdp")
    exact = settings["strategy"].pop("mixed_precision")
    assert exact.param_dtype == exact.reduce_dtype == exact.buffer_dtype == torch.float32
    assert settings["strategy"] == {"state_dict_type": "full", "sharding_strategy": "FULL_SHARD"}
    assert settings["sync_batchnorm"]
    assert settings["devices"] == 8


def test_derived_seeds_differ_and_repeat() -> None:
    seeds = {derived_seed(s, "augment", e, b) for s in range(3) for e in range(3) for b in range(3)}
    assert len(seeds) == 27
    assert derived_seed(0, "augment", 1, 2) == derived_seed(0, "augment", 1, 2)
    assert all(0 <= seed < 2**63 for seed in seeds)
