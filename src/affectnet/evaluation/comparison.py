"""Compare two sets of predictions on the same faces: is the difference more than chance?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import binomtest, chi2
from scipy.stats import t as student_t

from affectnet.errors import DataError
from affectnet.evaluation.bootstrap import (
    LEVEL,
    MAX_UNDEFINED,
    bootstrap,
    percentile_interval,
    point,
    undefined_fraction,
)
from affectnet.evaluation.metric_vectors import (
    LABEL_METRICS,
    PROBABILITY_METRICS,
    ExpressionVector,
    MetricGroup,
    affect_group,
    expression_group,
)
from affectnet.evaluation.metrics import Bools, Floats, ZeroRule, none_if_undefined
from affectnet.evaluation.prediction_files import predictions_of, truth_of
from affectnet.evaluation.predictions import Predictions, Truth, join, scored_faces

EXPRESSION_COMPARED: Final = frozenset((*LABEL_METRICS, *PROBABILITY_METRICS))
LOWER_IS_BETTER: Final = frozenset(("rmse", "mae", "log_loss", "ece"))


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `metrics` is plain data.

    `metrics["expression" | "valence" | "arousal"][metric]` holds `a`, `b`, `difference` (b - a),
    `low`, `high` of the difference, and `better`: the name of the better one, or None where the
    interval includes zero. `metrics["mcnemar"]` holds the test, `metrics["verdict"]`
    the sentence.
    """

    names: tuple[str, str]
    metrics: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence: whether the difference is more than chance."""
        return str(self.metrics["verdict"])

    def table(self) -> str:
        """The comparison as a table for a terminal, followed by the verdict."""
        from affectnet.evaluation.terminal import comparison_table, to_text

        return to_text([comparison_table(self.metrics)])


def compare(
    truth: Any,
    a: Any,
    b: Any,
    *,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 1000,
    seed: int = 0,
    stratified: bool = False,
    zero_rule: ZeroRule = "sign",
    without_contempt: bool = False,
) -> Comparison:
    """Compare two sets of predictions on the faces that both have.

    Both are scored on the same resamples of faces (paired bootstrap), and the percentile interval
    is that of the difference. McNemar's test uses the faces that exactly one of them predicts
    correctly. The verdict goes by accuracy and macro F1 together.

    Args:
        truth, a, b: as for `evaluate`.
        names: of the two in tables and sentences.
        resamples, seed, stratified, zero_rule: as for `evaluate`.
        without_contempt: as for `evaluate`; always so where one of the two has seven classes.

    Raises:
        DataError: as for `evaluate`, and where the two have no face in common.
    """
    known = truth if isinstance(truth, Truth) else truth_of(truth)
    first, second = (
        preds if isinstance(preds, Predictions) else predictions_of(preds, source=name)
        for preds, name in zip((a, b), names, strict=True)
    )
    pair = [one.with_ids_of(known) for one in (first, second)]
    shared = join(join(known, pair[0]).truth, pair[1]).truth
    pair = [one.in_order(shared.ids) for one in pair]
    shared, pair, classes = scored_faces(shared, pair, without_contempt)

    found: dict[str, Any] = {
        "names": list(names),
        "n": len(shared),
        "classes": list(classes),
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
        "stratified": stratified,
    }
    for key, (faces, *groups) in _paired_groups(shared, pair, zero_rule).items():
        strata = faces.expression if stratified else None
        found[key] = _differences(groups, names, resamples, seed, strata)
    right = [preds.expression == shared.expression for preds in pair]
    labelled = (shared.expression >= 0) & (pair[0].expression >= 0) & (pair[1].expression >= 0)
    found["mcnemar"] = mcnemar(right[0][labelled], right[1][labelled])
    if not any(found[key] for key in ("expression", "valence", "arousal")):
        raise DataError(
            f"{names[0]} and {names[1]} have no prediction of the same target for the same face"
        )
    found["verdict"] = _verdict(found)
    return Comparison(names, found)


def compare_seeds(
    truth: Truth,
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two models that were trained with the same seeds, on the same faces.

    A difference in means may be due to the choice of the faces or to that of the seeds, which are
    crossed: every training predicts every face. The squared standard error is the sum of both
    parts: the variance of the differences of the seeds over their number, and the variance of the
    mean difference over resamples of the faces (paired bootstrap). The test is a t-test with
    Welch's degrees of freedom. The sum counts the interaction of both twice, so the test is
    conservative. With one seed only the faces vary.

    Args:
        truth: of the faces.
        a, b: predictions of each model by seed; a[i] and b[i] are of the same seed.
        resamples, seed: of the bootstrap.

    Returns `n`, `seeds`, and for `accuracy` and `f1_macro` the `difference` (b - a), `low` and
    `high` of its 95% interval, and `p` (two-sided); None where undefined. Neither metric if fewer
    than two faces have an expression. Raises `DataError` if the ids have none in common.
    """
    faces = truth
    for one in (*a, *b):
        faces = join(faces, one).truth
    aligned = [one.in_order(faces.ids) for one in (*a, *b)]
    faces, every, classes = scored_faces(faces, aligned, False)
    rows = np.logical_and.reduce([one.expression >= 0 for one in (faces, *every)])
    y, n, count = faces.expression[rows], int(rows.sum()), len(a)
    if n < 2:
        return {"n": n, "seeds": count}
    vectors = [
        ExpressionVector(y, one.expression[rows], None, classes, with_skew=False) for one in every
    ]
    compared = ("accuracy", "f1_macro")
    chosen = [vectors[0].names.index(name) for name in compared]

    def by_seed(weights: Floats) -> Floats:
        values = np.stack([vector(weights)[chosen] for vector in vectors])
        return np.asarray(values[count:] - values[:count])

    def mean(weights: Floats) -> Floats:
        return np.asarray(by_seed(weights).mean(axis=0))

    apart = by_seed(np.ones((n, 1)))[:, :, 0]
    over_faces = np.nanvar(bootstrap(mean, n, resamples, seed), axis=1, ddof=1)
    over_seeds = apart.var(axis=0, ddof=1) / count if count > 1 else np.zeros(len(compared))
    found: dict[str, Any] = {"n": n, "seeds": count}
    parts = zip(compared, apart.mean(axis=0), over_faces, over_seeds, strict=True)
    for name, difference, of_faces, of_seeds in parts:
        found[name] = _t_test(difference, (of_faces, n - 1), (of_seeds, count - 1))
    return found


