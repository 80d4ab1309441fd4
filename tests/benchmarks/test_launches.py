"""What a training asks of a GPU, counted on a device that exists in PyTorch only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "launches.py"
EXTENDED = "--backbone test_convnext --image-size 48 --no-pretrained --probe-epochs 0"
PLAIN = f"{EXTENDED} --augment none"
MIXED = f"{EXTENDED} --cutmix 1 --augment strong --task-weights learned --teacher cvnet"


pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"PyTorch {torch.__version__} has no devices in Python",
)

COPIES = """
import launches, torch
launches.pretend()
from affectnet.data.dataset import copied_to
given = [torch.arange(5), torch.rand(3, 7).T, torch.rand(2, 3) > 0.5, torch.tensor(2.5),
         torch.randn(3, dtype=torch.complex64), torch.empty(0, 4), torch.rand(2, 2).bfloat16()]
for one, copy in zip(given, copied_to(torch.device("pretended"), *given), strict=True):
    assert copy.device.type == "pretended"
    assert torch.equal(copy.cpu(), one)
assert copied_to(torch.device("pretended")) == []
"""

LOSSES = """
import launches, torch
launches.pretend()
from types import SimpleNamespace
from affectnet.errors import RunError
from affectnet.training.trainer import FiniteLoss
for steps in (1, 7, 8, 9, 20):
    for wrong in range(steps + 1):  # the last turn has no NaN
        check = FiniteLoss()
        trainer = SimpleNamespace(num_training_batches=steps, current_epoch=0, datamodule=None)
        check.on_train_epoch_start(trainer, None)
        try:
            for step in range(steps):
                loss = torch.tensor(float("nan") if step == wrong else 1.0, device="pretended")
                rows = {"index": torch.tensor([step])}
                check.on_train_batch_end(trainer, None, {"loss": loss}, rows, step)
        except RunError as error:
            assert f"step {wrong + 1}; the faces of that batch: row {wrong}." in str(error), error
        else:
            assert wrong == steps and check.mean == 1, (steps, wrong, check.mean)
"""


@pytest.mark.parametrize("code", [COPIES, LOSSES], ids=["copies", "losses"])
def test_on_a_device_that_is_not_the_cpu(code: str) -> None:
    # A process of its own, since a device cannot be removed.
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("recipe", "flags"), [("cvnet", ""), ("finetune", MIXED), ("published-cage", PLAIN)]
)
def test_no_step_waits_for_the_device(recipe: str, flags: str) -> None:
    command = [sys.executable, str(SCRIPT), "--check", "--recipe", recipe, f"--flags={flags}"]
    ended = subprocess.run(
        [*command, "--batch-size", "16", "--steps", "12"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "training, 10 steps" in ended.stdout  # the losses of the first eight are copied
    assert "0.0 waits a step" in ended.stdout
