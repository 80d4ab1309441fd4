import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.figures import error_by_region, predicted_against_true
from affectnet.figures.affect_error import region_of

unit = st.floats(-1, 1)


@given(unit, unit)
def test_regions_by_ring_and_octant(valence, arousal):
    (region,) = region_of(np.array([valence]), np.array([arousal]))
    distance = np.hypot(valence, arousal)
    assert (region == 0) == (distance < 0.25)
    assert (1 <= region <= 8) == (0.25 <= distance < 0.6)
    assert (region >= 9) == (distance >= 0.6)
    if region:
        angle = np.degrees(np.arctan2(arousal, valence))
        middle = 45 * ((region - 1) % 8)
        assert abs((angle - middle + 180) % 360 - 180) <= 22.5 + 1e-9


def test_named_regions():
    valence = np.array([0.0, 0.9, 0.0, -0.9, 0.0, 0.4])
    arousal = np.array([0.0, 0.0, 0.9, 0.0, -0.9, 0.0])
    assert region_of(valence, arousal).tolist() == [0, 9, 11, 13, 15, 1]


def test_the_wheel_writes_the_error_of_each_region(scored):
    figure = error_by_region(*scored.affect.T, *scored.affect_pred.T)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "RMSE of valence",
        "CCC of valence",
        "RMSE of arousal",
        "CCC of arousal",
    ]
    region = region_of(*scored.affect.T)
    for index in range(17):
        own = region == index
        error = scored.affect_pred[own, 0] - scored.affect[own, 0]
        expected = "·" if own.sum() < 5 else f"{np.sqrt(np.mean(error**2)):.2f}"[1:]
        assert figure.axes[0].texts[index].get_text() == expected


def test_predicted_against_true_shows_every_face_and_the_means(scored):
    figure = predicted_against_true(*scored.affect.T, *scored.affect_pred.T)
    for axes, truth, preds in zip(figure.axes, scored.affect.T, scored.affect_pred.T, strict=True):
        hexagons = np.asarray(axes.collections[0].get_array())
        assert hexagons.sum() == len(truth)
        x, y = axes.lines[1].get_xydata()[3]
        # The fourth point that is drawn is the mean of one tenth of the scale.
        tenth = np.floor((truth + 1) * 5) == np.floor((x + 1) * 5)
        assert x == pytest.approx(truth[tenth].mean())
        assert y == pytest.approx(preds[tenth].mean())


@pytest.mark.parametrize("rows", [0, 1, 10])
def test_few_or_no_faces_still_draw(scored, rows):
    for draw in (error_by_region, predicted_against_true):
        figure = draw(*scored.affect[:rows].T, *scored.affect_pred[:rows].T)
        figure.draw_without_rendering()
        text_of_all = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
        assert ("no face has" in text_of_all) == (rows == 0)


def test_a_dimension_without_annotation_gets_a_message(scored):
    nothing = np.full(len(scored.truth), np.nan)
    figure = predicted_against_true(scored.affect[:, 0], nothing, *scored.affect_pred.T)
    assert len(figure.axes[0].collections) == 1
    assert "annotated\nand a predicted arousal" in figure.axes[1].texts[0].get_text()


def test_matches_the_stored_image(scored, same_as_stored):
    affect, preds = scored.affect.T, scored.affect_pred.T
    same_as_stored(error_by_region(*affect, *preds), "regions")
    same_as_stored(predicted_against_true(*affect, *preds), "against")
