"""Knowledge distillation: the predictions of trained models as additional targets."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.augment import normalise
from affectnet.data.dataset import copied_to
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.losses import Output
from affectnet.models.model_config import TARGETS, Fractions
from affectnet.models.prior import log_ratios

LARGEST_RATIO: Final = 20.0
"""Of the logarithm of class fractions, by which a teacher is corrected."""


@dataclass(frozen=True)
class Distillation:
    """Teachers, and their weight in the loss.

    Each image goes to one teacher, and to the next one in the next epoch. At temperature 1 the
    gradient is linear in the teachers' probabilities, so its mean over the teachers is the gradient
    towards their mean: an ensemble teaches at the cost of one of its members.

    Args:
        teachers: trained models with the student's classes; any backbones and sizes.
        weight: weight of the teachers in the loss, 0 to 1; the labels have the rest.
        temperature: softens the probabilities of both sides, so that small ones have an effect.
        prior: class fractions that the student assumes by its own loss. Teachers that assume
            others, such as those of the training faces where the student's loss is
            logit-adjusted, are corrected to them; if it or theirs are unknown, they are not.
    """

    teachers: tuple[AffectModel, ...]
    weight: float = 0.5
    temperature: float = 2.0
    prior: Fractions | None = None

    @property
    def taught(self) -> tuple[str, ...]:
        """The targets that every teacher was trained on; it teaches no others."""
        return tuple(
            name for name in TARGETS if all(name in teacher.targets for teacher in self.teachers)
        )

    def check(self, student: AffectModel) -> None:
        """Raise `ConfigError` if a teacher has other classes, or the teachers teach nothing."""
        if not self.taught:
            raise ConfigError("no target was trained in all teachers, so they teach nothing")
        for teacher in self.teachers:
            if teacher.classes != student.classes:
                raise ConfigError(
                    f"the teacher has the classes {', '.join(teacher.classes)} and the model "
                    f"{', '.join(student.classes)}; choose a teacher with the same classes"
                )

    @torch.no_grad()
    def targets(
        self, images: Tensor, turn: int = 0, *, first: int = 0, of: int | None = None
    ) -> Output:
        """The teachers' predictions for the student's images, each for its part of the batch.

        Args:
            images: float (B, 3, S, S), 0 to 1.
            turn: moves every part to the next teacher.
            first: position of these images in the batch of all processes.
            of: number of images in that batch; only these if None.
        """
        count, whole = len(self.teachers), of or len(images)
        bounds = [min(max(whole * n // count - first, 0), len(images)) for n in range(count + 1)]
        parts = [
            self._predict(self.teachers[(number + turn) % count], images[start:end])
            for number, (start, end) in enumerate(pairwise(bounds))
            if start < end
        ]
        return AffectOutput(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def loss(self, output: Output, targets: Output) -> Tensor:
        """T^2 KL(teacher || student) of the softened probabilities, plus the squared differences of
        valence and of arousal, as far as they are taught; a mean over the batch.

        Hinton et al. 2015, arXiv:1503.02531.
        """
        log_p = (output.logits.float() / self.temperature).log_softmax(dim=1)
        log_q = (targets.logits.float() / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        losses = {
            "expression": self.temperature**2 * divergence,
            "valence": F.mse_loss(output.valence.float(), targets.valence.float()),
            "arousal": F.mse_loss(output.arousal.float(), targets.arousal.float()),
        }
        return torch.stack([losses[name] for name in self.taught]).sum()

    def _predict(self, teacher: AffectModel, images: Tensor) -> AffectOutput:
        prep = teacher.preprocessing
        side = (prep.size, prep.size)
        if images.shape[-2:] != side:
            smaller = images.shape[-1] > prep.size
            images = F.interpolate(images, side, mode="bilinear", antialias=smaller)
        output: AffectOutput = teacher(normalise(images, prep.mean, prep.std))
        if self.prior is None or teacher.prior is None:
            return output
        # A class that the student does not have at all would make the divergence infinite.
        ratios = log_ratios(teacher.prior, self.prior).clip(min=-LARGEST_RATIO)
        logits = output.logits
        (shift,) = copied_to(logits.device, torch.from_numpy(ratios).to(logits.dtype))
        return output._replace(logits=logits + shift)
