"""The AffectNet metrics as torchmetrics classes, for use in any training loop.

They keep sums, not faces, so memory does not grow with the data, and the sums of several processes
are added. `compute()` equals `affectnet.evaluation.evaluate` on all faces together.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from affectnet.evaluation import metrics as of_confusion
from affectnet.evaluation.metric_vectors import LABEL_METRICS
from affectnet.evaluation.metrics import AFFECT_METRICS, ZERO_RULES, ZeroRule
from affectnet.labels import N_EXPRESSIONS


class ExpressionMetrics(Metric):
    """Accuracy, balanced accuracy, macro and weighted F1, Cohen's kappa, Krippendorff's alpha.

    `update(preds, target)`: preds (B,) class indices, or (B, K) logits or probabilities; target
    (B,) class indices, -1 where missing. `compute()` returns a dict of float64 scalars, NaN where
    undefined, as in torchmetrics.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int = N_EXPRESSIONS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", default=empty, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        labels = preds.argmax(dim=1) if preds.ndim == 2 else preds
        known = target >= 0
        cells = target[known].long() * self.num_classes + labels[known].long()
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        self.confusion += counts.reshape(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all batches so far."""
        matrix = self.confusion.cpu().numpy().astype(np.float64)
        return {
            name: torch.tensor(float(getattr(of_confusion, name)(matrix)), dtype=torch.float64)
            for name in LABEL_METRICS
        }


class AffectMetrics(Metric):
    """RMSE, MAE, CORR, SAGR and CCC of one dimension, valence or arousal.

    `update(preds, target)`: (B,) real numbers, target NaN where missing. `compute()` returns a
    dict of float64 scalars, NaN where undefined.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, zero_rule: ZeroRule = "sign", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if zero_rule not in ZERO_RULES:
            raise ValueError(f"zero_rule must be one of {', '.join(ZERO_RULES)}, not {zero_rule!r}")
        self.zero_rule = zero_rule
        empty = torch.zeros(10, dtype=torch.float64)
        self.add_state("sums", default=empty, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sums."""
        known = ~torch.isnan(target)
        x, y = target[known].double(), preds[known].double()
        ones = torch.ones_like(x)
        if self.zero_rule == "positive":
            agrees, counts = (x >= 0) == (y >= 0), ones
        else:
            agrees, counts = torch.sign(x) == torch.sign(y), ones
            if self.zero_rule == "drop":
                agrees, counts = agrees & (x != 0), (x != 0).double()
        error = y - x
        rows = (ones, x, y, x * x, y * y, x * y, error * error, error.abs(), agrees, counts)
        self.sums += torch.stack([row.double().sum() for row in rows])

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all batches so far."""
        n, sx, sy, sxx, syy, sxy, squared, absolute, agreed, counted = self.sums
        var_x, var_y = sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
        # A constant leaves a rounding error here; valence and arousal are of the order of one.
        var_x, var_y = (torch.where(var < 1e-14, 0.0, var) for var in (var_x, var_y))
        covariance = sxy / n - sx * sy / n**2
        covariance = torch.where(var_x * var_y > 0, covariance, 0.0)
        spread = var_x + var_y + ((sx - sy) / n) ** 2
        metrics = (
            torch.sqrt(squared / n),
            absolute / n,
            covariance / torch.sqrt(var_x * var_y),
            agreed / counted,
            2 * covariance / spread,
        )
        return dict(zip(AFFECT_METRICS, metrics, strict=True))
