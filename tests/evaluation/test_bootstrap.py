"""Resampling, its intervals, and how often they cover the truth."""

import numpy as np
import pytest
import scipy.stats

from affectnet.evaluation.bootstrap import (
    BootstrapSettings,
    bca_interval,
    bootstrap,
    draw_counts,
    jackknife,
    percentile_interval,
    point,
    scored,
)
from affectnet.evaluation.metric_vectors import (
    AffectVector,
    ExpressionVector,
    FractionVector,
    MetricGroup,
)
from affectnet.labels import EXPRESSIONS


def counts(*args, **kwargs):
    return np.concatenate(list(draw_counts(*args, **kwargs)), axis=1)


def test_every_resample_has_as_many_faces():
    drawn = counts(50, 20, 0)
    assert drawn.shape == (50, 20)
    assert (drawn.sum(axis=0) == 50).all()
    assert drawn.std() > 0.5


@pytest.mark.parametrize("strata", [None, np.array([0, 1, 1, 2, 2, 2, 2] * 5)])
def test_block_size_changes_nothing(strata):
    whole = counts(35, 21, 3, strata)
    assert (counts(35, 21, 3, strata, block=4) == whole).all()
    assert (counts(35, 21, 4, strata) != whole).any()


def test_strata_keep_their_size():
    strata = np.array([0] * 3 + [1] * 10 + [5])
    drawn = counts(14, 30, 0, strata)
    for value in (0, 1, 5):
        assert (drawn[strata == value].sum(axis=0) == (strata == value).sum()).all()


def test_draws_are_uniform():
    drawn = counts(20, 4000, 1)
    assert scipy.stats.chisquare(drawn.sum(axis=1)).pvalue > 1e-3
    # A face's count is binomial(20, 1 / 20).
    assert drawn.var(axis=1).mean() == pytest.approx(0.95, abs=0.03)


def test_bootstrap_of_a_mean_has_its_standard_error():
    holds = np.random.default_rng(0).random(400) < 0.3
    metrics = FractionVector("share", holds, "")
    samples = bootstrap(metrics, 400, 4000, seed=0)
    p = holds.mean()
    assert samples.std() == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.05)
    assert samples.mean() == pytest.approx(p, abs=0.002)


@pytest.fixture(scope="module")
def skewed_sample():
    rng = np.random.default_rng(2)
    x = np.clip(rng.normal(0, 0.4, 80), -1, 1)
    return x, np.clip(0.8 * x + rng.exponential(0.2, 80), -1, 1)


def test_percentile_interval_equals_scipy(skewed_sample):
    samples = bootstrap(AffectVector(*skewed_sample, "valence"), 80, 500, seed=0)
    low, high = percentile_interval(samples)
    assert (low, high) == (
        pytest.approx(np.percentile(samples, 2.5, axis=1)),
        pytest.approx(np.percentile(samples, 97.5, axis=1)),
    )


@pytest.mark.parametrize("metric", [0, 1, 2, 3, 4])
def test_bca_interval_equals_scipy(skewed_sample, metric):
    x, y = skewed_sample
    metrics = AffectVector(x, y, "valence")
    samples = bootstrap(metrics, 80, 999, seed=0)
    low, high = bca_interval(point(metrics, 80), samples, jackknife(metrics, 80, seed=0))

    def statistic(a, b):
        return AffectVector(a, b, "valence")(np.ones((len(a), 1)))[metric, 0]

    class Earlier:
        bootstrap_distribution = samples[metric]

    # With no resamples of its own scipy takes the given distribution, and adds its own z0 and a.
    theirs = scipy.stats.bootstrap(
        (x, y),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=0,
        bootstrap_result=Earlier(),
        method="BCa",
    ).confidence_interval
    assert (low[metric], high[metric]) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_grouped_jackknife_finds_the_same_skewness():
    """Above 1,000 faces groups are left out; the acceleration is that of single faces."""
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, 3000)
    y = x + rng.exponential(1.0, 3000) ** 2 * 0.05
    metrics = AffectVector(x, y, "valence")
    grouped = jackknife(metrics, 3000, seed=0)
    assert grouped.shape == (5, 1000)
    weights = 1.0 - np.eye(3000)[:, :]
    single = np.concatenate([metrics(weights[:, i : i + 500]) for i in range(0, 3000, 500)], axis=1)

    def acceleration(values):
        away = values.mean() - values
        return (away**3).sum() / (6 * (away**2).sum() ** 1.5)

    assert acceleration(grouped[0]) == pytest.approx(acceleration(single[0]), rel=0.25)
    assert acceleration(single[0]) > 0.005


