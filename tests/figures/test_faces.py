import numpy as np
import pytest

from affectnet.figures import gallery, sample_grid, training_batch
from affectnet.labels import EXPRESSIONS


def pictures(n, size=24):
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    return [np.stack([np.roll(np.tile(ramp, (size, 1)), i, axis=1)] * 3, axis=2) for i in range(n)]


def shown(figure):
    return [image.get_array() for axes in figure.axes for image in axes.images]


def test_sample_grid_shows_each_class_in_its_row():
    images = pictures(9)
    samples = [images[:2], [], *[[image] for image in images[2:8]]]
    figure = sample_grid(samples, columns=3)
    drawn = shown(figure)
    assert len(drawn) == 8
    for got, given in zip(drawn, [*images[:2], *images[2:8]], strict=True):
        np.testing.assert_array_equal(got, given)
    named = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert named == [EXPRESSIONS[0], "happiness\n(none)", *EXPRESSIONS[2:]]


def test_sample_grid_cuts_at_its_columns():
    assert len(shown(sample_grid([pictures(9)] * 8, columns=4))) == 32


def test_sample_grid_of_nothing_gives_a_message():
    assert "no image" in sample_grid([[]] * 8).axes[0].texts[0].get_text()


def test_gallery_shows_truth_prediction_confidence_and_affect():
    figure = gallery(
        [*pictures(2), None],
        np.array([1, 2, -1]),
        np.array([1, 0, 3]),
        np.array([0.91, 0.5, np.nan]),
        np.array([[0.8, 0.5], [np.nan, np.nan], [0.0, 0.0]]),
        np.array([[0.7, 0.4], [0.1, -0.2], [np.nan, np.nan]]),
        title="Some faces",
    )
    captions = [axes.texts[-1].get_text() for axes in figure.axes[:3]]
    assert captions[0] == "happiness 91%\nright\nV+0.70 A+0.40\nis V+0.80 A+0.50"
    assert captions[1] == "neutral 50%\nis sadness\nV+0.10 A-0.20"
    assert captions[2] == "surprise\nis unlabelled"
    assert figure.axes[2].texts[0].get_text() == "no image"
    dashes = [axes.spines["top"].get_linestyle() for axes in figure.axes[:3]]
    assert dashes == ["-", "--", "--"]


@pytest.mark.parametrize("grey", [False, True])
def test_gallery_takes_colour_and_grey(grey):
    images = [image[:, :, 0] if grey else image for image in pictures(7)]
    labels = np.zeros(7, int)
    figure = gallery(images, labels, labels, np.ones(7))
    figure.draw_without_rendering()
    assert len(shown(figure)) == 7


def test_gallery_of_nothing_gives_a_message():
    nothing = np.array([])
    figure = gallery([], nothing, nothing, nothing, title="Wrong")
    assert figure.axes[0].texts[0].get_text() == "Wrong: no such face"


def test_matches_the_same_as_stored(same_as_stored):
    truth, preds = np.arange(6), np.array([0, 1, 3, 3, 5, 5])
    figure = gallery(pictures(6), truth, preds, np.linspace(0.5, 1, 6), title="Faces")
    same_as_stored(figure, "gallery")
    same_as_stored(sample_grid([pictures(3)] * 8), "samples")


def test_training_batch_shows_each_face_with_its_label(same_as_stored):
    labels = [f"fear {i}%\nanger\nV+0.10 A-0.50" for i in range(11)]
    figure = training_batch(pictures(11), labels)
    for got, given in zip(shown(figure), pictures(11), strict=True):
        np.testing.assert_array_equal(got, given)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == labels
    same_as_stored(figure, "batch")


def test_training_batch_of_nothing_gives_a_message():
    assert "no face" in training_batch([], []).axes[0].texts[0].get_text()
