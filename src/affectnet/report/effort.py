"""How many faces a model can be asked about in a given time, measured on the model itself."""

import time
from typing import Final

import torch

from affectnet.models.affect_model import AffectModel

STEPS: Final = (2000, 1200, 600, 300, 150, 96, 48, 24, 12, 6, 3, 1)
"""Numbers of faces to choose from: few, so that one machine chooses the same every time."""
SLOW: Final = 0.2
"""Seconds a face from which one face alone tells the speed."""


def seconds_per_face(model: AffectModel) -> float:
    """Time a forward pass on the device where the model is; the model is left as it was."""
    device = next(model.parameters()).device
    size = model.preprocessing.size
    training = model.training
    seconds = 0.0
    model.eval()
    try:
        with torch.inference_mode():
            for faces in (1, 1, 8):  # the first pass warms up
                batch = torch.zeros(faces, 3, size, size, device=device)
                started = time.perf_counter()
                float(model(batch).valence.sum())  # waits for a GPU
                passed, seconds = seconds, (time.perf_counter() - started) / faces
                if min(passed, seconds) > SLOW:
                    break
    finally:
        model.train(training)
    return seconds


def affordable(seconds_a_face: float, seconds: float, most: int) -> int:
    """The largest of `STEPS`, and at most `most`, that takes no longer than `seconds`; at least 1.

    Where `most` itself is affordable it is returned, though it be no step.
    """
    if most * seconds_a_face <= seconds:
        return most
    return next((n for n in STEPS if n <= most and n * seconds_a_face <= seconds), 1)
