"""A classifier of face crops that PyTorch runs."""

import numpy as np
import torch
from numpy.typing import NDArray

from affectnet.data.augment import normalise, to_float
from affectnet.errors import ConfigError
from affectnet.inference.classifiers import ModelOutput, checked
from affectnet.models.affect_model import AffectModel


class TorchClassifier:
    """An `AffectModel` on a device, with its own preprocessing.

    Args:
        model: as `AffectModel.from_pretrained` loads it.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.

    Raises `ConfigError` where the device is `cuda` and there is none.
    """

    def __init__(self, model: AffectModel, device: str = "auto") -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device is {device!r}; it may be auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but PyTorch can use no GPU; use auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        prep = model.preprocessing
        self.classes = model.classes
        self.targets = model.targets
        self.size = prep.size
        self.margin = prep.margin
        self.alignment = prep.alignment
        self.interpolation = prep.interpolation
        self.face_size = prep.face_size

    def __call__(self, crops: NDArray[np.uint8]) -> ModelOutput:
        """Classify face crops, uint8 RGB (n, size, size, 3), in one pass; raises as `checked`."""
        prep = self.model.preprocessing
        with torch.inference_mode():
            images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).contiguous()
            output = self.model(normalise(to_float(images), prep.mean, prep.std, inplace=True))
            logits = output.logits.float() / (self.model.temperature or 1.0)
            found = ModelOutput(
                logits.softmax(dim=1).cpu().numpy(),
                output.valence.float().cpu().numpy(),
                output.arousal.float().cpu().numpy(),
            )
        return checked(found, len(crops), len(self.classes), self.targets)
