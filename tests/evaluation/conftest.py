"""Reference metrics from scikit-learn, scipy and krippendorff, and predictions to score."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

import krippendorff
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.exceptions import UndefinedMetricWarning

from affectnet.labels import EXPRESSIONS

Reference = Callable[..., dict[str, float]]


@dataclass(frozen=True)
class Faces:
    """Truth and predictions of n faces."""

    expression: np.ndarray
    probabilities: np.ndarray
    valence: np.ndarray
    arousal: np.ndarray
    valence_pred: np.ndarray
    arousal_pred: np.ndarray

    @property
    def preds(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    def truth(self) -> dict[str, np.ndarray]:
        return {
            "expression": self.expression,
            "valence": self.valence,
            "arousal": self.arousal,
        }

    def predictions(self) -> dict[str, np.ndarray]:
        return {
            "probabilities": self.probabilities,
            "valence_pred": self.valence_pred,
            "arousal_pred": self.arousal_pred,
        }


@pytest.fixture(scope="session")
def make_faces() -> Callable[..., Faces]:
    """Faces of AffectNet's kind: skewed or equal classes, an imperfect model, some exact zeros."""

    def make(n: int, seed: int = 0, skewed: bool = True, places: int | None = None) -> Faces:
        rng = np.random.default_rng(seed)
        shares = np.array([26, 47, 9, 5, 2, 1, 9, 1]) if skewed else np.ones(8)
        expression = rng.choice(8, n, p=shares / shares.sum())
        logits = rng.normal(size=(n, 8)) * 1.3
        logits[np.arange(n), expression] += 1.4
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        if places is not None:
            # Rounded as in a text file: ties between faces, sums a little off one.
            p = np.round(p, places)
            p /= p.sum(axis=1, keepdims=True)
        valence, arousal = rng.uniform(-1, 1, (2, n))
        valence[rng.random(n) < 0.02] = 0.0
        noisy = [np.clip(0.7 * x + rng.normal(size=n) * 0.3, -1, 1) for x in (valence, arousal)]
        return Faces(expression, p, valence, arousal, noisy[0], noisy[1])

    return make


@pytest.fixture(scope="session")
def reference_expression() -> Reference:
    """Every expression metric from the reference packages, NaN where it is undefined."""
    return _expression


@pytest.fixture(scope="session")
def reference_affect() -> Reference:
    """RMSE, MAE, CORR, SAGR and CCC from scikit-learn and scipy, or by their formulas."""
    return _affect


