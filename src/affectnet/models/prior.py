"""Class fractions that the probabilities of a model assume, and their correction for other ones.

By Bayes' rule, p(class | face) is proportional to p(face | class) times the fraction of the class.
A model trained on one set of fractions is therefore wrong where the classes have others, and
right again after p * target / prior, renormalised (Saerens et al. 2002, "Adjusting the outputs of a
classifier to new a priori probabilities", eq. 4; with the power tau: Menon et al. 2021, "Long-tail
learning via logit adjustment", eq. 9). No torch here.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from affectnet.errors import ConfigError
from affectnet.models.model_config import Fractions

Floats = NDArray[np.float64]


class HasFractions(Protocol):
    """A model that states its classes, and the class fractions of its training."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def class_fractions(self) -> Fractions | None: ...
    @property
    def prior(self) -> Fractions | None: ...


def effective_prior(
    drawn: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    counts: npt.ArrayLike | None = None,
    tau: float = 0.0,
) -> Fractions:
    """The class fractions that a trained model's probabilities assume, (K,).

    They are proportional to drawn * weights / counts^tau. With plain cross entropy that is the
    fractions of the training faces; with balanced class weights, a balanced sampler or logit
    adjustment of strength 1 all classes are equal.

    Args:
        drawn: fraction of each class among the faces as the sampler draws them, (K,).
        weights: weight of each class in the loss, (K,).
        counts: faces of each class that the logit adjustment uses, (K,); 0 counts as 1.
        tau: strength of the logit adjustment.
    """
    found = np.asarray(drawn, np.float64)
    if weights is not None:
        found = found * np.asarray(weights, np.float64)
    if counts is not None:
        found = found / np.maximum(np.asarray(counts, np.float64), 1) ** tau
    return _scaled(found)


