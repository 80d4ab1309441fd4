"""What a run's figures say, in plain words: the summary, and the alternative texts of figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from affectnet.evaluation.comparison import mcnemar
from affectnet.figures import confusion_counts
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import EvaluatedRun, ScoredFaces, figure_of
from affectnet.report.tables import baselines_of

FEW = 5


def best_run(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """The run of the highest accuracy; where none is scored, of the highest CCC of valence."""

    def merit(run: EvaluatedRun) -> tuple[float, float]:
        accuracy = figure_of(run.metrics, "expression", "accuracy")[0]
        ccc = figure_of(run.metrics, "valence", "ccc")[0]
        return (
            -1.0 if accuracy is None else accuracy,
            -2.0 if ccc is None else ccc,
        )

    return max(runs, key=merit)


def summary(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The findings of a report, a sentence or three each, most important first."""
    best = best_run(runs)
    said = [_accuracy(best, alone=len(runs) == 1), _comparison(runs, best)]
    said += [_classes(best), _mistakes(best), _affect(best), _calibration(best)]
    return [one for one in said if one]


def _accuracy(run: EvaluatedRun, alone: bool) -> str:
    value, low, high = figure_of(run.metrics, "expression", "accuracy")
    n = int(run.predictions.labelled.sum())
    if value is None:
        return f"No expression accuracy is scored for {run.name}."
    who = run.name if alone else f"{run.name}, the most accurate run,"
    text = f"{who} names the expression of {per_cent(value)} of {n:,} faces"
    if low is not None and high is not None:
        text += f" (95% interval {per_cent(low)} to {per_cent(high)})"
    guess = baseline_value(run.metrics, "expression", "accuracy")
    if guess is not None:
        text += f"; always giving the commonest answer would be right for {per_cent(guess)}"
        if value < guess:
            text += ", which is better than this"
        elif low is not None and low <= guess:
            text += ", which the interval does not exclude"
    return text + "."


def _comparison(runs: Sequence[EvaluatedRun], best: EvaluatedRun) -> str:
    """Whether the best run is better than the next, by McNemar's test on the same faces."""
    others = [
        (value, run)
        for run in runs
        if run is not best
        and (value := figure_of(run.metrics, "expression", "accuracy")[0]) is not None
    ]
    if not others or figure_of(best.metrics, "expression", "accuracy")[0] is None:
        return ""
    value, second = max(others, key=lambda pair: pair[0])
    text = f"Next comes {second.name} with {per_cent(value)}"
    mine, theirs = _right_by_id(best.predictions), _right_by_id(second.predictions)
    if mine.keys() != theirs.keys():
        return f"{text}, but on other faces, so the two cannot be compared."
    test = mcnemar(np.array(list(mine.values())), np.array([theirs[face] for face in mine]))
    if test is None or test["only_a"] + test["only_b"] == 0:
        return f"{text}; the two are right on the same faces."
    p = test["p_exact"]
    verdict = (
        "more than chance would give"
        if p < 0.05
        else "no more than chance would give, so these faces do not settle which is better"
    )
    return (
        f"{text}. Of the faces that only one of the two gets right, {test['only_a']:,} go to "
        f"{best.name} and {test['only_b']:,} to {second.name}: {verdict} "
        f"(McNemar's test, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})."
    )


def _right_by_id(preds: ScoredFaces) -> dict[str, bool]:
    return {preds.ids[row]: bool(preds.right[row]) for row in np.flatnonzero(preds.labelled)}


def _classes(run: EvaluatedRun) -> str:
    scores = {
        name: value
        for name in EXPRESSIONS
        if (value := figure_of(run.metrics, "expression", "per_class", name, "f1")[0]) is not None
    }
    if len(scores) < 2:
        return ""
    ranked = sorted(scores, key=lambda name: -scores[name])
    return (
        f"It knows {ranked[0]} best (F1 {scores[ranked[0]]:.2f}) and {ranked[-1]} least "
        f"(F1 {scores[ranked[-1]]:.2f}). " + _support(run, ranked[-1])
    ).strip()


def _support(run: EvaluatedRun, name: str) -> str:
    own = run.predictions.expression[run.predictions.labelled] == EXPRESSIONS.index(name)
    if own.sum() == 0 or own.mean() > 0.06:
        return ""
    return f"Only {int(own.sum()):,} of the faces show {name}."


