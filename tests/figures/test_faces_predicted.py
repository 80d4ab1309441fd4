"""Figures of single predictions show the class, the bars, and one point per face."""

import numpy as np

from affectnet.figures.faces import face_prediction, image_prediction, images_prediction
from affectnet.labels import COLOURS, EXPRESSIONS

PIXELS = np.zeros((30, 40, 3), np.uint8)


def test_a_face_is_named_by_its_most_probable_class() -> None:
    probabilities = np.array([0.1, 0.6, 0.3])
    figure = face_prediction(PIXELS, EXPRESSIONS[:3], probabilities, np.array([0.25, -0.5]))
    assert figure.get_suptitle() == "happiness 60%"
    _, bars, plane = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [0.3, 0.6, 0.1]
    point = plane.lines[-1]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.25, -0.5)
    assert point.get_color() == COLOURS["happiness"]


def test_several_faces_are_numbered_and_the_first_has_its_bars() -> None:
    probabilities = np.eye(8)[[3, 6]]
    figure = image_prediction(PIXELS, EXPRESSIONS, probabilities, np.array([[0, 0.5], [-0.5, 0.5]]))
    _, bars, plane = figure.axes
    assert bars.get_title(loc="left") == "face 1, the largest"
    assert [text.get_text() for text in plane.texts] == ["2", "1"]
    assert [line.get_color() for line in plane.lines[-2:]] == [
        COLOURS["anger"],
        COLOURS["surprise"],
    ]


def test_images_without_a_face_say_so() -> None:
    assert [
        axes.get_title() for axes in images_prediction([PIXELS] * 5, [1, 0, 2, 0, 1]).axes[:5]
    ] == ["", "no face", "", "no face", ""]
    nothing = image_prediction(PIXELS, (), np.empty((0, 8)), np.empty((0, 2)))
    assert nothing.axes[0].get_title() == "no face"
