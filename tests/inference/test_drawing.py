"""Drawing changes the pixels where it should, at any size, and nothing else."""

import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.inference.drawing import LARGEST_SIDE, Traces, annotate, colour_of
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import EXPRESSIONS


def result(*boxes: Box, expression: int = 1, time: float | None = None) -> PictureResult:
    faces = tuple(
        FaceResult(
            box,
            None,
            None,
            EXPRESSIONS,
            tuple(np.eye(8)[expression].tolist()),
            0.5,
            -0.5,
            None if time is None else number,
        )
        for number, box in enumerate(boxes, 1)
    )
    return PictureResult(None, None, None, faces, time=time)


def test_the_box_is_drawn_in_the_expressions_colour() -> None:
    image = np.full((400, 500, 3), 128, np.uint8)
    drawn = annotate(image, result(Box(100, 120, 80, 100)))
    assert (image == 128).all()
    assert drawn.shape == image.shape
    for x, y in ((140, 120), (140, 220), (100, 170), (180, 170)):
        assert tuple(drawn[y, x]) == colour_of("happiness")
    np.testing.assert_array_equal(drawn[130:210, 110:170], image[130:210, 110:170])
    assert (drawn[300:, 400:] != 128).any()  # the circumplex


def test_an_image_without_a_face_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    np.testing.assert_array_equal(annotate(image, result()), image)


def test_large_images_come_smaller_with_the_box_in_place() -> None:
    image = np.full((3000, 4096, 3), 128, np.uint8)
    drawn = annotate(image, result(Box(2000, 1000, 400, 600)))
    assert drawn.shape == (1500, LARGEST_SIDE, 3)
    assert tuple(drawn[650, 1000]) == colour_of("happiness")


def test_a_smaller_copy_has_the_box_in_place() -> None:
    image = np.full((200, 250, 3), 128, np.uint8)
    faces = result(Box(100, 120, 80, 100)).faces
    drawn = annotate(image, PictureResult(None, 500, 400, faces))
    assert tuple(drawn[85, 50]) == colour_of("happiness")
    assert tuple(drawn[60, 70]) == colour_of("happiness")


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (700, 2), (60, 60), (15, 900)])
def test_any_size_and_any_box_can_be_drawn(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 50, np.uint8)
    boxes = [Box(-50, -50, 80, 90), Box(0, 0, 0.5, 0.5), Box(0.4, 0.4, 2000, 3000)]
    assert annotate(image, result(*boxes)).shape == image.shape
    assert annotate(image, result(*boxes, time=1.0), Traces()).shape == image.shape


def test_traces_forget_what_is_past() -> None:
    traces = Traces()
    for i in range(200):
        traces.add(result(Box(0, 0, 9, 9), time=i / 25))
    assert len(traces.points[1]) == 76
    traces.add(result(time=20.0))
    assert traces.points == {}
