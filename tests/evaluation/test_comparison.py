"""Comparing two sets of predictions: paired intervals, McNemar's test, the verdict."""

import numpy as np
import pytest
from scipy.stats import binom, ttest_rel

from affectnet.errors import DataError
from affectnet.evaluation import compare, evaluate
from affectnet.evaluation.comparison import compare_seeds, holm, mcnemar
from affectnet.evaluation.prediction_files import predictions_of, truth_of


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(600, seed=31)


def worse(faces, share, seed=0):
    """The same probabilities, shuffled over the classes for a share of the faces."""
    rng = np.random.default_rng(seed)
    p = faces.probabilities.copy()
    for i in np.flatnonzero(rng.random(len(p)) < share):
        rng.shuffle(p[i])
    return {"probabilities": p, "valence_pred": faces.valence_pred * 0.2}


def test_the_better_one_is_named(faces):
    found = compare(faces.truth(), worse(faces, 0.4), faces.predictions(), names=("old", "new"))
    accuracy = found.metrics["expression"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(accuracy["b"] - accuracy["a"])
    assert accuracy["better"] == "new"
    assert found.metrics["expression"]["log_loss"]["better"] == "new"
    assert found.metrics["valence"]["ccc"]["better"] == "new"
    assert found.verdict.startswith("new is better than old by more than chance")
    assert ". " not in found.verdict
    assert found.verdict in " ".join(found.table().split())


def test_swapping_the_two_negates_the_difference(faces):
    pair = (worse(faces, 0.4), faces.predictions())
    there = compare(faces.truth(), *pair, resamples=100)
    back = compare(faces.truth(), *pair[::-1], resamples=100)
    one, other = there.metrics["expression"]["accuracy"], back.metrics["expression"]["accuracy"]
    assert one["difference"] == -other["difference"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_a_small_difference_is_no_more_than_chance(faces):
    found = compare(faces.truth(), worse(faces, 0.02), faces.predictions())
    assert found.metrics["expression"]["accuracy"]["better"] is None
    assert "no more than chance" in found.verdict


def test_equal_predictions(faces):
    found = compare(faces.truth(), faces.predictions(), faces.predictions(), resamples=50)
    assert "equally good" in found.verdict
    assert found.metrics["mcnemar"]["p_exact"] == 1.0
    assert found.metrics["mcnemar"]["chi2"] is None
    assert found.metrics["expression"]["accuracy"]["difference"] == 0.0
    assert found.metrics["expression"]["accuracy"]["low"] is None


def test_pairing_makes_the_interval_narrower(faces):
    """The interval of the difference is that of paired faces, not of two independent samples."""
    other = worse(faces, 0.05)
    entry = compare(faces.truth(), other, faces.predictions()).metrics["expression"]["accuracy"]
    widths = [
        s["expression"]["accuracy"]["high"] - s["expression"]["accuracy"]["low"]
        for s in (
            evaluate(faces.truth(), other),
            evaluate(faces.truth(), faces.predictions()),
        )
    ]
    assert entry["high"] - entry["low"] < 0.6 * np.hypot(*widths)


@pytest.fixture(scope="module")
def common_neutral(make_faces):
    """600 faces, most of them neutral, and a model that finds the rare classes."""
    faces = make_faces(600, seed=32)
    rng = np.random.default_rng(5)
    y = rng.choice(8, 600, p=[0.72, *[0.04] * 7])
    guess = np.where(rng.random(600) < 0.65, y, rng.integers(0, 8, 600))
    return faces, y, guess


def test_always_the_most_frequent_class_is_not_better(common_neutral):
    _, y, guess = common_neutral
    always = {"expression_pred": np.zeros(600, int)}
    found = compare({"expression": y}, {"expression_pred": guess}, always, names=("net", "neutral"))
    assert found.metrics["expression"]["accuracy"]["better"] == "neutral"
    assert found.metrics["mcnemar"]["p_exact"] < 0.05
    assert found.metrics["expression"]["f1_macro"]["better"] == "net"
    assert "is better than" not in found.verdict
    assert "neither is better" in found.verdict
    assert "neutral has the higher accuracy and net the higher macro F1" in found.verdict
    pair = ({"expression_pred": guess}, always)
    untested = compare({"expression": y}, *pair, names=("net", "neutral"), resamples=0)
    assert "in accuracy; macro F1 was not tested, for want of resamples" in untested.verdict


def test_ahead_in_one_only(common_neutral):
    """Rare classes found, at no cost or gain of accuracy."""
    _, y, _ = common_neutral
    rare = np.where(y > 4, y, 0)
    rare[np.flatnonzero(y == 0)[: (y > 4).sum()]] = 1
    always = {"expression_pred": np.zeros(600, int)}
    found = compare({"expression": y}, always, {"expression_pred": rare}, names=("none", "rare"))
    assert found.metrics["expression"]["accuracy"]["difference"] == 0
    assert found.verdict.startswith(
        "rare is ahead of none by more than chance in macro F1, but not in accuracy"
    )


def test_only_faces_that_both_have(faces):
    ids = np.array([f"f{i}" for i in range(600)])
    truth = faces.truth() | {"id": ids}
    given = faces.predictions() | {"id": ids}
    first = {name: values[:400] for name, values in given.items()}
    second = {name: values[:99:-1] for name, values in given.items()}
    found = compare(truth, first, second, resamples=20, stratified=True)
    assert found.metrics["n"] == 300
    assert found.metrics["expression"]["accuracy"]["difference"] == 0
    with pytest.raises(DataError, match="no id in common"):
        compare(truth, first, {name: values[400:] for name, values in given.items()})


def test_faces_that_lack_one_target(faces):
    truth = faces.truth()
    truth["expression"] = np.where(np.arange(600) % 3 == 0, -1, faces.expression).astype(float)
    truth["expression"][truth["expression"] < 0] = np.nan
    found = compare(truth, worse(faces, 0.3), faces.predictions(), resamples=50, stratified=True)
    assert found.metrics["expression"]["n"] == 400
    assert found.metrics["valence"]["n"] == 600


def test_valence_and_arousal_alone(faces):
    truth = {"valence": faces.valence, "arousal": faces.arousal}
    good = {"valence_pred": faces.valence_pred, "arousal_pred": faces.arousal_pred}
    poor = {"valence_pred": -faces.valence_pred, "arousal_pred": faces.arousal_pred}
    found = compare(truth, good, poor, names=("good", "poor"))
    assert "valence: good is better by more than chance" in found.verdict
    assert "arousal: no more than chance" in found.verdict
    assert found.metrics["mcnemar"] is None


def test_nothing_to_compare():
    with pytest.raises(DataError, match="no prediction of the same target"):
        compare(
            {"expression": [1], "valence": [0.1]}, {"expression_pred": [1]}, {"valence_pred": [0.1]}
        )


def trained(rng, y, quality, wanders):
    """Predictions of three trainings whose accuracy varies around `quality`."""
    made = []
    for _ in range(3):
        right = rng.random(len(y)) < quality + rng.normal(0, wanders)
        labels = np.where(right, y, (y + rng.integers(1, 8, len(y))) % 8)
        made.append(predictions_of({"expression_pred": labels}))
    return made


@pytest.mark.parametrize("wanders", [0.0, 0.03])
def test_seeds_and_faces_both_count_as_chance(wanders):
    """Two models of equal quality differ by more than chance in at most one of twenty."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 8, 300)
    truth = truth_of({"expression": y})
    p = [
        compare_seeds(
            truth, trained(rng, y, 0.6, wanders), trained(rng, y, 0.6, wanders), resamples=60
        )
        for _ in range(120)
    ]
    for metric in ("accuracy", "f1_macro"):
        below = np.mean([one[metric]["p"] < 0.05 for one in p])
        assert below < 0.1  # of a right test, 0.9% of such simulations have more


def test_a_better_model_is_recognised_over_seeds():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 8, 1000)
    truth = truth_of({"expression": y})
    worse, better = trained(rng, y, 0.5, 0.01), trained(rng, y, 0.65, 0.01)
    found = compare_seeds(truth, worse, better)
    gain = np.mean([(b.expression == y).mean() for b in better])
    gain -= np.mean([(a.expression == y).mean() for a in worse])
    assert found["accuracy"]["difference"] == pytest.approx(gain)
    assert found["accuracy"]["p"] < 0.05
    assert found["accuracy"]["low"] < gain < found["accuracy"]["high"]
    assert (found["n"], found["seeds"]) == (1000, 3)
    # The same predictions: no difference, and no test of it.
    assert compare_seeds(truth, worse, worse)["accuracy"]["p"] is None
    # One seed: the t-test is that of the paired faces.
    one = compare_seeds(truth, worse[:1], better[:1], resamples=3000)["accuracy"]
    rights = [(preds.expression == y).astype(float) for preds in (better[0], worse[0])]
    assert one["p"] == pytest.approx(ttest_rel(*rights).pvalue, abs=1e-3)
    width = ttest_rel(*rights).confidence_interval()
    assert (one["low"], one["high"]) == pytest.approx(width, abs=5e-3)


def test_faces_without_expression_and_other_orders_are_matched():
    ids = [f"f{i}" for i in range(50)]
    y = np.arange(50) % 8
    truth = truth_of({"id": ids, "expression": np.where(np.arange(50) < 5, np.nan, y)})
    first = predictions_of({"id": ids, "expression_pred": y})
    second = predictions_of({"id": ids[:4:-1], "expression_pred": np.roll(y[:4:-1], 1)})
    found = compare_seeds(truth, [first], [second], resamples=20)
    assert found["n"] == 45
    assert found["accuracy"]["difference"] == -1


def test_holm_by_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_mcnemar_by_its_definition():
    a = np.array([True] * 15 + [False] * 5 + [True] * 80)
    b = np.array([False] * 15 + [True] * 5 + [True] * 80)
    found = mcnemar(a, b)
    assert (found["only_a"], found["only_b"]) == (15, 5)
    assert found["p_exact"] == pytest.approx(2 * binom.cdf(5, 20, 0.5))
    assert found["chi2"] == pytest.approx((10 - 1) ** 2 / 20)
    assert found["p_chi2"] == pytest.approx(0.0441, abs=1e-4)
    assert mcnemar(np.array([], bool), np.array([], bool)) is None
