"""Valence and arousal: histograms, contradictions, and a wrong class order."""

import numpy as np
import pytest

from affectnet.data.audit.affect import RULES, contradictions, judge, other_order, summarise
from affectnet.data.audit.findings import Severity
from affectnet.data.readers.classes import OTHER_ORDERS
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS


def typical(n: int = 60, spread: float = 0.08) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`n` faces of each expression around its place on the circumplex."""
    rng = np.random.default_rng(0)
    expression = np.repeat(np.arange(8, dtype=np.int8), n)
    places = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])[expression]
    points = np.clip(places + rng.normal(0, spread, places.shape), -1, 1).astype(np.float32)
    return expression, points[:, 0], points[:, 1]


def findings(expression: np.ndarray, valence: np.ndarray, arousal: np.ndarray) -> dict[str, str]:
    broken = contradictions(expression, valence, arousal)
    found = list(
        judge(summarise(expression, valence, arousal), broken, expression, valence, arousal)
    )
    return {s: " | ".join(f.text for f in found if f.severity is s) for s in Severity}


def test_typical_faces_contradict_nothing() -> None:
    expression, valence, arousal = typical()
    assert contradictions(expression, valence, arousal) == []
    texts = findings(expression, valence, arousal)
    assert not texts[Severity.PROBLEM]
    assert not texts[Severity.WARNING]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.expression} {rule}")
def test_a_planted_contradiction_is_found_and_its_limit_is_not_one(rule) -> None:
    expression, valence, arousal = typical()
    row = int(np.flatnonzero(expression == EXPRESSIONS.index(rule.expression))[7])
    # Within the limits of the other measure of this class, whichever that is.
    valence[row], arousal[row] = (0.0, 0.0) if rule.expression == "neutral" else (0.0, 0.3)
    measure = arousal if rule.measure == "arousal" else valence
    measure[row] = rule.limit
    assert contradictions(expression, valence, arousal) == []
    measure[row] = rule.limit + rule.side * 0.15
    (found,) = contradictions(expression, valence, arousal)
    assert (found.row, found.rule) == (row, rule)
    assert found.excess == pytest.approx(0.15, abs=1e-6)
    assert "1 face (0.208%)" in findings(expression, valence, arousal)[Severity.WARNING]


def test_the_worst_comes_first_and_a_row_once() -> None:
    anger = EXPRESSIONS.index("anger")
    expression = np.full(3, anger, np.int8)
    valence = np.array([0.3, 0.9, 0.25], np.float32)
    arousal = np.array([-0.9, 0.5, 0.5], np.float32)
    found = contradictions(expression, valence, arousal)
    assert [f.row for f in found] == [1, 0, 2]
    assert [str(f.rule) for f in found] == [
        "valence above 0.2",
        "arousal below -0.3",
        "valence above 0.2",
    ]


def test_missing_values_contradict_nothing_and_are_counted() -> None:
    expression, valence, arousal = typical()
    valence[:5] = np.nan
    expression[10] = -1
    assert contradictions(expression, valence, arousal) == []
    assert summarise(expression, valence, arousal).n == len(expression) - 5
    assert "5 faces of 480 without both" in findings(expression, valence, arousal)[Severity.INFO]
    nothing = np.full(480, np.nan, np.float32)
    assert "no face has valence" in findings(expression, nothing, nothing)[Severity.INFO]


def test_the_summary_equals_plain_numpy() -> None:
    expression, valence, arousal = typical()
    valence[:3], arousal[:7] = 0, 0
    affect = summarise(expression, valence, arousal)
    assert affect.zeros == (int((valence == 0).sum()), int((arousal == 0).sum()))
    assert affect.zeros[0] >= 3
    assert affect.valence.sum() == affect.arousal.sum() == affect.plane.sum() == 480
    assert np.array_equal(affect.plane.sum(axis=0), affect.valence)
    assert np.array_equal(affect.plane.sum(axis=1), affect.arousal)
    for i in range(8):
        own = expression == i
        expected = [valence[own].mean(dtype=float), arousal[own].mean(dtype=float)]
        assert affect.class_mean[i] == pytest.approx(expected)
        assert affect.class_std[i, 1] == pytest.approx(arousal[own].std(dtype=float))


def test_minus_two_read_as_a_value_is_a_problem() -> None:
    expression, valence, arousal = typical()
    valence[3] = arousal[3] = -2
    assert "AffectNet writes -2" in findings(expression, valence, arousal)[Severity.PROBLEM]


@pytest.mark.parametrize("name", OTHER_ORDERS)
def test_a_wrong_class_order_is_named(name: str) -> None:
    expression, valence, arousal = typical()
    order = OTHER_ORDERS[name]
    known = [EXPRESSIONS[i] in order for i in expression]
    wrong = np.array([order.index(EXPRESSIONS[i]) for i in expression[known]], np.int8)
    valence, arousal = valence[known], arousal[known]
    assert other_order(summarise(wrong, valence, arousal)) == name
    problems = findings(wrong, valence, arousal)[Severity.PROBLEM]
    assert f"{name}'s order" in problems
    assert "contradict their valence or arousal: too many" in problems
    assert other_order(summarise(*typical(spread=0.3))) is None
    assert other_order(summarise(*typical(n=5))) is None
