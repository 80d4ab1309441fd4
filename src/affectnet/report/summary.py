"""The sentences of a report: the summary, findings for the model card, and alternative texts."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from affectnet.evaluation.comparison import compare
from affectnet.figures import confusion_counts
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import EvaluatedRun, ScoredFaces, baselines_of, mapping_of, metric_of

ACCURACY: Final = ("expression", "accuracy")
LEAVING_OUT: Final = ("max_per_class", "leaks", "without_contempt")  # settings of training
FEW: Final = 5  # with fewer faces nothing is said about calibration


def best_run(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """The run with the highest accuracy; where none has one, with the highest CCC of valence."""

    def rank(run: EvaluatedRun) -> list[float]:
        scores = (metric_of(run.metrics, *keys)[0] for keys in (ACCURACY, ("valence", "ccc")))
        return [-2.0 if score is None else score for score in scores]

    return max(runs, key=rank)


def summary_sentences(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The findings of a report, one to three sentences each, most important first."""
    best = best_run(runs)
    paragraphs = [_accuracy(best, alone=len(runs) == 1), _comparison(runs, best)]
    paragraphs += [
        describe(best) for describe in (_best_and_worst_class, _mistakes, _affect, _calibration)
    ]
    return [text for text in paragraphs if text]


def trained_on(run: EvaluatedRun) -> str:
    """How many faces a run was trained on, as a part of a sentence; empty where it is unknown.

    They are fewer than those of the dataset where a setting, which is then named, leaves some out.
    """
    counts = {split: sum(mapping_of(run.faces, split).values()) for split in run.faces}
    together = "train+val" in counts
    n = counts.get("train+val" if together else "train")
    if not n:
        return ""
    known = ((name, run.config.get(name)) for name in LEAVING_OUT)
    settings = ", ".join(f"{name} {v}" for name, v in known if v not in (None, False, "keep"))
    text = f"trained on {n:,} faces of the {'train and val splits' if together else 'train split'}"
    text += f" ({settings})" * bool(settings)
    if "val" in counts:
        text += f", and its best epoch chosen on {counts['val']:,} faces of the val split"
    return text


def _accuracy(run: EvaluatedRun, alone: bool) -> str:
    value, low, high = metric_of(run.metrics, *ACCURACY)
    if value is None:
        return f"{run.name} has no score for expression accuracy."
    subject = run.name if alone else f"{run.name}, the most accurate run,"
    n = int(run.predictions.labelled.sum())
    text = f"{subject} predicts the right expression for {percent(value)} of {n:,} faces"
    if low is not None and high is not None:
        text += f" (95% interval {percent(low)} to {percent(high)})"
    baseline = baseline_value(run.metrics, *ACCURACY)
    if baseline is not None:
        text += f"; always predicting the most frequent expression scores {percent(baseline)}"
        if value < baseline:
            text += ", which is better"
        elif low is not None and low <= baseline:
            text += ", which lies within the interval"
    return text + "."


def _comparison(runs: Sequence[EvaluatedRun], best: EvaluatedRun) -> str:
    """Whether the best run is better than the second on the same faces: `compare`'s verdict."""
    scored = [(metric_of(run.metrics, *ACCURACY)[0], run) for run in runs if run is not best]
    others = [(value, run) for value, run in scored if value is not None]
    if not others:
        return ""
    value, second = max(others, key=lambda pair: pair[0])
    text = f"The second best run is {second.name} with {percent(value)}"
    first, other = _labelled(best.predictions), _labelled(second.predictions)
    if set(first["id"]) != set(other["id"]):
        return f"{text}, but on other faces, so the two cannot be compared."
    names = (best.name, second.name)
    return f"{text}. {compare(first, first, other, names=names).verdict}"


def _labelled(preds: ScoredFaces) -> dict[str, Any]:
    """True and predicted expression of the faces that have both, for `compare`."""
    rows = np.flatnonzero(preds.labelled)
    return {
        "id": [preds.ids[row] for row in rows],
        "expression": preds.expression[rows],
        "expression_pred": preds.expression_pred[rows],
    }


