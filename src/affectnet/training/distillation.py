"""Knowledge distillation: a trained model's answers as further targets."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.augment import normalise
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel
from affectnet.models.losses import Output


@dataclass(frozen=True)
class Distillation:
    """A teacher, and how much it counts.

    Args:
        teacher: a trained model of the same classes; any backbone and size.
        weight: share of the teacher in the loss, 0 to 1; the labels have the rest.
        temperature: softens the probabilities of both, so that the small ones tell something.

    Raises:
        ConfigError: the teacher has other classes than the student.
    """

    teacher: AffectModel
    weight: float = 0.5
    temperature: float = 2.0

    def check(self, student: AffectModel) -> None:
        """Raise `ConfigError` where the two models tell other classes apart."""
        if self.teacher.classes != student.classes:
            raise ConfigError(
                f"the teacher tells {', '.join(self.teacher.classes)} apart and the model "
                f"{', '.join(student.classes)}; choose a teacher of the same classes"
            )

    @torch.no_grad()
    def answers(self, images: Tensor) -> Output:
        """What the teacher says to the student's pictures, float (B, 3, S, S), 0 to 1."""
        prep = self.teacher.preprocessing
        side = (prep.size, prep.size)
        if images.shape[-2:] != side:
            smaller = images.shape[-1] > prep.size
            images = F.interpolate(images, side, mode="bilinear", antialias=smaller)
        output: Output = self.teacher(normalise(images, prep.mean, prep.std))
        return output

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
