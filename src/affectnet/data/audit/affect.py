"""Valence and arousal of a dataset: distribution, and rows that contradict their expression."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from affectnet.data.audit.findings import Finding, Topic, percentage
from affectnet.data.readers.classes import OTHER_ORDERS
from affectnet.errors import counted
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS, N_EXPRESSIONS

TOPIC: Final = Topic("valence and arousal")
BINS: Final = 20
"""Bins over [-1, 1] of each histogram."""

MANY: Final = 0.1
"""Fraction of contradicting rows in a class above which all labels are in doubt."""

ENOUGH: Final = 20
"""Least number of rows in a class to assess its mean or its fraction of contradictions."""

Measure = Literal["valence", "arousal", "distance"]


@dataclass(frozen=True, slots=True)
class AffectRule:
    """A row of `expression` whose `measure` lies beyond `limit` contradicts its expression.

    `side` is 1 for an upper and -1 for a lower limit; `distance` is the distance from the origin of
    the circumplex.
    """

    expression: str
    measure: Measure
    side: Literal[1, -1]
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} {'above' if self.side > 0 else 'below'} {self.limit:g}"


RULES: Final = (
    AffectRule("neutral", "distance", 1, 0.5),
    AffectRule("happiness", "valence", -1, -0.1),
    AffectRule("sadness", "valence", 1, 0.2),
    AffectRule("sadness", "arousal", 1, 0.7),
    AffectRule("surprise", "arousal", -1, -0.1),
    AffectRule("fear", "valence", 1, 0.2),
    AffectRule("fear", "arousal", -1, -0.2),
    AffectRule("disgust", "valence", 1, 0.2),
    AffectRule("anger", "valence", 1, 0.2),
    AffectRule("anger", "arousal", -1, -0.3),
    AffectRule("contempt", "valence", 1, 0.5),
)
"""One limit per direction, on the opposite side of the origin from the class's place on the
circumplex and a margin beyond it, which allows for disagreement among annotators. Contempt, also
shown as a smirk, has the widest margin; surprise may have either valence."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A row, the rule that it breaks, and how far it lies beyond the limit."""

    row: int
    rule: AffectRule
    excess: float


@dataclass(frozen=True, slots=True)
class AffectSummary:
    """Valence and arousal of all rows that have them.

    Args:
        n: rows with both.
        zeros: rows whose valence, and whose arousal, is exactly zero.
        valence: histogram over 20 bins of [-1, 1].
        arousal: likewise.
        plane: 2-d histogram (20, 20), arousal by valence, both rising.
        class_n: rows of each expression with both, (8,).
        class_mean: (8, 2), valence and arousal; NaN without rows.
        class_std: likewise.
    """

    n: int
    zeros: tuple[int, int]
    valence: NDArray[np.int64]
    arousal: NDArray[np.int64]
    plane: NDArray[np.int64]
    class_n: NDArray[np.int64]
    class_mean: NDArray[np.float64]
    class_std: NDArray[np.float64]


def summarise(
    expression: NDArray[np.int8], valence: NDArray[np.float32], arousal: NDArray[np.float32]
) -> AffectSummary:
    """Summarise valence and arousal; all arguments (n,), -1 and NaN where missing."""
    known = np.isfinite(valence) & np.isfinite(arousal)
    points = np.stack([valence[known], arousal[known]], axis=1).astype(np.float64)
    classes = expression[known]
    edges = np.linspace(-1, 1, BINS + 1)
    plane, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))
    mean = np.full((N_EXPRESSIONS, 2), np.nan)
    std = mean.copy()
    for i in range(N_EXPRESSIONS):
        if (classes == i).any():
            mean[i], std[i] = points[classes == i].mean(axis=0), points[classes == i].std(axis=0)
    return AffectSummary(
        int(known.sum()),
        (int((valence == 0).sum()), int((arousal == 0).sum())),
        np.histogram(valence[np.isfinite(valence)], edges)[0],
        np.histogram(arousal[np.isfinite(arousal)], edges)[0],
        plane.astype(np.int64),
        np.bincount(classes[classes >= 0], minlength=N_EXPRESSIONS),
        mean,
        std,
    )


