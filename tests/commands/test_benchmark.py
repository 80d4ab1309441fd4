"""`affectnet benchmark`: what it refuses, what it passes on, and that the rest survives a failure.

`tests/test_kills.py` tests that it can be killed.
"""

import dataclasses
import fcntl
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from affectnet.commands import benchmark as module
from affectnet.commands.benchmark import Job, benchmark, list_jobs, recipe_flags, run_python
from affectnet.config import BenchmarkConfig
from affectnet.data.store import DatasetInfo
from affectnet.errors import ConfigError, RunError
from affectnet.evaluation.prediction_files import write_predictions
from affectnet.evaluation.predictions import predictions_table
from affectnet.models.backbones import BASELINES


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    config = BenchmarkConfig(
        data=(), out=tmp_path / "b", backbones=("cvnett",), seeds=("0,x",), set=("lr",)
    )
    with pytest.raises(ConfigError) as caught:
        benchmark(config)
    for fault in ("cvnett", "--seeds has x", "--data is required", "--set lr"):
        assert fault in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_settings_of_the_trainings_are_checked_before_they_start(
    drawn: Path, tmp_path: Path
) -> None:
    """Once for all models, by the checks of `affectnet train`."""
    config = BenchmarkConfig(data=(drawn,), out=tmp_path / "b", recipe="default", seeds=("0,1",))
    for given, message in (
        (("class-weights=balanced",), "--loss logit_adjusted and --class-weights balanced each"),
        (("sampler=sqrt", "loss=cross_entropy", "class-weights=balanced"), "--sampler sqrt each"),
        (("learning-rate=1",), "there is no flag --learning-rate"),
        (("lr=-1",), "--lr is -1"),
    ):
        with pytest.raises(ConfigError) as caught:
            list_jobs(dataclasses.replace(config, set=given))
        assert str(caught.value).count(message) == 1
    assert len(list_jobs(dataclasses.replace(config, set=("sampler=sqrt", "loss=focal")))) == 14


def test_the_default_recipe_keeps_its_own_weights(drawn: Path, tmp_path: Path) -> None:
    """The run has the name of the backbone, and is found again under it."""
    finish(drawn, tmp_path, Job("resnet152", 0))
    run = Job("resnet152", 0).run(tmp_path)
    run.config.write_text("backbone: resnet152.a1h_in1k\nseed: 0\n")
    with (tmp_path / module.SETTINGS).open("a") as file:
        file.write("recipe: default\n")
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("resnet152",))
    assert benchmark(dataclasses.replace(config, recipe="default")) == 0
    assert "| resnet152 | 0.500" in (tmp_path / "leaderboard.md").read_text()


def test_backbones_and_seeds_are_lists_with_commas(drawn: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet,vgg19",))
    config = dataclasses.replace(config, seeds=("0,1", "2"))
    jobs = list_jobs(config)
    assert len(jobs) == 6
    assert jobs[:3] == [Job("cvnet", 0), Job("vgg19", 0), Job("cvnet", 1)]
    everything = list_jobs(dataclasses.replace(config, backbones=(), seeds=()))
    assert [job.backbone for job in everything] == ["cvnet", *BASELINES]


def test_recipes_by_the_name_of_each_model() -> None:
    assert recipe_flags("none", "cvnet") == []
    assert recipe_flags("notebook", "cvnet") == ["--recipe", "notebook-cvnet"]
    assert recipe_flags("notebook", "resnet18") == ["--recipe", "notebook-resnet152"]
    assert recipe_flags("default", "vgg19") == ["--recipe", "vgg19"]
    assert recipe_flags("default", "resnet18") == []
    assert recipe_flags("mine", "resnet18") == ["--recipe", "mine"]


def test_a_foreign_folder_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunError, match="does not hold a benchmark"):
        benchmark(BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",)))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_rest_survives_a_failure_and_other_settings_are_refused(
    drawn: Path, tmp_path: Path
) -> None:
    """Both trainings fail immediately, because CVNet does not accept faces of 32 pixels."""
    config = BenchmarkConfig(
        data=(drawn,),
        out=tmp_path / "b",
        backbones=("cvnet",),
        seeds=("0,1",),
        image_size=32,
        accelerator="cpu",
    )
    assert benchmark(config) == 1
    text = (tmp_path / "b" / "leaderboard.md").read_text()
    assert "cvnet, seed 0: train: cvnet takes faces of 48 to 224 px" in text
    assert "cvnet, seed 1: train: cvnet takes faces of 48 to 224 px" in text
    with pytest.raises(ConfigError, match=r"image_size \(was 32, now 48\)"):
        benchmark(dataclasses.replace(config, image_size=48))