def _mistakes(run: EvaluatedRun) -> str:
    worst = commonest_mistakes(run.predictions, 3)
    if not worst:
        return ""
    parts = [
        f"{EXPRESSIONS[i]} taken for {EXPRESSIONS[j]} ({n:,} of {of:,})" for i, j, n, of in worst
    ]
    return f"Its commonest mistake{'s' if len(parts) > 1 else ''}: {', '.join(parts)}."


def commonest_mistakes(preds: ScoredFaces, most: int) -> list[tuple[int, int, int, int]]:
    """The largest wrong cells: true class, predicted class, faces, faces of the true class."""
    counts = confusion_counts(preds.expression, preds.expression_pred)
    support = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(one), len(EXPRESSIONS)) for one in order]
    return [(i, j, int(wrong[i, j]), int(support[i])) for i, j in cells if wrong[i, j] > 0]


def _affect(run: EvaluatedRun) -> str:
    said = []
    for name in ("valence", "arousal"):
        ccc = figure_of(run.metrics, name, "ccc")[0]
        rmse = figure_of(run.metrics, name, "rmse")[0]
        if rmse is None:
            continue
        text = f"{name.capitalize()} is off by {rmse:.2f} (RMSE, on a scale from -1 to 1)"
        constant = baseline_value(run.metrics, name, "rmse")
        if constant is not None:
            verdict = "no better than" if rmse >= constant else "against"
            text += f", {verdict} {constant:.2f} for always answering the mean"
        if ccc is not None:
            text += f"; its concordance with the annotation (CCC) is {ccc:.2f}"
        said.append(text + ".")
    if not said:
        return f"No face has annotated valence and arousal that {run.name} could be scored on."
    return " ".join(said)


def _calibration(run: EvaluatedRun) -> str:
    preds = run.predictions
    usable = preds.labelled & np.isfinite(preds.confidence)
    if usable.sum() < FEW:
        return ""
    sure, right = float(preds.confidence[usable].mean()), float(preds.right[usable].mean())
    gap = sure - right
    verdict = (
        "its confidence is about as high as it should be"
        if abs(gap) < 0.03
        else f"it is {'over' if gap > 0 else 'under'}confident"
    )
    return f"On average it is {per_cent(sure)} sure and {per_cent(right)} right: {verdict}."


def baseline_value(metrics: dict[str, Any], *keys: str) -> float | None:
    """The score of the first baseline that has it."""
    for _, block in baselines_of(metrics):
        value = figure_of(block, *keys)[0]
        if value is not None:
            return value
    return None


def per_cent(share: float) -> str:
    """`0.7234` as `72.3%`."""
    return f"{100 * share:.1f}%"


def alt_confusion(run: EvaluatedRun) -> str:
    """What the confusion matrix shows."""
    preds = run.predictions
    n = int(preds.labelled.sum())
    counts = confusion_counts(preds.expression, preds.expression_pred)
    support = counts.sum(axis=1)
    shares = [
        f"{name} {100 * counts[i, i] / support[i]:.0f}%"
        for i, name in enumerate(EXPRESSIONS)
        if support[i]
    ]
    if not shares:
        return "Confusion matrix without faces."
    return f"Confusion matrix of {n:,} faces. Share of each expression found: {', '.join(shares)}."


def alt_areas(run: EvaluatedRun, kind: str, figure: str) -> str:
    """What the ROC or precision-recall curves show."""
    areas = [
        f"{name} {value:.2f}"
        for name in EXPRESSIONS
        if (value := figure_of(run.metrics, "expression", "per_class", name, figure)[0]) is not None
    ]
    return f"{kind} of each expression against the rest. Areas: {', '.join(areas) or 'none'}."


def alt_affect(run: EvaluatedRun, what: str) -> str:
    """What a figure of valence and arousal shows, with the two CCCs."""
    parts = [
        f"CCC of {name} {value:.2f}"
        for name in ("valence", "arousal")
        if (value := figure_of(run.metrics, name, "ccc")[0]) is not None
    ]
    return f"{what} {', '.join(parts)}.".replace(" .", "")


def alt_history(runs: Sequence[EvaluatedRun]) -> str:
    """What the learning curves show."""
    said = []
    for run in runs:
        accuracy = run.history.get("val_accuracy", np.full(0, np.nan))
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            said.append(
                f"{run.name} reaches its best validation accuracy, {per_cent(accuracy[best])}, "
                f"in epoch {int(run.history['epoch'][best]) + 1} of {len(accuracy)}"
            )
    return f"Loss, accuracy and CCC over the epochs. {'; '.join(said)}."
