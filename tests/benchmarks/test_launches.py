"""What a training asks of a GPU, counted on a device that exists in PyTorch only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "launches.py"
EXTENDED = "--backbone test_convnext --image-size 48 --no-pretrained --probe-epochs 0"
MIXED = f"{EXTENDED} --cutmix 1 --augment strong --task-weights learned --teacher cvnet"


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"PyTorch {torch.__version__} has no devices in Python",
)
@pytest.mark.parametrize(("recipe", "flags"), [("cvnet", ""), ("finetune", MIXED)])
def test_no_step_waits_for_the_device(recipe: str, flags: str) -> None:
    command = [sys.executable, str(SCRIPT), "--check", "--recipe", recipe, f"--flags={flags}"]
    # A process of its own, since a device cannot be removed.
    ended = subprocess.run(
        [*command, "--batch-size", "32", "--steps", "4"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "training, 2 steps" in ended.stdout
    assert "0.0 waits a step" in ended.stdout
