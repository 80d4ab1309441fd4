"""`kill -9` at random times: the metrics equal those of an uninterrupted run."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from affectnet.run import RunFolder

COMMON = [
    *("--backbone", "test_convnext", "--image-size", "32", "--no-pretrained", "--epochs", "6"),
    *("--batch-size", "32", "--workers", "0", "--accelerator", "cpu", "--precision", "32"),
]


def run_with_kills(command: list[str], kills: int, longest: float, seed: int) -> list[float]:
    """Run an `affectnet` command, kill it up to `kills` times at random times, then let it finish.

    A command that ends before its kill is not counted. Returns the seconds after which it was
    killed.
    """
    draw = random.Random(seed)
    times: list[float] = []
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        delay = draw.uniform(0, longest)
        process = subprocess.Popen(
            [sys.executable, "-m", "affectnet", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
        )
        try:
            _, stderr = process.communicate(timeout=delay)
            assert process.returncode == 0, stderr.decode()
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            times.append(delay)
    done = subprocess.run(
        [sys.executable, "-m", "affectnet", *command],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return times


def uninterrupted(command: list[str]) -> float:
    started = time.monotonic()
    assert run_with_kills(command, 0, 0, 0) == []
    return time.monotonic() - started


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    states = torch.load(run.last, weights_only=True)
    return states["state_dict"]


def rows(run: RunFolder) -> list[dict[str, str]]:
    with run.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(a: RunFolder, b: RunFolder) -> None:
    assert rows(a) == rows(b)
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def train_command(data: Path, runs: Path, *flags: str) -> list[str]:
    return ["train", "--data", str(data), "--runs", str(runs), "--name", "r", *COMMON, *flags]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_training_survives_twenty_kills(drawn: Path, tmp_path: Path) -> None:
    seconds = uninterrupted(train_command(drawn, tmp_path / "whole", "--resume"))
    whole = RunFolder(tmp_path / "whole" / "r")
    killed = 0
    for turn in range(100):
        runs = tmp_path / f"turn{turn}"
        command = train_command(drawn, runs, "--resume")
        killed += len(run_with_kills(command, min(4, 20 - killed), seconds, turn))
        assert_same_run(RunFolder(runs / "r"), whole)
        if killed >= 20:
            return
    pytest.fail(f"only {killed} kills were in time")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_feature_pass_survives_twenty_kills(drawn: Path, tmp_path: Path) -> None:
    frozen = ("--freeze", "backbone", "--views", "6", "--resume")
    seconds = uninterrupted(train_command(drawn, tmp_path / "whole", *frozen))
    whole = RunFolder(tmp_path / "whole" / "r")
    killed = 0
    for turn in range(100):
        runs = tmp_path / f"turn{turn}"
        command = train_command(drawn, runs, *frozen)
        killed += len(run_with_kills(command, min(4, 20 - killed), seconds, turn))
        assert_same_run(RunFolder(runs / "r"), whole)
        for file in (tmp_path / "whole" / ".features").rglob("*.f16"):
            other = runs / file.relative_to(tmp_path / "whole")
            np.testing.assert_array_equal(np.fromfile(file, "u2"), np.fromfile(other, "u2"))
        if killed >= 20:
            return
    pytest.fail(f"only {killed} kills were in time")


def benchmark_command(data: Path, out: Path, backbones: str, epochs: int) -> list[str]:
    return [
        *("benchmark", "--data", str(data), "--out", str(out), "--backbones", backbones),
        *("--epochs", str(epochs), "--image-size", "32", "--no-pretrained", "--batch-size", "32"),
        *("--workers", "0", "--accelerator", "cpu", "--precision", "32"),
    ]


def metrics(out: Path) -> dict[str, dict]:
    """The metrics of every run by its name."""
    found = {}
    for file in out.glob("runs/*/evaluation/test/metrics.json"):
        known = json.loads(file.read_text())
        found[file.parents[2].name] = {
            part: known[part] for part in ("expression", "valence", "arousal")
        }
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_benchmark_survives_twenty_kills(drawn: Path, tmp_path: Path) -> None:
    wanted = ("test_convnext,test_resnet", 2)
    seconds = uninterrupted(benchmark_command(drawn, tmp_path / "whole", *wanted))
    killed = 0
    for turn in range(100):
        out = tmp_path / f"turn{turn}"
        command = benchmark_command(drawn, out, *wanted)
        killed += len(run_with_kills(command, min(10, 20 - killed), seconds / 2, turn))
        assert metrics(out) == metrics(tmp_path / "whole")
        for run in (tmp_path / "whole" / "runs").iterdir():
            if run.name != ".features":
                assert_same_run(RunFolder(run), RunFolder(out / "runs" / run.name))
        if killed >= 20:
            return
    pytest.fail(f"only {killed} kills were in time")


def test_benchmark_survives_two_kills(drawn: Path, tmp_path: Path) -> None:
    from affectnet.commands.evaluate import evaluate
    from affectnet.commands.train import train
    from affectnet.config import EvaluateConfig, TrainConfig

    out = tmp_path / "benchmark"
    times = run_with_kills(benchmark_command(drawn, out, "test_convnext", 2), 2, 12.0, 3)
    assert len(times) == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = train(
        TrainConfig(
            data=(drawn,),
            backbone="test_convnext",
            epochs=2,
            image_size=32,
            pretrained=False,
            runs=tmp_path / "runs",
            batch_size=32,
            workers=0,
            accelerator="cpu",
            precision="32",
        )
    )
    evaluate(EvaluateConfig(runs=(whole.path,), data=drawn, figures=False, card=False))
    torch.set_num_threads(threads)
    assert_same_run(RunFolder(out / "runs" / "test_convnext-seed0"), whole)
    known = json.loads((whole.evaluation("test") / "metrics.json").read_text())
    found = metrics(out)["test_convnext-seed0"]
    assert found == {part: known[part] for part in found}
    assert "test_convnext" in (out / "leaderboard.csv").read_text()
