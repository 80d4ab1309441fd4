"""The figures of a run, with titles, captions and alternative texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from affectnet import figures
from affectnet.errors import AffectNetError
from affectnet.labels import EXPRESSIONS
from affectnet.report import summary
from affectnet.report.runs import EvaluatedRun
from affectnet.report.samples import VERDICTS, FaceSource, Verdict, fair_sample, most_confident

GALLERY_FACES: Final = 18
NO_EXPRESSION: Final = "no face has both a true and a predicted expression"
NO_PROBABILITIES: Final = "the predictions contain no class probabilities"
NO_AFFECT: Final = "no face has annotated and predicted valence and arousal"


@dataclass(frozen=True)
class RunFigure:
    """A figure that is drawn on request.

    Attributes:
        name: name of its file and of its anchor in the page.
        caption: how to read it, in one or two sentences.
        alt: alternative text.
        missing: why it cannot be drawn; empty where it can.
        wide: whether it has several panels and fills the width of a page.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    missing: str = ""
    wide: bool = False

    def draw_or_reason(self) -> tuple[Figure | None, str]:
        """The drawn figure and an empty string, or None and a line that says why."""
        if self.missing:
            return None, f"{self.title}: {self.missing}"
        try:
            return self.draw(), ""
        except AffectNetError as error:
            # One figure that fails must not prevent the others.
            return None, f"{self.title}: {error}"


def figures_of_run(run: EvaluatedRun) -> list[RunFigure]:
    """All figures of a run's predictions, including those that lack data."""
    return [*_expression_figures(run), *_affect_figures(run)]


def _expression_figures(run: EvaluatedRun) -> list[RunFigure]:
    p = run.predictions
    scored = p.labelled & np.isfinite(p.probabilities).all(axis=1)
    no_labels = "" if p.labelled.any() else NO_EXPRESSION
    no_curves = no_labels or ("" if scored.any() else NO_PROBABILITIES)
    k = len(run.classes)
    counts = figures.confusion_counts(p.expression, p.expression_pred)[:k, :k]
    truth, probabilities = p.expression[scored], p.probabilities[scored][:, :k]
    return [
        RunFigure(
            "confusion",
            "Confusion matrix",
            "Each row is a true expression and sums to 100%; the small numbers count faces.",
            summary.alt_confusion(run),
            lambda: figures.confusion_matrix(counts),
            no_labels,
        ),
        RunFigure(
            "reliability",
            "Calibration",
            "Below the dotted line the model is overconfident. Bottom: how often each confidence "
            "occurs.",
            "Reliability diagram: accuracy over confidence.",
            lambda: figures.reliability_diagram(
                probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
            ),
            no_curves,
        ),
        RunFigure(
            "roc",
            "ROC curves",
            "Each expression against all others; the dotted line is chance.",
            summary.alt_areas(run, "ROC curve", "auc_roc"),
            lambda: figures.roc_curves(truth, probabilities, areas_of(run, "auc_roc")),
            no_curves,
        ),
        RunFigure(
            "precision-recall",
            "Precision-recall curves",
            "Each expression against all others.",
            summary.alt_areas(run, "Precision-recall curve", "auc_pr"),
            lambda: figures.precision_recall_curves(truth, probabilities, areas_of(run, "auc_pr")),
            no_curves,
        ),
    ]


def areas_of(run: EvaluatedRun, metric: str) -> dict[str, float | None] | None:
    """The area of each expression's curve as metrics.json has it; None where it has none."""
    areas = summary.class_scores(run.metrics, metric)
    return dict.fromkeys(EXPRESSIONS) | areas if areas else None


