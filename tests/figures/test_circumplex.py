import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Ellipse

from affectnet.figures import affect_density, affect_scatter, residual_arrows
from affectnet.figures.circumplex import LIMIT, ellipse_of, mean_residuals, place_labels
from affectnet.labels import EXPRESSIONS


def ellipses(figure):
    return {
        patch.get_gid().removeprefix("ellipse-"): patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Ellipse) and str(patch.get_gid()).startswith("ellipse-")
    }


def test_density_has_one_ellipse_per_class_at_its_mean(scored):
    figure = affect_density(*scored.affect.T, scored.truth)
    drawn = ellipses(figure)
    assert list(drawn) == list(EXPRESSIONS)
    for c, name in enumerate(EXPRESSIONS):
        own = scored.affect[scored.truth == c]
        np.testing.assert_allclose(drawn[name].get_center(), own.mean(axis=0))
        # The area of an ellipse of one standard deviation is pi times the root of |covariance|.
        area = np.pi * drawn[name].width * drawn[name].height / 4
        assert area == pytest.approx(np.pi * np.sqrt(np.linalg.det(np.cov(own.T, bias=True))))


def test_ellipse_lies_along_the_spread():
    t = np.linspace(-1, 1, 21)
    long, short, tilt = ellipse_of(np.stack([t, t]))
    assert short == pytest.approx(0, abs=1e-7)
    assert long == pytest.approx(np.sqrt(2 * t.var()))
    assert tilt % 180 == pytest.approx(45)


def test_scatter_marks_the_annotated_and_predicted_means(scored):
    figure = affect_scatter(scored.truth, *scored.affect.T, *scored.affect_pred.T)
    dots = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(dots, scored.affect_pred)
    happy = scored.truth == 1
    ends = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xydata()) == 2]
    expected = np.stack([scored.affect[happy].mean(axis=0), scored.affect_pred[happy].mean(axis=0)])
    assert any(np.allclose(pair, expected) for pair in ends)


def test_scatter_draws_a_sample_of_many_points_but_the_means_of_all():
    n = 10_000
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (4, n))
    first = affect_scatter(np.zeros(n, int), *points)
    again = affect_scatter(np.zeros(n, int), *points)
    dots = first.axes[0].collections[0].get_offsets()
    assert len(dots) == 2500
    np.testing.assert_array_equal(dots, again.axes[0].collections[0].get_offsets())


def test_residual_arrows_run_from_mean_annotation_to_mean_prediction(scored):
    start, end, faces = mean_residuals(*scored.affect.T, *scored.affect_pred.T, 9)
    assert faces.sum() == len(scored.truth)
    np.testing.assert_allclose(np.average(start, axis=0, weights=faces), scored.affect.mean(axis=0))
    np.testing.assert_allclose(
        np.average(end, axis=0, weights=faces), scored.affect_pred.mean(axis=0)
    )
    figure = residual_arrows(*scored.affect.T, *scored.affect_pred.T)
    arrows = [text for text in figure.axes[0].texts if text.arrow_patch is not None]
    full = faces >= 5
    assert len(arrows) == full.sum()
    np.testing.assert_allclose([arrow.xy for arrow in arrows], end[full])


@pytest.mark.parametrize("rows", [0, 1, 2, 10])
def test_few_or_no_faces_still_draw(scored, rows):
    truth, affect, preds = scored.truth[:rows], scored.affect[:rows], scored.affect_pred[:rows]
    for figure in (
        affect_density(*affect.T, truth),
        affect_scatter(truth, *affect.T, *preds.T),
        residual_arrows(*affect.T, *preds.T),
    ):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert any("no face" in text for text in texts) == (rows == 0)


def test_missing_values_are_left_out(scored):
    affect = scored.affect.copy()
    affect[::2, 0] = np.nan
    figure = affect_density(*affect.T, scored.truth)
    own = scored.affect[1::2][scored.truth[1::2] == 0]
    np.testing.assert_allclose(ellipses(figure)["neutral"].get_center(), own.mean(axis=0))
    nothing = np.full(5, np.nan)
    for empty in (
        affect_density(nothing, nothing, np.zeros(5, int)),
        affect_scatter(np.zeros(5, int), nothing, nothing, nothing, nothing),
        residual_arrows(nothing, nothing, nothing, nothing),
    ):
        assert "no face has" in empty.axes[0].texts[-1].get_text()


def test_unlabelled_faces_are_dots_without_a_mean(scored):
    figure = affect_scatter(np.full(20, -1), *scored.affect[:20].T, *scored.affect_pred[:20].T)
    assert len(figure.axes[0].collections[0].get_offsets()) == 20
    assert not figure.legends


places = st.tuples(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8))


@settings(max_examples=30, deadline=None)
@given(st.lists(places, min_size=1, max_size=8))
def test_labels_stay_inside_and_off_one_another(points):
    names = dict(zip(EXPRESSIONS, points, strict=False))
    boxes = dict.fromkeys(names, (0.3, 0.08))
    placed = place_labels(names, boxes, np.array(points))
    centres = list(placed.values())
    for i, (x, y) in enumerate(centres):
        assert abs(x) + 0.15 <= LIMIT + 1e-9
        assert abs(y) + 0.04 <= LIMIT + 1e-9
        assert not any(abs(x - u) < 0.3 and abs(y - w) < 0.08 for u, w in centres[:i])


def test_matches_the_stored_image(scored, same_as_stored):
    affect, preds = scored.affect, scored.affect_pred
    same_as_stored(affect_density(*affect.T, scored.truth), "density")
    same_as_stored(affect_scatter(scored.truth, *affect.T, *preds.T), "scatter")
    same_as_stored(residual_arrows(*affect.T, *preds.T), "residuals")
