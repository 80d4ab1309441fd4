"""The cost of a model: parameters, multiply-adds, images per second, peak memory.

`python -m affectnet.training.cost MODEL OUT.json [cpu|gpu|auto]` writes the first three for a saved
model, in its own process.
"""

import contextlib
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder, write_beside

_LARGEST: Final = 64  # faces in a timed batch, at most
_SECONDS: Final = 0.5  # that a timed batch should take; a slow model gets smaller ones


@dataclass(frozen=True)
class Cost:
    """The cost of prediction with a model on one device."""

    parameters: int
    multiply_adds: int
    """Per face, forward; a multiplication and its addition count as one."""
    images_per_second: float
    """Prediction in 32 bits, on faces that are already on the device."""
    batch: int
    """Faces in a timed batch."""
    device: str
    image_size: int


def cost_of(model: AffectModel, device: torch.device, seconds: float = 2.0) -> Cost:
    """Count and time a model on `device` for about `seconds`; the model stays there."""
    size = model.preprocessing.size
    model.eval().to(device)
    single = torch.zeros(1, 3, size, size, device=device)
    # The counter does not know fused attention, only its plain form.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as n:
        model(single)
    _timed(model, single)
    batch = min(_LARGEST, max(1, int(_SECONDS / _timed(model, single))))
    faces = torch.zeros(batch, 3, size, size, device=device)
    _timed(model, faces)
    times = [_timed(model, faces)]
    while sum(times) < seconds:
        times.append(_timed(model, faces))
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=n.get_total_flops() // 2,
        images_per_second=batch / sorted(times)[len(times) // 2],
        batch=batch,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        image_size=size,
    )


@torch.inference_mode()
def _timed(model: AffectModel, faces: torch.Tensor) -> float:
    started = time.perf_counter()
    float(model(faces).valence.sum())  # waits for a GPU
    return time.perf_counter() - started


class PeakMemory(Callback):
    """Write `cost.json` into the run folder: the peak memory of training, including resumed parts.

    On a GPU the bytes that PyTorch allocated there; otherwise those of the whole process.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the peak."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the peak so far."""
        if not trainer.is_global_zero:
            return
        file = self.run.path / "cost.json"
        cuda = pl_module.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(pl_module.device) if cuda else _most_resident()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet
            peak = max(peak, json.loads(file.read_text())["peak_memory"])
        with write_beside(file) as new:
            new.write_text(json.dumps({"peak_memory": peak, "of": "gpu" if cuda else "process"}))


def _most_resident() -> int:
    """Peak memory of this process in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(argv: list[str]) -> None:
    """Measure the model `argv[0]` and write the result to `argv[1]`."""
    gpu = torch.cuda.is_available() and argv[2:] != ["cpu"]
    device = torch.device("cuda" if gpu else "cpu")
    cost = cost_of(AffectModel.from_pretrained(Path(argv[0])), device)
    with write_beside(Path(argv[1])) as new:
        new.write_text(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main(sys.argv[1:])