def contradictions(
    expression: NDArray[np.int8], valence: NDArray[np.float32], arousal: NDArray[np.float32]
) -> list[Contradiction]:
    """List the rows that break any of `RULES`, each once, the worst first."""
    measures = {"valence": valence, "arousal": arousal, "distance": np.hypot(valence, arousal)}
    worst: dict[int, Contradiction] = {}
    for rule in RULES:
        # float32 labels equal to the limit are within it.
        excess = rule.side * (measures[rule.measure].astype(np.float64) - rule.limit)
        broken = (expression == EXPRESSIONS.index(rule.expression)) & (excess > 1e-6)
        for row in np.flatnonzero(broken).tolist():
            if row not in worst or excess[row] > worst[row].excess:
                worst[row] = Contradiction(row, rule, float(excess[row]))
    return sorted(worst.values(), key=lambda found: (-found.excess, found.row))


def judge(
    affect: AffectSummary,
    found: list[Contradiction],
    expression: NDArray[np.int8],
    valence: NDArray[np.float32],
    arousal: NDArray[np.float32],
) -> Iterator[Finding]:
    """Yield the findings about valence and arousal."""
    n = len(expression)
    if not np.isfinite(valence).any() and not np.isfinite(arousal).any():
        yield TOPIC.info("no face has valence or arousal")
        return
    both = int(affect.n)
    if both < n:
        yield TOPIC.info(f"{counted(n - both, 'face')} of {n:,} without both values")
    with np.errstate(invalid="ignore"):
        outside = int(((np.abs(valence) > 1) | (np.abs(arousal) > 1)).sum())
    if outside:
        yield TOPIC.problem(
            f"{counted(outside, 'face')} with a value outside [-1, 1]; AffectNet writes -2 "
            "where there is no annotation"
        )
    yield TOPIC.info(f"exact zeros: {affect.zeros[0]:,} in valence, {affect.zeros[1]:,} in arousal")
    order = other_order(affect)
    if order:
        yield TOPIC.problem(
            "valence and arousal fit the expressions far better if the class numbers are "
            f"{order}'s order: the class order is wrong; ingest it again"
        )
    if found:
        yield TOPIC.warning(
            f"{counted(len(found), 'face')} ({percentage(len(found), both)}) whose valence or "
            "arousal contradicts the expression"
        )
    counts = np.bincount(
        [EXPRESSIONS.index(f.rule.expression) for f in found], minlength=N_EXPRESSIONS
    )
    many = np.flatnonzero((affect.class_n >= ENOUGH) & (counts > MANY * affect.class_n))
    if len(many):
        fractions = (
            f"{percentage(int(counts[i]), int(affect.class_n[i]))} of {EXPRESSIONS[i]}"
            for i in many
        )
        yield TOPIC.problem(
            f"{', '.join(fractions)} contradict their valence or arousal: too many to be "
            "mistakes of annotators; the class order or the labels are in doubt"
        )


def other_order(affect: AffectSummary) -> str | None:
    """Return the class order that the class means fit far better than AffectNet's, if any.

    The misfit of an order is the mean squared distance of the class means from the places in
    `CIRCUMPLEX` of the expressions that the order assigns to them. The misfit must be under half
    of AffectNet's, and five classes must have 20 rows or more.
    """
    enough = [i for i in range(N_EXPRESSIONS) if affect.class_n[i] >= ENOUGH]
    if len(enough) < 5:
        return None

    def misfit(order: tuple[str, ...]) -> float:
        if max(enough) >= len(order):
            return np.inf
        places = np.array([CIRCUMPLEX[order[i]] for i in enough])
        return float(((affect.class_mean[enough] - places) ** 2).sum(axis=1).mean())

    own = misfit(EXPRESSIONS)
    misfits = {name: misfit(order) for name, order in OTHER_ORDERS.items()}
    best = min(misfits, key=lambda name: misfits[name])
    return best if misfits[best] < own / 2 else None
