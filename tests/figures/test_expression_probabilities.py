import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from affectnet.evaluation.metrics import Calibration
from affectnet.figures import precision_recall_curves, reliability_diagram, roc_curves
from affectnet.figures.expression import precision_recall_points, roc_points
from affectnet.labels import EXPRESSIONS

COARSE = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


def curves(figure):
    """Expression -> the drawn points of its curve."""
    return {
        line.get_gid().removeprefix("curve-"): line.get_xydata().T
        for line in figure.axes[0].lines
        if str(line.get_gid()).startswith("curve-")
    }


def legend(figure):
    return [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


@given(st.lists(st.tuples(st.booleans(), COARSE), min_size=2, max_size=40))
def test_points_agree_with_sklearn_also_with_ties(pairs):
    positive = np.array([p for p, _ in pairs])
    score = np.array([s for _, s in pairs])
    if positive.any():
        area = precision_recall_points(positive, score)[2]
        assert area == pytest.approx(metrics.average_precision_score(positive, score))
    if positive.any() and not positive.all():
        fpr, tpr, area = roc_points(positive, score)
        assert area == pytest.approx(metrics.roc_auc_score(positive, score))
        known = metrics.roc_curve(positive, score, drop_intermediate=False)
        np.testing.assert_allclose(np.stack([fpr, tpr]), np.stack(known[:2]))


def test_roc_curves_enclose_the_areas_that_are_passed(scored):
    areas = {
        name: metrics.roc_auc_score(scored.truth == c, scored.probabilities[:, c])
        for c, name in enumerate(EXPRESSIONS)
    }
    figure = roc_curves(scored.truth, scored.probabilities, areas)
    drawn = curves(figure)
    assert list(drawn) == list(EXPRESSIONS)
    for name, (x, y) in drawn.items():
        assert metrics.auc(x, y) == pytest.approx(areas[name])
    assert legend(figure) == [f"{name}  {area:.3f}" for name, area in areas.items()]
    # Not passed, they are computed: the same.
    assert legend(roc_curves(scored.truth, scored.probabilities)) == legend(figure)


def test_precision_recall_curves_enclose_the_average_precision(scored):
    figure = precision_recall_curves(scored.truth, scored.probabilities)
    for (name, (x, y)), text in zip(curves(figure).items(), legend(figure), strict=True):
        c = EXPRESSIONS.index(name)
        known = metrics.average_precision_score(scored.truth == c, scored.probabilities[:, c])
        assert np.sum(np.diff(x) * y[1:]) == pytest.approx(known)
        assert text == f"{name}  {known:.3f}"


def test_absent_classes_have_no_curve(scored):
    two = np.isin(scored.truth, [0, 1])
    figure = roc_curves(scored.truth[two], scored.probabilities[two])
    assert list(curves(figure)) == ["neutral", "happiness"]
    assert legend(figure)[2:] == [f"{name}  (no face)" for name in EXPRESSIONS[2:]]


def test_one_class_has_no_roc_but_precision(scored):
    truth = np.zeros(10, np.int64)
    assert curves(roc_curves(truth, scored.probabilities[:10])) == {}
    assert list(curves(precision_recall_curves(truth, scored.probabilities[:10]))) == ["neutral"]


def test_no_labels_or_no_probabilities_give_a_message(scored):
    for figure in (
        roc_curves(np.full(5, -1), scored.probabilities[:5]),
        precision_recall_curves(scored.truth[:5], np.full((5, 8), np.nan)),
        reliability_diagram(np.array([]), np.array([])),
        reliability_diagram(np.full(3, np.nan), np.zeros(3)),
    ):
        assert "no face has both" in figure.axes[0].texts[0].get_text()


def test_reliability_agrees_with_the_calibration_error(scored):
    right = scored.preds == scored.truth
    figure = reliability_diagram(scored.confidence, right)
    bins = [row for row in Calibration(scored.truth, scored.probabilities).curve() if row["n"]]
    above, below = figure.axes
    dots = above.collections[-1].get_offsets()
    np.testing.assert_allclose(dots[:, 0], [row["confidence"] for row in bins])
    np.testing.assert_allclose(dots[:, 1], [row["accuracy"] for row in bins])
    assert sum(bar.get_height() for bar in below.patches) == len(right)
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / len(right)
    assert f"calibration error {error:.3f}" in above.get_title(loc="left")


def test_matches_the_stored_image(scored, same_as_stored):
    same_as_stored(roc_curves(scored.truth, scored.probabilities), "roc")
    same_as_stored(precision_recall_curves(scored.truth, scored.probabilities), "pr")
    right = scored.preds == scored.truth
    same_as_stored(reliability_diagram(scored.confidence, right), "reliability")