def _expression(
    y: np.ndarray,
    preds: np.ndarray,
    p: np.ndarray | None = None,
    classes: tuple[str, ...] = EXPRESSIONS,
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        found = _labels(y, preds, classes)
        if p is not None:
            found |= _probabilities(y, p, classes)
        weights = _equal(y)
        found |= {f"skew_normalised/{k}": v for k, v in _skewed(y, preds, weights).items()}
        if p is not None:
            aucs, aps = _areas(y, p, weights)
            found["skew_normalised/auc_roc_macro"] = _nanmean(aucs)
            found["skew_normalised/auc_pr_macro"] = _nanmean(aps)
    return found


def _labels(y: np.ndarray, preds: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    labels = list(range(len(classes)))
    one = len(set(y) | set(preds)) == 1
    each = {
        "precision": sk.precision_score,
        "recall": sk.recall_score,
        "f1": sk.f1_score,
    }
    f1s = sk.f1_score(y, preds, labels=labels, average=None, zero_division=np.nan)
    found = {
        "accuracy": sk.accuracy_score(y, preds),
        "balanced_accuracy": sk.balanced_accuracy_score(y, preds),
        "f1_macro": _nanmean(f1s),
        "f1_weighted": sk.f1_score(y, preds, average="weighted", zero_division=0),
        "cohen_kappa": np.nan if one else sk.cohen_kappa_score(y, preds),
        "krippendorff_alpha": np.nan if one else _alpha(y, preds),
    }
    for name, score in each.items():
        values = score(y, preds, labels=labels, average=None, zero_division=np.nan)
        found |= {f"per_class/{c}/{name}": values[i] for i, c in enumerate(classes)}
    return found


def _alpha(y: np.ndarray, preds: np.ndarray) -> float:
    return krippendorff.alpha(
        reliability_data=np.stack([y, preds]).astype(float), level_of_measurement="nominal"
    )


def _probabilities(y: np.ndarray, p: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    k = len(classes)
    aucs, aps = _areas(y, p, np.ones(len(y)))
    found = {f"per_class/{c}/auc_roc": aucs[i] for i, c in enumerate(classes)}
    found |= {f"per_class/{c}/auc_pr": aps[i] for i, c in enumerate(classes)}
    right = p.argmax(axis=1) == y
    # scikit-learn gives ties to the later class, we to the earlier one: turn the classes round.
    top2 = sk.top_k_accuracy_score(k - 1 - y, p[:, ::-1], k=2, labels=list(range(k)))
    return found | {
        "auc_roc_macro": _nanmean(aucs),
        "auc_pr_macro": _nanmean(aps),
        "top2_accuracy": top2,
        "log_loss": sk.log_loss(y, p, labels=list(range(k))),
        "ece": _ece(right, p.max(axis=1)),
    }


def _ece(right: np.ndarray, confidence: np.ndarray, bins: int = 15) -> float:
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    counts = np.histogram(-confidence, bins=-edges[::-1])[0][::-1]
    counts = counts[counts > 0]
    return float((counts / counts.sum()) @ np.abs(accuracy - mean_confidence))


def _areas(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> tuple[list[float], list[float]]:
    aucs, aps = [], []
    for c in range(p.shape[1]):
        hit = y == c
        aucs.append(
            sk.roc_auc_score(hit, p[:, c], sample_weight=weights)
            if 0 < hit.sum() < len(y)
            else np.nan
        )
        aps.append(
            sk.average_precision_score(hit, p[:, c], sample_weight=weights) if hit.any() else np.nan
        )
    return aucs, aps


def _equal(y: np.ndarray) -> np.ndarray:
    counts = np.bincount(y)
    return len(y) / ((counts > 0).sum() * counts[y])


def _skewed(y: np.ndarray, preds: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    one = len(set(y) | set(preds)) == 1
    f1s = sk.f1_score(y, preds, average=None, sample_weight=weights, zero_division=np.nan)
    return {
        "accuracy": sk.accuracy_score(y, preds, sample_weight=weights),
        "f1_macro": _nanmean(f1s),
        "cohen_kappa": np.nan if one else sk.cohen_kappa_score(y, preds, sample_weight=weights),
        "krippendorff_alpha": np.nan if one else _alpha_of_equal_classes(y, preds),
    }


def _alpha_of_equal_classes(y: np.ndarray, preds: np.ndarray) -> float:
    """Alpha of faces repeated until all classes are of one size, corrected for the repetition."""
    counts = np.bincount(y)
    size = lcm(*(int(count) for count in counts if count))
    if size > 2000:
        return np.inf
    times = size // counts[y]
    repeated = _alpha(np.repeat(y, times), np.repeat(preds, times))
    many, few = 2 * times.sum(), 2 * len(y)
    return 1 - (1 - repeated) * many / (many - 1) * (few - 1) / few


def _affect(x: np.ndarray, y: np.ndarray, zero_rule: str = "sign") -> dict[str, float]:
    varies = np.ptp(x) > 0 and np.ptp(y) > 0
    spread = np.var(x) + np.var(y) + (x.mean() - y.mean()) ** 2
    same = {
        "sign": lambda a, b: np.sign(a) == np.sign(b),
        "positive": lambda a, b: (a >= 0) == (b >= 0),
        "drop": lambda a, b: (np.sign(a) == np.sign(b))[a != 0],
    }[zero_rule](x, y)
    both_constant = np.ptp(x) == 0 and np.ptp(y) == 0 and x[0] == y[0]
    return {
        "rmse": sk.root_mean_squared_error(x, y),
        "mae": sk.mean_absolute_error(x, y),
        "corr": scipy.stats.pearsonr(x, y).statistic if varies else np.nan,
        "sagr": same.mean() if len(same) else np.nan,
        "ccc": np.nan
        if both_constant
        else 2 * np.cov(x, y, bias=True)[0, 1] / spread
        if varies
        else 0.0,
    }


def _nanmean(values: object) -> float:
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else np.nan