def class_scores(metrics: dict[str, Any], metric: str) -> dict[str, float]:
    """The known values of a metric by expression."""
    return {
        name: value
        for name in EXPRESSIONS
        if (value := metric_of(metrics, "expression", "per_class", name, metric)[0]) is not None
    }


def _best_and_worst_class(run: EvaluatedRun) -> str:
    text, worst = best_and_worst_class(run.metrics)
    true = run.predictions.expression[run.predictions.labelled]
    faces = {name: int((true == EXPRESSIONS.index(name)).sum()) for name in worst}
    rare = [f"{n:,} show {name}" for name, n in faces.items() if 0 < n <= 0.06 * len(true)]
    return f"{text} Of the faces, only {listed(rare)}." if rare else text


def best_and_worst_class(metrics: dict[str, Any]) -> tuple[str, list[str]]:
    """A sentence on the expressions with the highest and lowest F1, and the names of the lowest."""
    scores = class_scores(metrics, "f1")
    if len(scores) < 2:
        return "", []
    best, worst = max(scores.values()), min(scores.values())
    if best == worst:
        return f"The F1 of every expression is {best:.3f}.", []
    lowest = [name for name, value in scores.items() if value == worst]
    highest = listed([name for name, value in scores.items() if value == best])
    text = f"It recognises {highest} best (F1 {best:.3f}) and {listed(lowest)} worst"
    return f"{text} (F1 {worst:.3f}).", lowest


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; at least one name."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _mistakes(run: EvaluatedRun) -> str:
    preds = run.predictions
    worst = mistake_texts(confusion_counts(preds.expression, preds.expression_pred), EXPRESSIONS)
    return f"Most frequent mistake{'s' * (len(worst) > 1)}: {', '.join(worst)}." if worst else ""


def mistake_texts(confusion: Any, classes: Sequence[str], most: int = 3) -> list[str]:
    """The largest wrong cells of a confusion matrix, true classes as rows, in words."""
    return [
        f"{classes[i]} predicted as {classes[j]} ({n:,} of {total:,})"
        for i, j, n, total in commonest_mistakes(np.asarray(confusion), most)
    ]


def commonest_mistakes(counts: NDArray[Any], most: int) -> list[tuple[int, int, int, int]]:
    """The largest wrong cells: true class, predicted class, faces, faces of the true class."""
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [(i, j, int(wrong[i, j]), int(totals[i])) for i, j in cells if wrong[i, j] > 0]


def _affect(run: EvaluatedRun) -> str:
    sentences = []
    for name in ("valence", "arousal"):
        ccc = metric_of(run.metrics, name, "ccc")[0]
        rmse = metric_of(run.metrics, name, "rmse")[0]
        if rmse is None:
            continue
        text = f"The RMSE of {name} is {rmse:.2f} on a scale from -1 to 1"
        constant = baseline_value(run.metrics, name, "rmse")
        if constant is not None:
            relation = "not better than" if rmse >= constant else "compared with"
            text += f", {relation} {constant:.2f} for always predicting the mean"
        if ccc is not None:
            text += f"; the concordance with the annotation (CCC) is {ccc:.2f}"
        sentences.append(text + ".")
    if not sentences:
        return f"No face has annotated valence and arousal on which {run.name} could be scored."
    return " ".join(sentences)


def _calibration(run: EvaluatedRun) -> str:
    preds = run.predictions
    usable = preds.labelled & np.isfinite(preds.confidence)
    if usable.sum() < FEW:
        return ""
    confidence = float(preds.confidence[usable].mean())
    accuracy = float(preds.right[usable].mean())
    gap = confidence - accuracy
    verdict = (
        "the confidence matches the accuracy"
        if abs(gap) < 0.03
        else f"the model is {'over' if gap > 0 else 'under'}confident"
    )
    return (
        f"Its mean confidence is {percent(confidence)}, and {percent(accuracy)} of its predictions "
        f"are right: {verdict}."
    )


