"""The figures of a run with their titles and alternative texts: for the page, and as files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from affectnet import figures
from affectnet.labels import EXPRESSIONS
from affectnet.report import summary as words
from affectnet.report.runs import EvaluatedRun, ScoredFaces, figure_of
from affectnet.report.samples import FaceSource, fair_sample, most_confident

GALLERY_FACES = 18
NO_EXPRESSION = "no face has both a true and a predicted expression"
NO_PROBABILITIES = "the predictions hold no class probabilities"
NO_AFFECT = "no face has annotated and predicted valence and arousal"


@dataclass(frozen=True)
class Drawing:
    """A figure yet to be drawn.

    Attributes:
        name: of its file, and of its anchor in the page.
        caption: how to read it, a sentence or two.
        alt: what it shows, for who cannot see it.
        missing: why it cannot show anything; empty where it can.
        wide: fills the width of a page, having several panels.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    missing: str = ""
    wide: bool = False


def run_drawings(run: EvaluatedRun) -> list[Drawing]:
    """All figures that a run's predictions give, those without data among them."""
    return [*_of_expression(run), *_of_affect(run)]


def _of_expression(run: EvaluatedRun) -> list[Drawing]:
    p = run.predictions
    scored = p.labelled & np.isfinite(p.probabilities).all(axis=1)
    no_labels = "" if p.labelled.any() else NO_EXPRESSION
    no_curves = no_labels or ("" if scored.any() else NO_PROBABILITIES)
    k = len(run.classes)
    counts = figures.confusion_counts(p.expression, p.expression_pred)[:k, :k]
    truth, probabilities = p.expression[scored], p.probabilities[scored][:, :k]
    return [
        Drawing(
            "confusion",
            "Which expression is taken for which",
            "A row is a true expression and adds up to 100%; the small number counts faces.",
            words.alt_confusion(run),
            lambda: figures.confusion_matrix(counts),
            no_labels,
        ),
        Drawing(
            "reliability",
            "Can its confidence be trusted?",
            "Points under the dotted line: surer than right. Below: how often each confidence is "
            "given.",
            "Reliability diagram: share of right answers over confidence.",
            lambda: figures.reliability_diagram(
                probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
            ),
            no_curves,
        ),
        Drawing(
            "roc",
            "ROC curves",
            "One expression against all others; the dotted line is chance.",
            words.alt_areas(run, "ROC curve", "auc_roc"),
            lambda: figures.roc_curves(truth, probabilities, areas_of(run, "auc_roc")),
            no_curves,
        ),
        Drawing(
            "precision-recall",
            "Precision and recall",
            "How clean the answers stay as more of an expression is found.",
            words.alt_areas(run, "Precision-recall curve", "auc_pr"),
            lambda: figures.precision_recall_curves(truth, probabilities, areas_of(run, "auc_pr")),
            no_curves,
        ),
    ]


def areas_of(run: EvaluatedRun, figure: str) -> dict[str, float | None] | None:
    """The areas by class that metrics.json has; None where it has none."""
    areas = {
        name: figure_of(run.metrics, "expression", "per_class", name, figure)[0]
        for name in EXPRESSIONS
    }
    return areas if any(area is not None for area in areas.values()) else None