def target_prior(
    prior: str, classes: Sequence[str], class_fractions: Fractions | None
) -> Fractions:
    """The class fractions that `--prior` names, in the order of `classes`, (K,).

    Args:
        prior: `train`, `uniform`, or a file: JSON (an object from class to fraction, or a list in
            the order of `classes`) or CSV (rows of class and fraction). Counts are fine too. Other
            classes, such as contempt for a model without it, are left out.
        classes: of the model.
        class_fractions: of the model's training faces; None if unknown.

    Raises `ConfigError` if the file cannot be used, or if the fractions are unknown.
    """
    if prior == "uniform":
        return (1 / len(classes),) * len(classes)
    if prior == "train":
        if class_fractions is None:
            raise unknown("class_fractions")
        return class_fractions
    path = Path(prior)
    wanted = "give JSON or CSV with a fraction for each of " + ", ".join(classes)
    try:
        text = path.read_text(encoding="utf-8-sig")
        fractions = _json(text, classes) if path.suffix.lower() == ".json" else _csv(text)
        found = np.array([float(fractions[name]) for name in classes])
    except KeyError as error:
        raise ConfigError(f"--prior {path}: {error} is missing; {wanted}") from error
    except OSError as error:
        raise ConfigError(
            f"--prior is {prior}; allowed are train, uniform or a file, and this file cannot be "
            f"read: {error.strerror or error}"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--prior {path} cannot be read ({error}); {wanted}") from error
    if not np.isfinite(found).all() or (found < 0).any() or found.sum() <= 0:
        values = ", ".join(f"{value:g}" for value in found)
        raise ConfigError(
            f"--prior {path} has the fractions {values}; they must be at least 0, and some above 0"
        )
    return _scaled(found)


def unknown(entry: str) -> ConfigError:
    """The error for a model whose config.json lacks the entry that `--prior` needs."""
    return ConfigError(
        f"--prior needs the {entry} of the model, and its config.json has none: it was trained by "
        "an earlier affectnet, or without expressions; leave out --prior, or train it again"
    )


def log_ratios(prior: Fractions | None, target: Fractions, tau: float = 1.0) -> Floats:
    """tau * log(target / prior) of each class, (K,): what is added to the log probabilities.

    0 for a class that the model was never trained on; -inf for one that does not occur in `target`.

    Args:
        prior: that the probabilities assume, as `effective_prior` gives it.
        target: fractions of the faces to predict.
        tau: 0 changes nothing, 1 is Bayes' rule.

    Raises `ConfigError` if the prior is unknown or tau is not in [0, 2].
    """
    if prior is None:
        raise unknown("prior")
    if not 0 <= tau <= 2:
        raise ConfigError(f"--prior-tau is {tau}; allowed is 0 (no correction) to 2, usual is 1")
    if tau == 0:
        return np.zeros(len(prior))
    given = np.array(prior)
    with np.errstate(divide="ignore"):
        ratios = np.log(np.array(target)) - np.log(np.where(given > 0, given, 1))
    return np.where(given > 0, tau * ratios, 0.0)


def correction(model: HasFractions, prior: str, tau: float = 1.0) -> Floats:
    """`log_ratios` from a model's own fractions to those that `--prior` names, (K,).

    Raises the errors of `target_prior` and `log_ratios`.
    """
    target = target_prior(prior, model.classes, model.class_fractions)
    return log_ratios(model.prior, target, tau)


def corrected(probabilities: npt.ArrayLike, ratios: Floats) -> Floats:
    """Probabilities (n, K) times exp(`ratios`), renormalised: right for the target's fractions.

    >>> ratios = log_ratios((0.9, 0.1), (0.5, 0.5))
    >>> corrected([[0.9, 0.1]], ratios).round(4).tolist()
    [[0.5, 0.5]]
    """
    scaled = np.asarray(probabilities, np.float64) * np.exp(ratios - ratios.max())
    total = scaled.sum(axis=1, keepdims=True)
    # Where only excluded classes have any probability, the others are equally likely.
    possible = np.isfinite(ratios) / np.isfinite(ratios).sum()
    result: Floats = np.where(total > 0, scaled / np.where(total > 0, total, 1), possible)
    return result


def mean_before_temperature(
    first: npt.ArrayLike, second: npt.ArrayLike, temperature: float
) -> Floats:
    """The mean of two predictions of a model as if its temperature came after the mean, (n, K).

    This is how `evaluate --flip` takes the mean for a face and its mirror image, on which
    `--calibrate` fits the temperature.

    >>> mean_before_temperature([[0.9, 0.1]], [[0.5, 0.5]], 1.0).round(4).tolist()
    [[0.7, 0.3]]
    """
    mean = sum(_to_power(np.asarray(p, np.float64), temperature) for p in (first, second)) / 2
    return _to_power(np.asarray(mean), 1 / temperature)


def _to_power(probabilities: Floats, power: float) -> Floats:
    """Softmax of `power` times the logits, (n, K)."""
    scaled = (probabilities / probabilities.max(axis=1, keepdims=True)) ** power
    result: Floats = scaled / scaled.sum(axis=1, keepdims=True)
    return result


def after_correction(prior: Fractions | None, ratios: Floats) -> Fractions:
    """The class fractions that probabilities assume after `corrected`, (K,)."""
    if prior is None:
        raise unknown("prior")
    return _scaled(np.array(prior) * np.exp(ratios - ratios.max()))


def _scaled(values: Floats) -> Fractions:
    return tuple((values / values.sum()).tolist())


def _json(text: str, classes: Sequence[str]) -> dict[str, Any]:
    values = json.loads(text)
    if isinstance(values, list):
        if len(values) != len(classes):
            raise ValueError(f"{len(values)} numbers for {len(classes)} classes")
        return dict(zip(classes, values, strict=True))
    if not isinstance(values, dict):
        raise ValueError("neither an object nor a list")
    return values


def _csv(text: str) -> dict[str, Any]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("a row has not two columns")
    return {name.strip(): value for name, value in rows}
