"""Mixup and CutMix of whole batches: pictures and targets of two faces in one."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.dataset import Batch


@dataclass(frozen=True)
class Mixing:
    """How faces are mixed. 0 turns a kind off; with both on, each face takes one by even chance."""

    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412)."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution (Yun et al. 2019, arXiv:1905.04899)."""
    share: float = 1.0
    """Share of the faces that are mixed at all."""

    def __bool__(self) -> bool:
        return self.share > 0 and max(self.mixup, self.cutmix) > 0


def mix(
    images: Tensor,
    batch: Batch,
    mixing: Mixing,
    rng: np.random.Generator,
    *,
    soft: bool = False,
    first: int = 0,
    of: int | None = None,
) -> tuple[Tensor, Batch]:
    """Mix each face with the one before it in the batch (the first with the last).

    Mixup blends the two pictures; CutMix pastes a rectangle of the other. Targets are blended by
    the same share: the expression's as vote shares, valence and arousal as numbers. A face keeps at
    least half of its own, so its own label stays the one by which accuracy is counted. Faces that
    do not carry the same labels (one has an expression and the other none, say) are not mixed with
    each other: a missing target would spoil the one that is there.

    Args:
        images: float (B, 3, S, S).
        batch: `expression` (B,), `valence`, `arousal` (B,), `soft` (B, 8).
        mixing: kinds and their strengths.
        rng: decides what is mixed, and how much; drawn for all `of` faces of the batch, so that the
            draws do not depend on the number of processes (the partners do: a process mixes its own
            part of the batch).
        soft: blend vote shares where there are any, instead of the majority's label.
        first: place of these faces in the batch of all processes.
        of: faces in that batch; these alone where None.

    Returns:
        The mixed images, and a copy of the batch with the blended `soft`, `valence` and `arousal`.
    """
    rows, side = len(images), images.shape[-1]
    own, boxes = _draws(mixing, rng, of or rows, side)
    share = torch.from_numpy(own[first : first + rows]).to(images)
    box = torch.from_numpy(boxes[first : first + rows]).to(images.device)

    place = torch.arange(side, device=images.device)
    down = (place >= box[:, 0:1]) & (place < box[:, 1:2])
    right = (place >= box[:, 2:3]) & (place < box[:, 3:4])
    inside = down[:, None, :, None] & right[:, None, None, :]
    cut = (box[:, 1] > box[:, 0])[:, None, None, None]
    weight = torch.where(cut, (~inside).to(images), share[:, None, None, None])

    targets = _shares(batch, soft)
    values = {"soft": targets, "valence": batch["valence"], "arousal": batch["arousal"]}
    alike = torch.ones(rows, dtype=torch.bool, device=images.device)
    for value in values.values():
        known = value.reshape(rows, -1).isfinite().all(dim=1)
        alike &= known == known.roll(1)
    weight = torch.where(alike[:, None, None, None], weight, 1)
    mixed = images * weight + images.roll(1, 0) * (1 - weight)
    kept = weight.expand(rows, 1, side, side).mean((1, 2, 3))
    blended = {}
    for name, value in values.items():
        part = kept.to(value)[:, None] if value.ndim == 2 else kept.to(value)
        # Times zero a missing partner would still be NaN.
        other = torch.where(part < 1, value.roll(1, 0), value)
        blended[name] = value * part + other * (1 - part)
    return mixed, {**batch, **blended}


def _draws(
    mixing: Mixing, rng: np.random.Generator, rows: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Own share of each face (rows,), and the box pasted over it (rows, 4): top, bottom, left,
    right; empty where nothing is pasted."""
    chosen = rng.random(rows) < mixing.share
    cuts = rng.random(rows) < (0.5 if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0))
    alphas = np.where(cuts, mixing.cutmix or 1.0, mixing.mixup or 1.0)
    own = rng.beta(alphas, alphas)
    own = np.where(chosen, np.maximum(own, 1 - own), 1.0)
    half = np.sqrt(1 - own) * side / 2
    centre = rng.random((2, rows)) * side
    low = np.clip(np.rint(centre - half), 0, side)
    high = np.clip(np.rint(centre + half), 0, side)
    boxes = np.stack([low[0], high[0], low[1], high[1]], axis=1)
    empty = ~cuts | ~chosen | (boxes[:, 1] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 2])
    boxes[empty] = 0
    # A box that vanished in rounding pastes nothing.
    own = np.where(cuts, 1.0, own)
    return own.astype(np.float32), boxes.astype(np.int64)


def _shares(batch: Batch, soft: bool) -> Tensor:
    """Target shares (B, 8): votes where wanted and there, else the label's; NaN where neither."""
    expression, votes = batch["expression"], batch["soft"]
    hard = F.one_hot(expression.clamp(min=0).long(), votes.shape[1]).to(votes)
    hard = torch.where((expression >= 0)[:, None], hard, torch.nan)
    if not soft:
        return hard
    return torch.where(votes.isfinite().all(dim=1)[:, None], votes, hard)
