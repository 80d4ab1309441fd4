"""`affectnet train`: a probe, fine-tuning from it, and resuming both after `kill -9`."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from affectnet.commands.train import PROBE, train
from affectnet.commands.train_settings import check
from affectnet.config import TrainConfig
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder


def small(data: Path, runs: Path, **settings: object) -> TrainConfig:
    base = TrainConfig(
        data=(data,),
        backbone="resnet10t",
        epochs=3,
        probe_epochs=4,
        image_size=32,
        pretrained=False,
        runs=runs,
        batch_size=32,
        workers=0,
        accelerator="cpu",
    )
    return dataclasses.replace(base, **settings)


def everything(data: Path, runs: Path, **settings: object) -> TrainConfig:
    """All settings of fine-tuning at once."""
    return small(
        data,
        runs,
        head_epochs=1,
        unfreeze_every=1,
        layer_decay=0.8,
        backbone_lr=0.5,
        accumulate=2,
        mixup=0.2,
        cutmix=1.0,
        drop_path=0.1,
        task_weights="learned",
        max_per_class=12,
        ema=0.9,
        **settings,
    )


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the times."""
    with run.metrics.open(newline="") as file:
        return [{n: v for n, v in row.items() if n != "seconds"} for row in csv.DictReader(file)]


def state_of(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run.last, weights_only=True)
    return checkpoint.get("current_model_state", checkpoint["state_dict"])


@pytest.fixture(scope="module")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(everything(drawn, tmp_path_factory.mktemp("runs"), name="whole"))


def test_fine_tuning_starts_from_the_probes_heads(drawn: Path, tmp_path: Path) -> None:
    still = {"lr": 1e-9, "warmup_epochs": 0.0, "epochs": 1, "probe_epochs": 2}
    run = train(small(drawn, tmp_path, probe_lr=0.01, **still))
    probe = AffectModel.from_pretrained(run.path / PROBE / "model").heads.state_dict()
    tuned = AffectModel.from_pretrained(run.model).heads.state_dict()
    fresh = train(small(drawn, tmp_path, name="fresh", **{**still, "probe_epochs": 0}))
    start = AffectModel.from_pretrained(fresh.model).heads.state_dict()
    for name, value in probe.items():
        torch.testing.assert_close(value, tuned[name], atol=1e-6, rtol=0)
        assert not torch.allclose(value, start[name], atol=1e-4)


def test_a_run_with_all_settings_is_recorded_completely(whole: RunFolder) -> None:
    assert len(rows_of(whole)) == 3
    assert len(rows_of(RunFolder(whole.path / PROBE))) == 4
    saved = yaml.safe_load(whole.config.read_text())
    assert (saved["probe_epochs"], saved["layer_decay"], saved["mixup"]) == (4, 0.8, 0.2)
    assert state_of(whole)["log_variances"].abs().sum() > 0


@pytest.mark.parametrize("phase", [pytest.param("probe", marks=pytest.mark.slow), "fine-tuning"])
def test_killed_in_either_phase_ends_like_an_uninterrupted_run(
    whole: RunFolder, drawn: Path, tmp_path: Path, phase: str
) -> None:
    killed = RunFolder(tmp_path / "killed")
    watched = RunFolder(killed.path / PROBE) if phase == "probe" else killed
    file = tmp_path / "killed.yaml"
    settings = yaml.safe_load(whole.config.read_text())
    file.write_text(yaml.safe_dump(settings | {"name": "killed", "runs": str(tmp_path)}))
    process = subprocess.Popen(
        [sys.executable, "-m", "affectnet", "train", "--config", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 200
    while not (watched.metrics.is_file() and rows_of(watched)):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "training did not start"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed.model / "config.json").is_file()
    resumed = train(everything(drawn, tmp_path, name="killed", resume=True))
    assert rows_of(resumed) == rows_of(whole)
    expected, found = state_of(whole), state_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_no_setting_of_fine_tuning_changes_on_resume(whole: RunFolder, drawn: Path) -> None:
    config = everything(drawn, whole.path.parent, name="whole", resume=True)
    changes: dict[str, object] = {
        **{"probe_epochs": 1, "probe_lr": 0.5, "unfreeze_every": 0, "layer_decay": 0.5},
        **{"backbone_lr": 1.0, "accumulate": 1, "mixup": 0.0, "cutmix": 0.0, "mix_share": 0.5},
        **{"task_weights": "fixed", "max_per_class": None, "recipe": "cvnet"},
        **{"teacher": ("cvnet",), "teacher_weight": 0.1, "teacher_temperature": 9.0},
    }
    with pytest.raises(ConfigError) as caught:
        train(dataclasses.replace(config, **{**changes, "teacher": ()}))
    for name in changes.keys() - {"teacher"}:
        assert f"{name} (was" in str(caught.value)


def test_all_faults_of_fine_tuning_are_listed_at_once() -> None:
    config = TrainConfig(
        data=(Path("D"),),
        freeze="backbone",
        **{"probe_epochs": 2, "layer_decay": 1.5, "accumulate": 0, "mixup": -1.0, "cutmix": 1.0},
        **{"unfreeze_every": 2, "max_per_class": 0, "teacher": ("cvnet", "no/such/model")},
        **{"optimizer": "muon", "strategy": "fsdp", "logit_tau": -1.0},
        **{"teacher_weight": 2.0, "teacher_temperature": 0.0, "mix_share": 2.0, "backbone_lr": 0.0},
    )
    with pytest.raises(ConfigError) as caught:
        check(config)
    for flag in (
        *("--probe-epochs", "--layer-decay", "--accumulate", "--mixup", "--cutmix"),
        *("--unfreeze-every", "--max-per-class", "--teacher", "--teacher-weight"),
        *("--teacher-temperature", "--mix-share", "--backbone-lr", "--logit-tau"),
        "--optimizer muon",
    ):
        assert flag in str(caught.value)


def test_a_run_is_the_teacher_of_another(whole: RunFolder, drawn: Path, tmp_path: Path) -> None:
    settings = {"probe_epochs": 0, "epochs": 1, "teacher": (str(whole.path), "cvnet")}
    settings["teacher_weight"] = 1.0
    run = train(small(drawn, tmp_path, **settings))
    alone = train(small(drawn, tmp_path, name="alone", **{**settings, "teacher": ()}))
    assert rows_of(run)[0]["val_loss"] != rows_of(alone)[0]["val_loss"]
    assert yaml.safe_load(run.config.read_text())["teacher"] == [str(whole.path), "cvnet"]


def test_the_error_for_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(data=(Path("D"),), compile=True, accelerator="cpu")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"--compile needs a C\+\+ compiler"):
        check(config)
