"""A classifier of face crops that PyTorch runs."""

import os
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from affectnet.data.augment import normalise, to_float
from affectnet.errors import ConfigError
from affectnet.inference.classifiers import Described, ModelOutput, checked
from affectnet.models.affect_model import AffectModel
from affectnet.threads import refuse_fork


def _why_no_cuda() -> str:
    """Return PyTorch's own reason: it was built without CUDA, or a driver is missing or old."""
    try:
        torch.empty(0, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()).rstrip(".")
    return "no GPU is found"


class TorchClassifier(Described):
    """An `AffectModel` on a device, with its own preprocessing.

    Args:
        model: as `AffectModel.from_pretrained` loads it.
        device: `cpu`, `cuda`, `mps` (the GPU of an Apple computer), or `auto`: `cuda` where there
            is one, `cpu` elsewhere.
        embedding: also return the backbone's features.

    Raises `ConfigError` where PyTorch cannot use the device, and in a process that was forked after
    another classifier was made, because PyTorch hangs there.
    """

    _process: ClassVar[int] = 0

    def __init__(self, model: AffectModel, device: str = "auto", embedding: bool = False) -> None:
        TorchClassifier._process = TorchClassifier._process or os.getpid()
        refuse_fork(TorchClassifier._process)
        usable = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        if device == "auto":
            device = "cuda" if usable["cuda"] else "cpu"
        if not usable.get(device):
            able = ", ".join(name for name in usable if usable[name])
            why = f" ({_why_no_cuda()})" if device == "cuda" else ""
            raise ConfigError(
                f"PyTorch cannot use the device {device} here{why}; it can use {able}"
            )
        if device == "cuda":  # TF32 would change the numbers in the third digit
            torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(device)
        self.runtime = f"PyTorch on {device}"
        self.embedding = embedding
        self.model = model.to(self.device).eval()
        super().__init__(model)

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3), in one pass; raises as `checked`."""
        prep = self.model.preprocessing
        with torch.inference_mode():
            images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).contiguous()
            images = normalise(to_float(images), prep.mean, prep.std, inplace=True)
            features = self.model.features(images)
            output = self.model.heads(features)
            logits = output.logits.float() / (self.model.temperature or 1.0)
            found = ModelOutput(
                logits.softmax(dim=1).cpu().numpy(),
                output.valence.float().cpu().numpy(),
                output.arousal.float().cpu().numpy(),
                features.float().cpu().numpy() if self.embedding else None,
            )
        return checked(found, len(crops), len(self.classes), self.targets)