def card_findings(metrics: dict[str, Any]) -> list[str]:
    """Best and worst expression, commonest mistakes and worst slices, for the model card."""
    ends, _ = best_and_worst_class(metrics)
    sentences = [ends] if ends else []
    block = mapping_of(metrics, "expression")
    if block.get("confusion") and block.get("classes"):
        mistakes = mistake_texts(block["confusion"], block["classes"])
        if mistakes:
            sentences.append(f"Most frequent errors: {', '.join(mistakes)}.")
    for column, found in mapping_of(metrics, "slices").items():
        if column == "duplicates":  # its table states both
            continue
        if slice_ := found.get("worst"):
            sentences.append(
                f"By {column}, the worst slice is {slice_['slice']}: {slice_['by']} "
                f"{slice_['value']:.3f} over {slice_['n']:,} faces."
            )
    return sentences


def protocol_sentences(metrics: dict[str, Any]) -> str:
    """How the metrics were computed: intervals, the rule of SAGR at zero, versions."""
    protocol = mapping_of(metrics, "protocol")
    sentences = []
    if protocol.get("resamples"):
        sentences.append(
            f"Intervals: {interval_level(metrics)}, {protocol.get('interval')} bootstrap over "
            f"faces, {protocol['resamples']:,} resamples, seed {protocol.get('seed')}."
        )
    if protocol.get("zero_rule"):
        sentences.append(f"SAGR at zero: rule '{protocol['zero_rule']}'.")
    versions = ", ".join(
        f"{name} {version}" for name, version in mapping_of(protocol, "versions").items()
    )
    if versions:
        sentences.append(f"Scored with {versions}.")
    return " ".join(sentences)


def interval_level(metrics: dict[str, Any]) -> str:
    """The level of the intervals, as `95%`."""
    level = mapping_of(metrics, "protocol").get("level")
    return f"{100 * level:g}%" if isinstance(level, float) else "95%"


def baseline_value(metrics: dict[str, Any], *keys: str) -> float | None:
    """The value at `keys` of the first baseline that has one."""
    values = (metric_of(block, *keys)[0] for _, block in baselines_of(metrics))
    return next((value for value in values if value is not None), None)


def percent(fraction: float) -> str:
    """`0.7234` as `72.3%`."""
    return f"{100 * fraction:.1f}%"


def alt_confusion(run: EvaluatedRun) -> str:
    """Alternative text of the confusion matrix: the recall of each expression."""
    preds = run.predictions
    counts = confusion_counts(preds.expression, preds.expression_pred)
    totals = counts.sum(axis=1)
    recalls = [
        f"{name} {100 * counts[i, i] / totals[i]:.0f}%"
        for i, name in enumerate(EXPRESSIONS)
        if totals[i]
    ]
    if not recalls:
        return "Confusion matrix without faces."
    n = int(preds.labelled.sum())
    return f"Confusion matrix of {n:,} faces. Recall of each expression: {', '.join(recalls)}."


def alt_areas(run: EvaluatedRun, kind: str, metric: str) -> str:
    """Alternative text of ROC or precision-recall curves: the area of each."""
    areas = [f"{name} {area:.2f}" for name, area in class_scores(run.metrics, metric).items()]
    return f"{kind} of each expression against the rest. Areas: {', '.join(areas) or 'none'}."


def alt_affect(run: EvaluatedRun, content: str) -> str:
    """Alternative text of a figure of valence and arousal: its content and both CCCs."""
    cccs = [
        f"CCC of {name} {value:.2f}"
        for name in ("valence", "arousal")
        if (value := metric_of(run.metrics, name, "ccc")[0]) is not None
    ]
    return f"{content} {', '.join(cccs)}." if cccs else content


def alt_history(runs: Sequence[EvaluatedRun]) -> str:
    """Alternative text of the learning curves: the best epoch of each run."""
    bests = []
    for run in runs:
        accuracy = run.history.get("val_accuracy", np.full(0, np.nan))
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            bests.append(
                f"{run.name} reaches its best validation accuracy, {percent(accuracy[best])}, "
                f"in epoch {int(run.history['epoch'][best]) + 1} of {len(accuracy)}"
            )
    text = "Loss, accuracy and CCC over the epochs."
    return f"{text} {'; '.join(bests)}." if bests else text
