"""Losses for expression, valence and arousal; rows without a label are left out.

Pure functions of tensors. A row without a label adds neither loss nor gradient; a batch without
labels gives exactly zero, never NaN. No function waits for the GPU: masks are multiplied, not
indexed.
"""

from typing import Final, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

ExpressionLoss = Literal["cross_entropy", "logit_adjusted", "focal"]
AffectLoss = Literal["both", "ccc", "mse", "none"]

# Denominator of CCC below which predictions and targets count as the same constant.
NO_SPREAD: Final = 1e-8


class Output(Protocol):
    """What a model returns: logits (B, K); valence and arousal (B,) in [-1, 1]."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def valence(self) -> Tensor: ...
    @property
    def arousal(self) -> Tensor: ...


def ccc_loss(pred: Tensor, target: Tensor) -> Tensor:
    """One minus the concordance correlation coefficient of a batch.

    CCC = 2 cov(x, y) / (var x + var y + (mean x - mean y)^2) with population variances (Lin 1989,
    "A concordance correlation coefficient to evaluate reproducibility").

    Args:
        pred: predictions, shape (..., B).
        target: true values, shape (..., B); NaN where missing.

    Returns (...) values in [0, 2], in float32 or wider. One is zero, and so is its gradient, where
    CCC is undefined: with fewer than two labelled rows, and if all predictions and targets are the
    same number (0/0).

    The mean of CCC over batches is not the CCC of all rows, because each batch has its own means
    and variances; small batches (below about 32) underestimate it.
    """
    return _ccc_loss(*_known(pred, target))


def _ccc_loss(pred: Tensor, target: Tensor, known: Tensor) -> Tensor:
    number = known.sum(dim=-1)
    n = number.clamp(min=1)
    # Deviations from the mean first, squares after: no digits cancel.
    mean_p, mean_t = pred.sum(dim=-1) / n, target.sum(dim=-1) / n
    dev_p = torch.where(known, pred - mean_p[..., None], 0)
    dev_t = torch.where(known, target - mean_t[..., None], 0)
    covariance = (dev_p * dev_t).sum(dim=-1) / n
    spread = (dev_p.square() + dev_t.square()).sum(dim=-1) / n
    denominator = spread + (mean_p - mean_t).square()
    defined = (number > 1) & (denominator > NO_SPREAD)
    # The inner `where` avoids 0/0 in the backward pass, which would give NaN.
    ccc = 2 * covariance / torch.where(defined, denominator, 1)
    return torch.where(defined, 1 - ccc, 0)


def mse_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of predictions (..., B) over the rows whose target (..., B) is not NaN.

    Returns (...).
    """
    return _mse_loss(*_known(pred, target))


