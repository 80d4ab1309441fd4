"""`affectnet benchmark`: what it refuses, what it passes on, and that a failure ends nothing.

Being killed is held by `tests/test_kills.py`.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from affectnet.commands import benchmark as module
from affectnet.commands.benchmark import Job, benchmark, recipe_flags
from affectnet.config import BenchmarkConfig
from affectnet.errors import ConfigError, RunError
from affectnet.models.backbones import BASELINES
from affectnet.run import RunFolder


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    config = BenchmarkConfig(
        data=(), out=tmp_path / "b", backbones=("cvnett",), seeds=("0,x",), set=("lr",)
    )
    with pytest.raises(ConfigError) as caught:
        benchmark(config)
    for said in ("cvnett", "--seeds has x", "--data is required", "--set lr"):
        assert said in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_backbones_and_seeds_are_lists_with_commas(drawn: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet,vgg19",))
    config = dataclasses.replace(config, seeds=("0,1", "2"))
    jobs = module._jobs(config)
    assert len(jobs) == 6
    assert jobs[:3] == [Job("cvnet", 0), Job("vgg19", 0), Job("cvnet", 1)]
    everything = module._jobs(dataclasses.replace(config, backbones=(), seeds=()))
    assert [job.backbone for job in everything] == ["cvnet", *BASELINES]


def test_recipes_by_each_models_name() -> None:
    assert recipe_flags("none", "cvnet") == []
    assert recipe_flags("notebook", "cvnet") == ["--recipe", "notebook-cvnet"]
    assert recipe_flags("notebook", "resnet18") == ["--recipe", "notebook-resnet152"]
    assert recipe_flags("default", "vgg19") == ["--recipe", "vgg19"]
    assert recipe_flags("default", "resnet18") == []
    assert recipe_flags("mine", "resnet18") == ["--recipe", "mine"]


def test_a_foreign_folder_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunError, match="holds no benchmark"):
        benchmark(BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",)))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failure_ends_nothing_and_other_settings_are_refused(drawn: Path, tmp_path: Path) -> None:
    """Two trainings that fail at once: CVNet takes no faces of 32 pixels."""
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


def test_the_leaderboard_keeps_what_earlier_calls_scored(drawn: Path, tmp_path: Path) -> None:
    figures = {"expression": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    scored = [Job("cvnet", 0), Job("cvnet", 1), Job("resnet18.a1_in1k", 0)]
    for job in scored:
        run = RunFolder(tmp_path / "runs" / job.name)
        home = run.evaluation("test")
        home.mkdir(parents=True)
        (home / "metrics.json").write_text(json.dumps(figures))
        run.config.write_text(f"backbone: {job.backbone}\nseed: {job.seed}\n")
    config = BenchmarkConfig(data=(drawn,), out=tmp_path, backbones=("cvnet",), seeds=("1",))
    jobs = module._jobs(config)
    module._tell(config, jobs, {}, set(), {})
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| cvnet | 0.500 ± 0.000 |" in text
    assert r"| resnet18.a1_in1k | 0.500 \[0.400, 0.600\] |" in text
    assert "Not tried yet" not in text


def test_a_benchmark_older_than_a_setting_is_gone_on_with(drawn: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(data=(drawn,), out=tmp_path)
    module._begin(config)
    file = tmp_path / module.SETTINGS
    known = yaml.safe_load(file.read_text())
    assert known.pop("flip") is False
    file.write_text(yaml.safe_dump(known))
    module._begin(config)
    with pytest.raises(ConfigError, match=r"flip \(was False, now True\)"):
        module._begin(dataclasses.replace(config, flip=True))


def test_two_benchmarks_never_work_in_one_folder(tmp_path: Path) -> None:
    with (
        module._only_one(tmp_path / "b"),
        pytest.raises(RunError, match="another benchmark works"),
        module._only_one(tmp_path / "b", wait=0.1),
    ):
        pass


def test_a_killed_child_is_told(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert "killed by SIGKILL, perhaps for want of memory" in module._child(
        ["-c", code], tmp_path / "log"
    )
    assert module._child(["-c", "1/0"], tmp_path / "log").startswith("ZeroDivisionError")
    assert module._child(["-c", ""], tmp_path / "log") == ""