def _affect_figures(run: EvaluatedRun) -> list[RunFigure]:
    p = run.predictions
    truth = (p.valence, p.arousal)
    preds = (p.valence_pred, p.arousal_pred)
    both = figures.known(*truth, *preds)
    either = [figures.known(t, q).any() for t, q in zip(truth, preds, strict=True)]
    placed = figures.known(*preds).any()
    return [
        RunFigure(
            "circumplex",
            "Predicted valence and arousal",
            "Each dot is a face at its predicted valence and arousal, coloured by true expression.",
            summary.alt_affect(
                run, "Predicted valence and arousal of each face on the circumplex."
            ),
            lambda: figures.affect_scatter(p.expression, *truth, *preds),
            "" if placed else NO_AFFECT,
        ),
        RunFigure(
            "residuals",
            "Direction of the error in valence and arousal",
            "Arrows point from annotated to mean predicted valence and arousal. Arrows towards the "
            "centre: the predictions are too close to the mean.",
            summary.alt_affect(run, "Mean arrows from annotated to predicted valence and arousal."),
            lambda: figures.residual_arrows(*truth, *preds),
            "" if both.any() else NO_AFFECT,
        ),
        RunFigure(
            "predicted-true",
            "Predicted against annotated values",
            "Stronger shading means more faces. On the dotted line the prediction is exact.",
            summary.alt_affect(run, "Predicted over annotated valence, and arousal."),
            lambda: figures.predicted_against_true(*truth, *preds),
            "" if any(either) else NO_AFFECT,
            wide=True,
        ),
        RunFigure(
            "regions",
            "Error by region of the circumplex",
            "Stronger shading means a larger error: a higher RMSE, a lower CCC. The annotation "
            "varies little within a region, so its CCC is lower than that over all faces. Regions "
            "with fewer than five faces are blank.",
            summary.alt_affect(run, "RMSE and CCC in 17 regions of the circumplex."),
            lambda: figures.error_by_region(*truth, *preds),
            "" if both.any() else NO_AFFECT,
            wide=True,
        ),
    ]


def annotation_figure(run: EvaluatedRun) -> RunFigure:
    """The distribution of the annotations, which is the same for all runs on these faces."""
    p = run.predictions
    n = int(figures.known(p.valence, p.arousal).sum())
    return RunFigure(
        "annotations",
        "Distribution of annotated valence and arousal",
        "Stronger shading means more faces. Each ellipse reaches one standard deviation from the "
        "mean of its expression.",
        f"Density of {n:,} annotated faces on the circumplex, with one ellipse per expression.",
        lambda: figures.affect_density(p.valence, p.arousal, p.expression),
        "" if n else "no face has annotated valence and arousal",
    )


def history_figure(runs: Sequence[EvaluatedRun]) -> RunFigure:
    """The learning curves of all runs in one figure."""
    histories = {run.name: run.history for run in runs if len(run.history.get("epoch", ()))}
    return RunFigure(
        "learning-curves",
        "Learning curves",
        "Solid: validation, with a mark at the best epoch. Dashed: training.",
        summary.alt_history(runs),
        lambda: figures.learning_curves(histories),
        "" if histories else "no run has a metrics.csv with epochs",
        wide=True,
    )


def gallery_figures(run: EvaluatedRun, source: FaceSource, titled: bool = True) -> list[RunFigure]:
    """The most confidently wrong faces and the most confidently right ones.

    `titled` writes the title into the figure, for files that stand alone.
    """
    return [_gallery_figure(run, source, verdict, titled) for verdict in VERDICTS]


def _gallery_figure(
    run: EvaluatedRun, source: FaceSource, verdict: Verdict, titled: bool
) -> RunFigure:
    p = run.predictions
    rows = most_confident(p, verdict, GALLERY_FACES)
    title = f"Most confidently {verdict}"
    return RunFigure(
        f"most-confidently-{verdict}",
        title,
        "",
        f"{title} faces of {run.name}.",
        lambda: figures.gallery(
            [source.pixels(p.ids[row]) for row in rows],
            p.expression[rows],
            p.expression_pred[rows],
            p.confidence[rows],
            np.stack([p.valence[rows], p.arousal[rows]], axis=1),
            np.stack([p.valence_pred[rows], p.arousal_pred[rows]], axis=1),
            title=title if titled else "",
        ),
        source.problem or ("" if len(rows) else f"no face is {verdict}"),
    )


def sample_figure(run: EvaluatedRun, source: FaceSource, each: int = 6) -> RunFigure:
    """Random faces of each true expression, chosen by id and independent of the model."""
    p = run.predictions
    order = fair_sample(p, len(p))
    rows = [order[p.expression[order] == c][:each] for c in range(len(run.classes))]

    def draw() -> Figure:
        images = [[source.pixels(p.ids[row]) for row in own] for own in rows]
        return figures.sample_grid([[one for one in own if one is not None] for own in images])

    return RunFigure(
        "samples",
        "Faces of each expression",
        "Random faces by annotated expression.",
        f"{each} faces of each annotated expression.",
        draw,
        source.problem,
    )