def _mse_loss(pred: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return (pred - target).square().sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


def expression_loss(
    logits: Tensor,
    expression: Tensor,
    soft: Tensor | None = None,
    *,
    kind: ExpressionLoss = "cross_entropy",
    weight: Tensor | None = None,
    class_counts: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 2.0,
    logit_tau: float = 1.0,
) -> Tensor:
    """Cross entropy over K expressions: weighted, logit-adjusted, focal, with soft labels.

    With targets q (one-hot, or the vote shares if given), class weights w and p = softmax(z), the
    loss of a row is

        sum_k t_k (1 - p_k)^gamma (-log p_k),    t = (1 - s) w q + s (sum_j w_j q_j) u,

    gamma being 0 except for `focal` (Lin et al. 2017, "Focal loss for dense object detection",
    eq. 4); for `logit_adjusted`, z = logits + tau log(class prior), so that the plain logits fit
    classes that are equally frequent (Menon et al. 2021, "Long-tail learning via logit
    adjustment", eq. 10). The loss of the batch is the sum over rows, divided by the sum of
    sum_k w_k q_k. Without weights, or without smoothing, it equals PyTorch's `cross_entropy`.

    The smoothing s goes to u = softmax(tau log(class prior)), which is uniform except for
    `logit_adjusted`: it is spread evenly over the classes after the correction of their
    frequencies. Spread before it, as in PyTorch's weighted loss, a rare class would get the
    smoothing times its weight, or divided by its prior, from every face.

    Args:
        logits: shape (B, K).
        expression: class indices, shape (B,), negative where missing.
        soft: vote shares that sum to one, shape (B, K); a row with NaN uses its class index.
        kind: `cross_entropy`, `logit_adjusted` (needs `class_counts`) or `focal`.
        weight: weight of each class, shape (K,).
        class_counts: faces of each class in the training data, shape (K,); 0 counts as 1.
        label_smoothing: fraction s of the target spread over the classes, [0, 1).
        focal_gamma: gamma of `focal`.
        logit_tau: tau of `logit_adjusted`.

    Returns a scalar, at least 0, in float32 or wider; zero with zero gradient for a batch without
    labels. Raises `ValueError` if `logit_adjusted` has no `class_counts`.
    """
    logits = _wide(logits)
    classes = logits.shape[1]
    labelled = expression >= 0
    target = F.one_hot(expression.clamp(min=0).long(), classes).to(logits.dtype)
    if soft is not None:
        voted = soft.isfinite().all(dim=1)
        target = torch.where(voted[:, None], soft.to(logits.dtype), target)
        labelled = labelled | voted
    if weight is not None:
        target = target * weight.to(logits)
    row_weights = torch.where(labelled, target.sum(dim=1), 0)

    # Rows without a label may contain NaN: they are removed before the softmax.
    scores = torch.where(labelled[:, None], logits, 0)
    adjustment = torch.zeros_like(logits[0])
    if kind == "logit_adjusted":
        if class_counts is None:
            raise ValueError("kind='logit_adjusted' needs class_counts")
        counts = class_counts.to(logits).clamp(min=1)
        adjustment = logit_tau * (counts / counts.sum()).log()
    log_p = (scores + adjustment).log_softmax(dim=1)
    losses = -log_p
    if kind == "focal" and focal_gamma > 0:
        # expm1 is exact where p is near one; the floor keeps the slope of the power finite at 0.
        losses = losses * (-torch.expm1(log_p)).clamp(min=1e-12) ** focal_gamma
    if label_smoothing:
        spread = row_weights[:, None] * adjustment.softmax(dim=0)
        target = (1 - label_smoothing) * target + label_smoothing * spread
    rows = torch.where(labelled, (target * losses).sum(dim=1), 0)
    total = row_weights.sum()
    return torch.where(total > 0, rows.sum() / torch.where(total > 0, total, 1), 0)


def shares_among(soft: Tensor, classes: int) -> Tensor:
    """Vote shares (B, 8) rescaled to the first `classes` expressions, (B, K), summing to one.

    For tensors what `affectnet.seven.seven_votes` is for arrays, but without a column of contempt.
    NaN if these expressions got no votes or the shares are missing.
    """
    shares = soft[:, :classes]
    return shares if classes == soft.shape[1] else shares / shares.sum(dim=1, keepdim=True)


def affect_loss(
    output: Output,
    batch: dict[str, Tensor],
    *,
    kind: ExpressionLoss = "cross_entropy",
    class_weights: Tensor | None = None,
    class_counts: Tensor | None = None,
    label_smoothing: float = 0.0,
    logit_tau: float = 1.0,
    soft: bool = False,
    va_loss: AffectLoss = "both",
    va_weight: float = 1.0,
    log_variances: Tensor | None = None,
) -> dict[str, Tensor]:
    """Sum the losses of the three tasks; a task without labels in the batch adds nothing.

    Args:
        output: of an `AffectModel`.
        batch: `expression` (B,) int, -1 where missing; `valence`, `arousal` (B,) and `soft` (B, 8),
            NaN where missing. For a model of the first K classes the shares are rescaled.
        kind, class_weights, class_counts, label_smoothing, logit_tau: as in `expression_loss`.
        soft: train on the vote shares where present.
        va_loss: `both` (1 - CCC plus mean squared error), `ccc`, `mse` or `none`.
        va_weight: fixed weight of the valence loss and of the arousal loss.
        log_variances: learned task weights instead: s = log sigma^2 of expression, valence and
            arousal, shape (3,), a parameter that starts at zero. The total becomes
            sum_t c_t exp(-s_t) L_t + s_t / 2 over the tasks with labels in the batch, with c = 1
            for classification and 1/2 for regression (Kendall et al. 2018, "Multi-task
            learning using uncertainty to weigh losses", eq. 7 to 10), times the fixed weights.

    Returns `loss`, the total to minimise, and the single losses before weighting: `expression`,
    `valence`, `arousal`. All are scalars.
    """
    votes = shares_among(batch["soft"], output.logits.shape[1]) if soft else None
    regression = _regression_loss(
        torch.stack([output.valence, output.arousal]),
        torch.stack([batch["valence"], batch["arousal"]]),
        va_loss,
    )
    losses = {
        "expression": expression_loss(
            output.logits,
            batch["expression"],
            votes,
            kind=kind,
            weight=class_weights,
            class_counts=class_counts,
            label_smoothing=label_smoothing,
            logit_tau=logit_tau,
        ),
        "valence": regression[0],
        "arousal": regression[1],
    }
    weighted = losses
    if log_variances is not None:
        rows = batch["expression"] >= 0
        if votes is not None:
            rows = rows | votes.isfinite().all(dim=1)
        regresses = va_loss != "none"
        labelled = {
            "expression": rows.any(),
            "valence": batch["valence"].isfinite().any() & regresses,
            "arousal": batch["arousal"].isfinite().any() & regresses,
        }
        # Without labels, s / 2 alone would change the weight without bound.
        weighted = {
            task: torch.where(labelled[task], scale * torch.exp(-s) * losses[task] + s / 2, 0)
            for task, scale, s in zip(losses, (1.0, 0.5, 0.5), log_variances, strict=True)
        }
    va = va_weight * weighted["valence"] + va_weight * weighted["arousal"]
    return {"loss": weighted["expression"] + va, **losses}


def _regression_loss(pred: Tensor, target: Tensor, kind: AffectLoss) -> Tensor:
    if kind == "none":
        # Zero, but part of the graph: processes that share gradients wait for every parameter.
        return torch.where(torch.zeros_like(pred, dtype=torch.bool), _wide(pred), 0).sum(dim=-1)
    given = _known(pred, target)
    if kind == "both":
        return _ccc_loss(*given) + _mse_loss(*given)
    return _ccc_loss(*given) if kind == "ccc" else _mse_loss(*given)


def _known(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions and targets, zero where the target is missing, and the mask of known targets."""
    known = target.isfinite()
    pred = torch.where(known, _wide(pred), 0)
    return pred, torch.where(known, target.to(pred), 0), known


def _wide(values: Tensor) -> Tensor:
    """Convert to float32 or wider: half precision is too coarse for variances and logarithms."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
