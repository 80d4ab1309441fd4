"""Parts of CVNet's training step: this package compared with the libraries' own implementations.

The parts are `photos` with rows written in any order, compared with sorted rows (as deterministic
algorithms, which training uses, would write them); Muon with all matrices of the same shape
together, compared with one after the other; and the moving average next to the model in one call,
compared with one call per weight on the CPU, where Lightning keeps it. The differences matter on a
CUDA GPU, which waits for small operations. The forward and backward pass is printed for comparison.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from timm.optim import muon as timm_muon
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from training import timed

from affectnet.data import augment as augmenting
from affectnet.data.augmentation import AUGMENTATIONS
from affectnet.models.affect_model import AffectModel
from affectnet.training.checkpoints import Average
from affectnet.training.optimisation import Muon

DECAY = 0.998


def main() -> int:
    """Time both implementations of each part in turns; print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=128, help="faces (default 128)")
    parser.add_argument("--image-size", type=int, default=48, help="pixels (default 48)")
    parser.add_argument("--turns", type=int, default=20, help="timed turns (default 20)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    model = AffectModel("cvnet", image_size=options.image_size)
    model = model.to(device, memory_format=torch.channels_last)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    faces = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    passes = forward_backward(model, faces)
    passes()
    table = Table("part", "library, ms", "this package, ms", "ratio")
    for name, plain, own in (
        ("photos", sorted_rows(faces), lambda: varied(faces)),
        ("Muon", stepping(timm_muon.Muon, model), stepping(Muon, model)),
        ("moving average", averaging_on_cpu(model), averaging(model)),
    ):
        times = [
            [timed(work, 1, device) for work in (plain, own)] for _ in range(options.turns + 3)
        ]
        by_library, as_it_is = (
            1000 * statistics.median(side) for side in zip(*times[3:], strict=True)
        )
        ratio = by_library / as_it_is
        table.add_row(name, f"{by_library:.1f}", f"{as_it_is:.1f}", f"{ratio:.1f}")
    whole = [timed(passes, 1, device) for _ in range(options.turns + 3)][3:]
    table.add_row("forward, backward", "", f"{1000 * statistics.median(whole):.1f}", "")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    Console().print(f"{options.batch_size} faces of {options.image_size} px; {where}")
    Console().print(table)
    return 0


def forward_backward(model: AffectModel, faces: Tensor) -> Callable[[], None]:
    """Return a forward and backward pass in bf16, which leaves gradients."""

    def run() -> None:
        model.zero_grad()
        with torch.autocast(faces.device.type, torch.bfloat16):
            out = model(augmenting.normalise(augmenting.to_float(faces), (0.5,) * 3, (0.25,) * 3))
        sum(
            part.float().square().mean() for part in (out.logits, out.valence, out.arousal)
        ).backward()

    return run


def varied(faces: Tensor) -> Tensor:
    """Augment the faces with `photos`, with the same random numbers in each call."""
    generator = augmenting.step_generator(0, 0, 0)
    return augmenting.augment(faces, AUGMENTATIONS["photos"], generator)


def sorted_rows(faces: Tensor) -> Callable[[], None]:
    """Return the same with rows written in order, as deterministic algorithms do."""

    def run() -> None:
        # Private, because only this comparison needs augmentation without it.
        any_order, augmenting._any_order = augmenting._any_order, contextlib.nullcontext
        try:
            varied(faces)
        finally:
            augmenting._any_order = any_order

    return run


def stepping(kind: type[torch.optim.Optimizer], model: AffectModel) -> Callable[[], None]:
    """Return an optimiser step so small that the weights do not change."""
    optimizer = kind(model.parameters(), lr=1e-9, nesterov=True)  # type: ignore[call-arg]
    return lambda: optimizer.step()


def averaging_on_cpu(model: AffectModel) -> Callable[[], None]:
    """Return an update of the average as in Lightning by default, one call per weight."""

    def average(old: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
        weight = 1 - min(DECAY, (1 + int(steps)) / (10 + int(steps)))
        return torch.lerp(old, new, weight) if old.is_floating_point() else new

    averaged = AveragedModel(model, torch.device("cpu"), average, use_buffers=True)
    return lambda: averaged.update_parameters(model)


def averaging(model: AffectModel) -> Callable[[], None]:
    """Return an update of the average as in training."""
    averaged = Average(model, next(model.parameters()).device, DECAY)
    return lambda: averaged.update_parameters(model)


if __name__ == "__main__":
    raise SystemExit(main())