def _of_affect(run: EvaluatedRun) -> list[Drawing]:
    p = run.predictions
    truth = (p.valence, p.arousal)
    preds = (p.valence_pred, p.arousal_pred)
    both = figures.known(*truth, *preds)
    either = [figures.known(t, q).any() for t, q in zip(truth, preds, strict=True)]
    placed = figures.known(*preds).any()
    return [
        Drawing(
            "circumplex",
            "Where it puts the faces",
            "A dot is a face at its predicted valence and arousal, coloured by true expression.",
            words.alt_affect(run, "Predicted valence and arousal of each face on the circumplex."),
            lambda: figures.affect_scatter(p.expression, *truth, *preds),
            "" if placed else NO_AFFECT,
        ),
        Drawing(
            "residuals",
            "Which way it errs",
            "Arrows lead from where faces are annotated to where the model puts them, on average. "
            "Arrows to the middle: a model that plays safe.",
            words.alt_affect(run, "Mean arrows from annotated to predicted valence and arousal."),
            lambda: figures.residual_arrows(*truth, *preds),
            "" if both.any() else NO_AFFECT,
        ),
        Drawing(
            "predicted-true",
            "Predicted against annotated",
            "The fuller the shade, the more faces. On the dotted line the prediction is perfect.",
            words.alt_affect(run, "Predicted over annotated valence, and arousal."),
            lambda: figures.predicted_against_true(*truth, *preds),
            "" if any(either) else NO_AFFECT,
            wide=True,
        ),
        Drawing(
            "regions",
            "Where on the circumplex it errs most",
            "The fuller the shade, the worse: a higher RMSE, a lower CCC. Within one region the "
            "annotation varies little, so CCC is lower than over all faces. Fewer than five faces: "
            "blank.",
            words.alt_affect(run, "RMSE and CCC in 17 regions of the circumplex."),
            lambda: figures.error_by_region(*truth, *preds),
            "" if both.any() else NO_AFFECT,
            wide=True,
        ),
    ]


def truth_drawing(run: EvaluatedRun) -> Drawing:
    """Where the annotations of the run's faces lie, the same for all runs on these faces."""
    p = run.predictions
    n = int(figures.known(p.valence, p.arousal).sum())
    return Drawing(
        "annotations",
        "Where the annotated faces lie",
        "The fuller the shade, the more faces. An ellipse reaches one standard deviation from the "
        "mean of its expression.",
        f"Density of {n:,} annotated faces on the circumplex, with an ellipse an expression.",
        lambda: figures.affect_density(p.valence, p.arousal, p.expression),
        "" if n else "no face has annotated valence and arousal",
    )


def history_drawing(runs: Sequence[EvaluatedRun]) -> Drawing:
    """How training went, all runs in one figure."""
    histories = {run.name: run.history for run in runs if len(run.history.get("epoch", ()))}
    return Drawing(
        "learning-curves",
        "Epoch by epoch",
        "Solid: validation, with a mark at its best. Dashed: training.",
        words.alt_history(runs),
        lambda: figures.learning_curves(histories),
        "" if histories else "no run has a metrics.csv with epochs",
        wide=True,
    )


def gallery_drawings(run: EvaluatedRun, source: FaceSource, titled: bool = True) -> list[Drawing]:
    """The most confidently right and wrong faces, and some of each expression.

    `titled` writes the title into the figure too, for a file that stands alone.
    """
    p = run.predictions
    drawings = []
    for kind, title in (("wrong", "Most confidently wrong"), ("right", "Most confidently right")):
        rows = most_confident(p, "wrong" if kind == "wrong" else "right", GALLERY_FACES)
        missing = source.problem or ("" if len(rows) else f"no face is {kind}")
        drawings.append(
            Drawing(
                f"most-confidently-{kind}",
                title,
                "",
                f"{title} faces of {run.name}.",
                _gallery(p, rows, source, title if titled else ""),
                missing,
            )
        )
    return [*drawings, sample_drawing(run, source)]


def sample_drawing(run: EvaluatedRun, source: FaceSource, each: int = 6) -> Drawing:
    """Some faces of each true expression, chosen by id: telling nothing of the model."""
    p = run.predictions
    order = fair_sample(p, len(p))
    rows = [order[p.expression[order] == c][:each] for c in range(len(run.classes))]

    def draw() -> Figure:
        images = [[source.pixels(p.ids[row]) for row in own] for own in rows]
        return figures.sample_grid([[one for one in own if one is not None] for own in images])

    return Drawing(
        "samples",
        "Faces of each expression",
        "Chosen at random, by what they are annotated as.",
        f"{each} faces of each annotated expression.",
        draw,
        source.problem,
    )


def _gallery(
    p: ScoredFaces, rows: np.ndarray, source: FaceSource, title: str
) -> Callable[[], Figure]:
    return lambda: figures.gallery(
        [source.pixels(p.ids[row]) for row in rows],
        p.expression[rows],
        p.expression_pred[rows],
        p.confidence[rows],
        np.stack([p.valence[rows], p.arousal[rows]], axis=1),
        np.stack([p.valence_pred[rows], p.arousal_pred[rows]], axis=1),
        title=title,
    )