METRICS = {"expression": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}}


def finish(drawn: Path, out: Path, *jobs: Job) -> None:
    """Write the files of finished jobs into the benchmark's folder, so that nothing is run."""
    (out / "costs").mkdir(parents=True)
    dataset = DatasetInfo.read(drawn).content_hash
    (out / module.SETTINGS).write_text(f"dataset: [{dataset}]\nset: []\n")
    for job in jobs:
        run = job.run(out)
        run.evaluation("test").mkdir(parents=True)
        (run.evaluation("test") / "metrics.json").write_text(json.dumps(METRICS))
        run.config.write_text(f"backbone: {job.backbone}\nseed: {job.seed}\n")
        (out / "costs" / f"{job.backbone}.json").write_text("{}")


def test_the_leaderboard_includes_scores_of_earlier_calls(drawn: Path, tmp_path: Path) -> None:
    finish(drawn, tmp_path, Job("cvnet", 0), Job("cvnet", 1), Job("resnet18.a1_in1k", 0))
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",), seeds=("1",))
    assert benchmark(config) == 0
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| cvnet | 0.500 ± 0.000 |" in text
    assert r"| resnet18.a1_in1k | 0.500 \[0.400, 0.600\] |" in text
    assert "Not tried yet" not in text


def test_models_are_compared_over_seeds_and_faces(drawn: Path, tmp_path: Path) -> None:
    """A model that is right on 4 of 5 faces, one on 2 of 5, and one without predictions."""
    jobs = [Job(name, seed) for seed in (0, 1) for name in ("cvnet", "resnet18")]
    finish(drawn, tmp_path, *jobs, Job("vgg19", 0))
    rng = np.random.default_rng(0)
    y, blank = np.arange(400) % 8, np.full(400, np.nan)
    for job in jobs:
        right = rng.random(400) < (0.8 if job.backbone == "resnet18" else 0.4)
        table = predictions_table(
            [str(i) for i in range(400)],
            *(y, blank, blank, np.full((400, 8), np.nan), blank, blank),
            expression_pred=np.where(right, y, (y + 1) % 8),
        )
        folder = job.run(tmp_path).evaluation("test")
        write_predictions(table, folder / "predictions.parquet")
        scores = {"expression": {"accuracy": {"value": right.mean(), "low": None, "high": None}}}
        (folder / "metrics.json").write_text(json.dumps(scores))
    config = BenchmarkConfig(
        data=(drawn,), out=tmp_path, backbones=("cvnet,resnet18",), seeds=("0,1",)
    )
    assert benchmark(config) == 0
    text = (tmp_path / "leaderboard.md").read_text()
    assert "## Compared with resnet18" in text
    (row,) = [line for line in text.splitlines() if "(2 seeds, 400 faces)" in line]
    assert row.startswith("| cvnet")
    assert "−0." in row
    assert row.endswith("| lower accuracy, lower macro F1 |")
    assert "Compared with resnet18" in (tmp_path / "leaderboard.html").read_text()


def test_a_benchmark_older_than_a_setting_is_continued(drawn: Path, tmp_path: Path) -> None:
    finish(drawn, tmp_path, Job("cvnet", 0))
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",))
    assert benchmark(config) == 0
    file = tmp_path / module.SETTINGS
    settings = yaml.safe_load(file.read_text())
    assert settings.pop("flip") is False
    file.write_text(yaml.safe_dump(settings))
    assert benchmark(config) == 0
    with pytest.raises(ConfigError, match=r"flip \(was False, now True\)"):
        benchmark(dataclasses.replace(config, flip=True))


def test_two_benchmarks_never_run_in_one_folder(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 0.1)
    finish(drawn, tmp_path, Job("cvnet", 0))
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",))
    with (tmp_path.with_name(f".{tmp_path.name}.lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"another process .* is writing"):
            benchmark(config)
    assert benchmark(config) == 0


def test_the_error_of_a_child_process_is_reported(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    error = run_python(["-c", code], tmp_path / "log")
    assert "killed by SIGKILL, possibly out of memory" in error
    assert run_python(["-c", "1/0"], tmp_path / "log").startswith("ZeroDivisionError")
    assert run_python(["-c", ""], tmp_path / "log") == ""
