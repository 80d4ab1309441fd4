"""No memory, a NaN loss, a full disk: one-line errors, and no checkpoint is lost."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from affectnet.errors import RunError
from affectnet.run import RunFolder
from affectnet.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from affectnet.training.trainer import explain_memory_errors

TRAIN = [
    *("--backbone", "test_convnext", "--image-size", "32", "--no-pretrained"),
    *("--batch-size", "32", "--workers", "0", "--accelerator", "cpu", "--precision", "32"),
]


def train(
    data: Path, runs: Path, *flags: str, before: str = "pass"
) -> "subprocess.CompletedProcess":
    code = f"import sys, resource; {before}; from affectnet.cli import main; sys.exit(main())"
    return subprocess.run(
        [
            *(sys.executable, "-c", code, "train", "--data", str(data), "--runs", str(runs)),
            *("--name", "r", *TRAIN, *flags),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_error_for_a_failed_allocation_says_what_to_try() -> None:
    with (
        pytest.raises(RunError, match=r"--batch-size 512.*--batch-size 256.*bf16.*--image-size"),
        explain_memory_errors(512, 224, frozen=False),
    ):
        torch.empty(2**58, dtype=torch.uint8)  # more than any machine has
    with (
        pytest.raises(RunError, match=r"the GPU with --batch-size 8; try --batch-size 4"),
        explain_memory_errors(8, 224, frozen=True),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_memory_errors(8, 224, frozen=True):
        raise RuntimeError("shapes do not match")


def test_training_out_of_memory_is_one_line(drawn: Path, tmp_path: Path) -> None:
    """A limit on the address space just above the current size causes a real failure."""
    limit = (
        "import torch, lightning, timm, psutil; from affectnet.commands import train;"
        # The picture of the first batch is drawn before; its libraries cannot report a failure.
        "import io, numpy; from affectnet import figures; face = numpy.zeros((8, 8, 3), 'uint8');"
        "figures.training_batch([face], ['']).savefig(io.BytesIO(), format='jpg');"
        "n = psutil.Process().memory_info().vms + 600 * 2**20;"
        "resource.setrlimit(resource.RLIMIT_AS, (n, n))"
    )
    flags = ("--backbone", "resnet10t", "--image-size", "224", "--cache", "none")
    done = train(drawn, tmp_path, *flags, "--batch-size", "152", before=limit)
    assert done.returncode == 2, done.stderr
    assert "out of memory on this machine with --batch-size 152" in done.stderr
    assert "--batch-size 76" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_nan_loss_names_the_faces(drawn: Path, tmp_path: Path) -> None:
    flags = ("--lr", "1e30", "--clip-norm", "None", "--warmup-epochs", "0", "--epochs", "1")
    done = train(drawn, tmp_path, *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "the loss became" in done.stderr
    named = done.stderr.partition("that batch: ")[2].partition(". The checkpoints")[0].split(", ")
    assert len(named) == 32
    from affectnet.data.store import open_split

    assert set(named) <= set(open_split(drawn, "train").ids)
    assert not (tmp_path / "r" / "checkpoints" / "last.ckpt").exists()


def test_a_full_disk_destroys_no_checkpoint(tmp_path: Path) -> None:
    """A limit on the file size replaces the full disk: writing fails half-way."""
    code = f"""
import resource, sys
from pathlib import Path
import torch
from affectnet.errors import RunError
from affectnet.training.checkpoints import AtomicCheckpointIO
path = Path({str(tmp_path)!r}) / "last.ckpt"
AtomicCheckpointIO().save_checkpoint({{"epoch": 1, "state": torch.zeros(1000)}}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    AtomicCheckpointIO().save_checkpoint({{"epoch": 2, "state": torch.zeros(10**6)}}, path)
except RunError as error:
    sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "could not be written" in done.stderr
    assert "the previous one is intact" in done.stderr
    assert "--resume" in done.stderr
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_error_for_an_unwritable_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 0}, tmp_path / "file" / "last.ckpt")


def test_the_peak_of_memory_is_written(drawn: Path, tmp_path: Path) -> None:
    import json

    assert train(drawn, tmp_path, "--epochs", "1").returncode == 0
    run = RunFolder(tmp_path / "r")
    known = json.loads((run.path / "cost.json").read_text())
    assert known["of"] == "process"
    assert 2e8 < known["peak_memory"] < 1e11
    with run.metrics.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
