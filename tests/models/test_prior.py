"""Class fractions that a model assumes, and the correction of its probabilities for other ones."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from affectnet.errors import ConfigError
from affectnet.evaluation.calibration import fit_temperature
from affectnet.evaluation.metrics import Calibration
from affectnet.labels import EXPRESSIONS
from affectnet.models.prior import (
    after_correction,
    corrected,
    effective_prior,
    log_ratios,
    target_prior,
)

AFFECTNET = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
TRAIN = effective_prior(AFFECTNET)
UNIFORM = (1 / 8,) * 8


def gaussian_faces(n: int, fractions, seed: int):
    """Labels, and the density of each face under each of eight Gaussian classes, (n, 8)."""
    random = np.random.default_rng(seed)
    angles = np.arange(8) * np.pi / 4
    centres = 1.6 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = random.choice(8, n, p=fractions)
    points = centres[labels] + random.normal(size=(n, 2))
    return labels, np.stack([multivariate_normal(c).pdf(points) for c in centres], axis=1)


def posterior(densities, fractions):
    joint = densities * np.array(fractions)
    return joint / joint.sum(axis=1, keepdims=True)


def ece(truth, probabilities) -> float:
    return float(Calibration(truth, probabilities)(np.ones((len(truth), 1)))[0])


def test_the_correction_restores_the_decision_and_the_calibration_of_bayes() -> None:
    truth, densities = gaussian_faces(20_000, UNIFORM, seed=0)
    ideal, trained = posterior(densities, UNIFORM), posterior(densities, TRAIN)
    right = corrected(trained, log_ratios(TRAIN, UNIFORM))
    np.testing.assert_allclose(right, ideal, atol=1e-12)
    assert (right.argmax(1) == truth).mean() > (trained.argmax(1) == truth).mean() + 0.1
    assert ece(truth, trained) > 0.1
    assert ece(truth, right) < 0.015
    # The other direction, and any fractions.
    np.testing.assert_allclose(corrected(ideal, log_ratios(UNIFORM, TRAIN)), trained, atol=1e-12)


def test_a_temperature_is_fitted_for_the_fractions_that_are_scored() -> None:
    """The val split has the fractions of train, the test split equal ones."""
    val, val_densities = gaussian_faces(20_000, TRAIN, seed=1)
    test, test_densities = gaussian_faces(20_000, UNIFORM, seed=2)

    def logits(densities):
        return 2.5 * np.log(posterior(densities, TRAIN))  # an overconfident model

    ratios = log_ratios(TRAIN, UNIFORM)
    weights = 1 / np.array(TRAIN)
    found = fit_temperature(logits(val_densities), val, weights=weights, ratios=ratios)
    assert found == pytest.approx(2.5, rel=0.1)
    scaled = posterior(np.exp(logits(test_densities) / found), UNIFORM)
    assert ece(test, corrected(scaled, ratios)) < 0.02
    # Without the correction one number cannot repair the prior; weighting still brings it nearer.
    plain = fit_temperature(logits(val_densities), val)
    weighted = fit_temperature(logits(val_densities), val, weights=weights)
    errors = [
        ece(test, posterior(np.exp(logits(test_densities) / t), UNIFORM)) for t in (plain, weighted)
    ]
    assert errors[1] < errors[0]
    assert errors[1] > 2 * ece(test, corrected(scaled, ratios))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_tau_is_the_power_of_the_ratio(tau: float) -> None:
    probabilities = np.random.default_rng(3).dirichlet(np.ones(8), 50)
    expected = probabilities * (np.array(UNIFORM) / np.array(TRAIN)) ** tau
    found = corrected(probabilities, log_ratios(TRAIN, UNIFORM, tau))
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True))
    after = np.array(TRAIN) ** (1 - tau)
    assert after_correction(TRAIN, log_ratios(TRAIN, UNIFORM, tau)) == pytest.approx(
        after / after.sum()
    )


def test_each_setting_of_training_assumes_its_own_fractions() -> None:
    counts = np.array(AFFECTNET, float)
    balanced = counts.sum() / (8 * counts)
    assert effective_prior(counts) == pytest.approx(counts / counts.sum())
    assert effective_prior(counts, counts=counts, tau=1) == pytest.approx(UNIFORM)
    assert effective_prior(counts, weights=balanced) == pytest.approx(UNIFORM)
    half = counts**0.5
    assert effective_prior(counts, counts=counts, tau=0.5) == pytest.approx(half / half.sum())
    # Twice corrected is corrected too far.
    twice = effective_prior(counts, weights=balanced, counts=counts, tau=1)
    assert twice == pytest.approx((1 / counts) / (1 / counts).sum())


def test_classes_without_training_faces_and_classes_that_do_not_occur() -> None:
    ratios = log_ratios((0.5, 0.5, 0.0), (0.5, 0.0, 0.5))
    assert ratios.tolist() == [0.0, -np.inf, 0.0]
    found = corrected([[0.2, 0.8, 0.0], [0.0, 1.0, 0.0]], ratios)
    assert found.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]


def test_a_target_by_name_and_from_files(tmp_path: Path) -> None:
    seven = EXPRESSIONS[:7]
    assert target_prior("uniform", seven, None) == pytest.approx((1 / 7,) * 7)
    assert target_prior("train", EXPRESSIONS, TRAIN) == TRAIN
    by_name, in_order, table = (tmp_path / name for name in ("a.json", "b.json", "c.csv"))
    # Written in another order than affectnet's.
    pairs = list(zip(EXPRESSIONS, AFFECTNET, strict=True))[::-1]
    by_name.write_text(json.dumps(dict(pairs)))
    in_order.write_text(json.dumps(AFFECTNET))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("expression", "faces"), *pairs])
    for file in (by_name, in_order, table):
        assert target_prior(str(file), EXPRESSIONS, None) == pytest.approx(TRAIN)
    # A model without contempt takes the other seven.
    expected = np.array(AFFECTNET[:7]) / sum(AFFECTNET[:7])
    assert target_prior(str(table), seven, None) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"neutral": 1}', "'happiness' is missing; give JSON or CSV"),
        ("a.json", "[1, 2]", "2 numbers for 8 classes"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[0, 0, 0, 0, 0, 0, 0, 0]", "some above 0"),
        ("a.json", "[1, 1, 1, 1, 1, 1, 1, -1]", "at least 0"),
        ("a.json", "[1, 1, 1, 1, 1, 1, 1, NaN]", "at least 0"),
        ("a.csv", "neutral,1,2\n", "two columns"),
        ("a.csv", "\n".join(f"{name},many" for name in EXPRESSIONS), "cannot be read"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        target_prior(str(tmp_path / name), EXPRESSIONS, TRAIN)


def test_what_is_unknown_or_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed are train, uniform or a file"):
        target_prior("balanced", EXPRESSIONS, TRAIN)
    with pytest.raises(ConfigError, match="the class_fractions of the model"):
        target_prior("train", EXPRESSIONS, None)
    with pytest.raises(ConfigError, match="the prior of the model"):
        log_ratios(None, UNIFORM)
    with pytest.raises(ConfigError, match="--prior-tau is 3"):
        log_ratios(TRAIN, UNIFORM, 3)
