"""Knowledge distillation: the answers of trained models as further targets."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.augment import normalise
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel, AffectOutput
from affectnet.models.losses import Output


@dataclass(frozen=True)
class Distillation:
    """Teachers, and how much they count.

    Each picture is shown to one teacher, to another one in the next epoch. At temperature 1 the
    gradient is linear in the teachers' probabilities, so its mean over the teachers is the gradient
    towards the mean of all of them: an ensemble teaches for the price of one of its members.

    Args:
        teachers: trained models of the student's classes; any backbones and sizes.
        weight: share of the teachers in the loss, 0 to 1; the labels have the rest.
        temperature: softens the probabilities of both sides, so that the small ones tell something.

    Raises:
        ConfigError: a teacher has other classes than the student.
    """

    teachers: tuple[AffectModel, ...]
    weight: float = 0.5
    temperature: float = 2.0

    def check(self, student: AffectModel) -> None:
        """Raise `ConfigError` where a teacher tells other classes apart than the student."""
        for teacher in self.teachers:
            if teacher.classes != student.classes:
                raise ConfigError(
                    f"the teacher tells {', '.join(teacher.classes)} apart and the model "
                    f"{', '.join(student.classes)}; choose a teacher of the same classes"
                )

    @torch.no_grad()
    def answers(
        self, images: Tensor, turn: int = 0, *, first: int = 0, of: int | None = None
    ) -> Output:
        """What the teachers say to the student's pictures, each to its share of the batch.

        Args:
            images: float (B, 3, S, S), 0 to 1.
            turn: moves every share on to the next teacher.
            first: place of these pictures in the batch of all processes.
            of: pictures in that batch; these alone where None.
        """
        count, whole = len(self.teachers), of or len(images)
        bounds = [min(max(whole * n // count - first, 0), len(images)) for n in range(count + 1)]
        parts = [
            _answer(self.teachers[(number + turn) % count], images[start:end])
            for number, (start, end) in enumerate(pairwise(bounds))
            if start < end
        ]
        return AffectOutput(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def loss(self, output: Output, answers: Output) -> Tensor:
        """T^2 KL(teacher || student) of the softened probabilities, plus the squared differences of
        valence and of arousal; a mean over the batch (Hinton et al. 2015, arXiv:1503.02531)."""
        log_p = (output.logits.float() / self.temperature).log_softmax(dim=1)
        log_q = (answers.logits.float() / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        return (
            self.temperature**2 * divergence
            + F.mse_loss(output.valence.float(), answers.valence.float())
            + F.mse_loss(output.arousal.float(), answers.arousal.float())
        )


def _answer(teacher: AffectModel, images: Tensor) -> AffectOutput:
    prep = teacher.preprocessing
    side = (prep.size, prep.size)
    if images.shape[-2:] != side:
        smaller = images.shape[-1] > prep.size
        images = F.interpolate(images, side, mode="bilinear", antialias=smaller)
    output: AffectOutput = teacher(normalise(images, prep.mean, prep.std))
    return output