def test_undefined_resamples_are_left_out_of_the_quantiles():
    samples = np.array([[np.nan, 1.0, 2.0, 3.0], [np.nan] * 4])
    low, high = percentile_interval(samples)
    assert low[0] == pytest.approx(np.quantile([1, 2, 3], 0.025))
    assert high[0] == pytest.approx(np.quantile([1, 2, 3], 0.975))
    assert np.isnan([low[1], high[1]]).all()


SPREAD = 0.35
NOISE = 0.3
SLOPE = 0.8
SHIFT = 0.05


def population():
    """A joint law of true and predicted class, and what accuracy and macro F1 are under it."""
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.full(8, 0.6), size=8) + 1.2 * np.eye(8)
    law *= (rng.dirichlet(np.full(8, 5.0)) / law.sum(axis=1))[:, None]
    f1 = 2 * np.diag(law) / (law.sum(axis=0) + law.sum(axis=1))
    variance = SLOPE**2 * SPREAD**2 + NOISE**2
    gap = SHIFT
    ccc = 2 * SLOPE * SPREAD**2 / (SPREAD**2 + variance + gap**2)
    rmse = np.sqrt((1 - SLOPE) ** 2 * SPREAD**2 + NOISE**2 + gap**2)
    return law, np.array([np.trace(law), f1.mean(), rmse, ccc])


def coverage(n, trials, resamples):
    """How often the interval holds the true accuracy, macro F1, RMSE and CCC."""
    law, true = population()
    rng = np.random.default_rng(7)
    inside = np.zeros(4)
    for trial in range(trials):
        cell = rng.choice(64, n, p=law.ravel())
        x = rng.normal(0, SPREAD, n)
        y = SLOPE * x + SHIFT + rng.normal(0, NOISE, n)
        label = ExpressionVector(cell // 8, cell % 8, None, EXPRESSIONS, with_skew=False)
        affect = AffectVector(x, y, "valence")
        chosen = [label.names.index("accuracy"), label.names.index("f1_macro")]

        def both(weights, label=label, affect=affect, chosen=chosen):
            return np.concatenate([label(weights)[chosen], affect(weights)[[0, 4]]])

        low, high = percentile_interval(bootstrap(both, n, resamples, seed=trial))
        inside += (low <= true) & (true <= high)
    return inside / trials


def test_intervals_cover_the_truth():
    # With 120 trials of a right interval, 0.88 to 1.00 leaves out one outcome in a thousand.
    found = coverage(n=400, trials=120, resamples=200)
    assert (found >= 0.88).all()
    assert found.mean() < 0.995


def coverage_of_a_rare_class(faces, trials=2000, n=600):
    """How often intervals of recall, precision and F1 of one class hold the truth, if they exist.

    The class has `faces` of n faces on average, recall 0.7 and precision 0.7.
    """
    share = faces / n
    law = np.array([[1 - 1.3 * share, 0.3 * share], [0.3 * share, 0.7 * share]])
    rng = np.random.default_rng(11)
    inside, given = np.zeros(3), np.zeros(3)
    for trial in range(trials):
        cell = rng.choice(4, n, p=law.ravel())
        vector = ExpressionVector(cell // 2, cell % 2, None, ("other", "rare"), with_skew=False)
        group = MetricGroup("expression", vector, np.ones(n, bool))
        settings = BootstrapSettings(300, trial, "percentile", False)
        ((_, entries),) = scored([group], settings, cell // 2)
        for i, name in enumerate(("recall", "precision", "f1")):
            entry = entries[f"per_class/rare/{name}"]
            if entry["low"] is not None:
                assert entry["low"] < entry["high"]
                given[i] += 1
                inside[i] += entry["low"] <= 0.7 <= entry["high"]
    return inside / given, given / trials


def test_intervals_of_a_rare_class_exist_and_cover():
    found, given = coverage_of_a_rare_class(8, trials=150)
    assert (given[:2] > 0.98).all()  # recall and precision, unless there is no face at all
    assert (found > 0.75).all()


@pytest.mark.slow
def test_coverage_of_rare_classes():
    for faces in (5, 10, 20, 30, 60):
        found, given = coverage_of_a_rare_class(faces)
        print(f"{faces} faces: coverage of recall, precision, F1 {found}, intervals {given}")
        assert (found > (0.93 if faces >= 30 else 0.80)).all()


@pytest.mark.slow
def test_intervals_of_4000_faces_cover_the_truth_93_to_97_times_in_100():
    found = coverage(n=4000, trials=1500, resamples=1000)
    print("coverage of accuracy, macro F1, RMSE, CCC:", found)
    assert (found >= 0.93).all()
    assert (found <= 0.97).all()
