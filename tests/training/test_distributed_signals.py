"""SIGTERM and SIGUSR1: exit status, queued again by SLURM, resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from affectnet.run import RunFolder
from affectnet.training.distributed import requeue


def start(data: Path, runs: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "affectnet", "train", "--data", str(data), "--runs", str(runs)),
            *("--name", "r", "--backbone", "test_convnext", "--image-size", "32"),
            *("--no-pretrained", "--epochs", "2000", "--batch-size", "32", "--workers", "0"),
            *("--accelerator", "cpu", "--precision", "32", "--resume"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )


def fake_scontrol(folder: Path, status: int = 0) -> Path:
    """An `scontrol` that records its arguments."""
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\necho no such job >&2\nexit {status}'
    )
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_stops_with_a_message_to_resume(drawn: Path, tmp_path: Path, name: str) -> None:
    folder = fake_scontrol(tmp_path / "bin")
    slurm = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "affect",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_NODELIST": "localhost",
    }
    runs = tmp_path / "runs"
    process = start(drawn, runs, slurm)
    deadline = time.monotonic() + 120
    while not RunFolder(runs / "r").last.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name), stderr
    assert f"stopped by {name}" in stderr
    assert f"affectnet train --runs {runs} --name r --resume" in stderr
    assert "Traceback" not in stderr
    asked = folder / "asked"
    if name == "SIGUSR1":
        assert asked.read_text() == "requeue 4711\n"
        assert "SLURM queues job 4711 again" in stderr
    else:
        # `scancel` sends SIGTERM too; a cancelled job must not be queued again.
        assert not asked.exists()
    assert RunFolder(runs / "r").last.is_file()


def test_requeue_outside_slurm_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() == ""


def test_requeue_names_the_task_of_an_array_and_reports_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_scontrol(tmp_path / "bin", status=1)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert "refused to queue job 8_3 again: no such job" in requeue()
    assert (folder / "asked").read_text() == "requeue 8_3\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "could not be asked" in requeue()