def _t_test(difference: float, *parts: tuple[float, int]) -> dict[str, Any]:
    """Interval and p of a difference whose variance is a sum of (variance, degrees of freedom)."""
    variance = sum(part for part, _ in parts)
    if not variance > 0:
        return {"difference": float(difference), "low": None, "high": None, "p": None}
    freedom = variance**2 / sum(part**2 / max(degrees, 1) for part, degrees in parts)
    law = student_t(freedom, scale=np.sqrt(variance))
    half = float(law.ppf((1 + LEVEL) / 2))
    return {
        "difference": float(difference),
        "low": float(difference - half),
        "high": float(difference + half),
        "p": float(2 * law.sf(abs(difference))),
    }


def holm(p: Sequence[float]) -> list[float]:
    """P-values of several comparisons, corrected for their number (Holm 1979).

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    raised = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return [float(value) for value in corrected]


def mcnemar(a_right: Bools, b_right: Bools) -> dict[str, Any] | None:
    """McNemar's test of two classifiers on the same faces; None without faces.

    Args:
        a_right, b_right: (n,) whether each predicts correctly.

    Returns:
        `only_a`, `only_b`: faces that only one predicts correctly; `p_exact`: two-sided binomial;
        `chi2` and `p_chi2`: (|only_a - only_b| - 1)^2 / (only_a + only_b), one degree of freedom
        (Edwards, 1948), None where the two never differ.
    """
    if len(a_right) == 0:
        return None
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    apart = only_a + only_b
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / apart if apart else None
    return {
        "only_a": only_a,
        "only_b": only_b,
        "p_exact": float(binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0,
        "chi2": statistic,
        "p_chi2": None if statistic is None else float(chi2.sf(statistic, 1)),
    }


def _paired_groups(
    truth: Truth, pair: Sequence[Predictions], zero_rule: ZeroRule
) -> dict[str, tuple[Truth, MetricGroup, MetricGroup]]:
    """The faces that truth and both predictions have, and the two groups over them."""
    makers: dict[str, Callable[[Truth, Predictions], MetricGroup]] = {
        "expression": lambda t, p: expression_group(t, p, with_skew=False),
        "valence": lambda t, p: affect_group(t, p, "valence", zero_rule),
        "arousal": lambda t, p: affect_group(t, p, "arousal", zero_rule),
    }
    found = {}
    for key, make in makers.items():
        rows = np.flatnonzero(make(truth, pair[0]).rows & make(truth, pair[1]).rows)
        some = truth.rows(rows)
        found[key] = (some, make(some, pair[0].rows(rows)), make(some, pair[1].rows(rows)))
    return found


def _differences(
    groups: Sequence[MetricGroup],
    names: tuple[str, str],
    resamples: int,
    seed: int,
    strata: Any,
) -> dict[str, Any]:
    n = int(groups[0].rows.sum())
    if n == 0:
        return {}
    first, second = (group.metrics for group in groups)
    compared = [
        f
        for f, name in enumerate(first.names)
        if name in EXPRESSION_COMPARED or groups[0].key != "expression"
    ]

    def both(weights: Floats) -> Floats:
        return np.concatenate([first(weights)[compared], second(weights)[compared]])

    a, b = point(both, n).reshape(2, -1)
    low = high = np.full(len(compared), np.nan)
    if resamples and n > 1:
        samples = bootstrap(both, n, resamples, seed, strata).reshape(2, len(compared), -1)
        apart = samples[1] - samples[0]
        low, high = percentile_interval(apart)
        hidden = (undefined_fraction(apart) > MAX_UNDEFINED) | (low == high)
        low, high = np.where(hidden, np.nan, [low, high])
    found: dict[str, Any] = {"n": n}
    columns = {"a": a, "b": b, "difference": b - a, "low": low, "high": high}
    for i, f in enumerate(compared):
        name = first.names[f]
        entry = {key: none_if_undefined(column[i]) for key, column in columns.items()}
        found[name] = entry | {"better": _better(entry, name, names)}
    return found


def _better(entry: dict[str, Any], metric: str, names: tuple[str, str]) -> str | None:
    low, high = entry["low"], entry["high"]
    if low is None or high is None or low <= 0 <= high:
        return None
    b_is_more = low > 0
    return names[1] if b_is_more != (metric in LOWER_IS_BETTER) else names[0]


def _verdict(found: dict[str, Any]) -> str:
    """One sentence, by accuracy and macro F1, or without expression by the CCC."""
    a, b = found["names"]
    if found["expression"] and found["mcnemar"]:
        return _expression_verdict(a, b, found["expression"], found["mcnemar"]["p_exact"])
    parts = []
    for dimension in ("valence", "arousal"):
        entry = found[dimension].get("ccc") if found[dimension] else None
        if not entry or entry["difference"] is None:
            continue
        who = entry["better"]
        result = f"{who} is better by more than chance" if who else "no more than chance"
        interval = (
            f", {LEVEL:.0%} interval {entry['low']:+.3f} to {entry['high']:+.3f}"
            if entry["low"] is not None
            else ""
        )
        parts.append(f"{dimension}: {result} (CCC {entry['difference']:+.3f}{interval})")
    return f"{b} against {a}, {'; '.join(parts) or 'no metric is defined for both'}."


def _expression_verdict(a: str, b: str, found: dict[str, Any], p: float) -> str:
    """The sentence by accuracy (McNemar's exact test) and macro F1 (paired bootstrap).

    One alone is not enough: a model that always predicts the most frequent class may be more
    accurate, and one that guesses rare classes may have the higher macro F1.
    """
    accuracy, f1 = found["accuracy"], found["f1_macro"]
    apart = accuracy["difference"]
    measured = (
        f"{b} minus {a}, {found['n']:,} faces: accuracy {_signed(accuracy)}, McNemar p {_p(p)}; "
        f"macro F1 {_signed(f1)}"
    )
    if apart == 0 and f1["difference"] == 0:
        return f"{a} and {b} are equally good: {measured}."
    better = {
        "accuracy": (b if apart > 0 else a) if p < 1 - LEVEL else None,
        "macro F1": f1["better"],
    }
    ahead = {name for name in better.values() if name}
    if len(ahead) == 2:
        return (
            f"{better['accuracy']} has the higher accuracy and {better['macro F1']} the higher "
            f"macro F1, both by more than chance, so neither is better: {measured}."
        )
    if not ahead:
        return f"{a} and {b} differ by no more than chance: {measured}."
    winner = ahead.pop()
    loser = a if winner == b else b
    if all(better.values()):
        return f"{winner} is better than {loser} by more than chance: {measured}."
    one, other = sorted(better, key=lambda metric: better[metric] is None)
    ahead_in = f"{winner} is ahead of {loser} by more than chance in {one}"
    if other == "macro F1" and f1["low"] is None and f1["difference"]:
        return f"{ahead_in}; macro F1 was not tested, for want of resamples: {measured}."
    return f"{ahead_in}, but not in {other}: {measured}."


def _signed(entry: dict[str, Any]) -> str:
    """`+0.012 (95% interval -0.003 to +0.027)`."""
    text = f"{entry['difference']:+.3f}"
    if entry["low"] is None:
        return text
    return f"{text} ({LEVEL:.0%} interval {entry['low']:+.3f} to {entry['high']:+.3f})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
