"""Loggers: each continues a resumed run without a row twice; packages that are not installed."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from affectnet.errors import ConfigError
from affectnet.run import RunFolder
from affectnet.training import loggers
from affectnet.training.loggers import finish, log_picture, make_loggers, missing_packages

SETTINGS = {"lr": 0.1, "logger": ["csv"], "ema": None}


def log(names: tuple[str, ...], run: RunFolder, done: int, steps: range) -> None:
    """What a training logs of some steps."""
    made = make_loggers(names, run, run.path.parent, SETTINGS, done)
    for logger in made:
        for step in steps:
            logger.log_metrics({"val_loss": step / 10}, step)
        logger.save()
        logger.finalize("success")
    finish(made)


def rows(file: Path) -> list[tuple[int, float]]:
    with file.open(newline="") as lines:
        return [(int(row["step"]), float(row["val_loss"])) for row in csv.DictReader(lines)]


def test_csv_of_a_resumed_run_has_each_step_once(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run = RunFolder(tmp_path / "r")
    log(("csv",), run, 0, range(4))  # killed after step 3, resumed from step 2
    log(("csv",), run, 2, range(2, 6))
    assert rows(run.path / "csv" / "metrics.csv") == [(n, n / 10) for n in range(6)]
    assert not [one for one in recwarn if "not empty" in str(one.message)]


def test_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    picture = tmp_path / "faces.jpg"
    Image.new("RGB", (20, 10), "red").save(picture)
    log((), run, 0, range(4))  # tensorboard is the default
    (logger,) = make_loggers((), run, tmp_path, SETTINGS, 2)
    log_picture(logger, "faces", picture, 2)
    logger.log_metrics({"val_loss": 0.2}, 2)
    logger.finalize("success")
    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [event.step for event in events.Scalars("val_loss")] == [0, 1, 2]
    (shown,) = events.Images("faces")
    assert (shown.width, shown.height) == (20, 10)
    settings = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"lr" in settings
    assert b"ema" not in settings


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    messages = missing_packages(("tensorboard", "mlflow", "csv", "wandb", "wandb"))
    assert len(messages) == 2
    assert "pip install 'affectnet[mlflow]'" in messages[0]
    assert "pip install 'affectnet[wandb]'" in messages[1]


def test_names_given_twice_log_once(tmp_path: Path) -> None:
    made = make_loggers(("csv", "csv"), RunFolder(tmp_path / "r"), tmp_path, SETTINGS)
    assert [type(one) for one in made] == [CSVLogger]


needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


@pytest.mark.slow
@needs_mlflow
def test_mlflow_continues_its_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    run = RunFolder(tmp_path / "r")
    picture = tmp_path / "faces.jpg"
    Image.new("RGB", (20, 10), "red").save(picture)
    log(("mlflow",), run, 0, range(3))
    (logger,) = make_loggers(("mlflow",), run, tmp_path, SETTINGS, 3)
    log_picture(logger, "faces", picture, 3)
    logger.log_metrics({"val_loss": 0.3}, 3)
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'affectnet'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "r"
    assert found.data.params["lr"] == "0.1"
    history = client.get_metric_history(found.info.run_id, "val_loss")
    assert [one.step for one in history] == [0, 1, 2, 3]
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["faces.jpg"]


@pytest.mark.slow
@needs_mlflow
def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"--logger mlflow could not start.*MLFLOW_TRACKING_URI"):
        make_loggers(("mlflow",), RunFolder(tmp_path / "r"), tmp_path, SETTINGS)


@pytest.mark.slow
@needs_mlflow
@needs_wandb
def test_wandb_offline_continues_its_run(tmp_path: Path) -> None:
    """In processes of their own: wandb starts one that must end with them."""
    code = """
import sys
from pathlib import Path
from affectnet.run import RunFolder
from affectnet.training.loggers import finish, log_picture, make_loggers
run, done = RunFolder(Path(sys.argv[1]) / "r"), int(sys.argv[2])
made = make_loggers(("wandb", "mlflow"), run, run.path.parent, {"lr": 0.1}, done)
made[0].log_metrics({"val_loss": done / 10}, done)
log_picture(made[0], "faces", Path(sys.argv[1]) / "faces.jpg", done)
print("id", made[0].experiment.id, made[1].run_id)
finish(made)
"""
    Image.new("RGB", (20, 10), "red").save(tmp_path / "faces.jpg")
    ids = []
    for done in ("0", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), done],
            env=os.environ | {"WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        ids += [line for line in ended.stdout.splitlines() if line.startswith("id ")]
    assert len(ids) == 2
    assert ids[0] == ids[1]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.jpg"))
