"""Drawing changes the pixels where it should, at any size, and nothing else."""

import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.inference.drawing import LARGEST_SIDE, SMALLEST_SIDE, annotate
from affectnet.inference.panels import CURVE_SECONDS, GROUND, Traces, colour_of
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
    image = np.full((300, 350, 3), 128, np.uint8)
    faces = result(Box(100, 120, 80, 100)).faces
    drawn = annotate(image, PictureResult(None, 700, 600, faces))
    assert tuple(drawn[85, 50]) == colour_of("happiness")
    assert tuple(drawn[60, 70]) == colour_of("happiness")


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (700, 2), (60, 60), (15, 900)])
def test_any_size_and_any_box_can_be_drawn(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 50, np.uint8)
    boxes = [Box(-50, -50, 80, 90), Box(0, 0, 0.5, 0.5), Box(0.4, 0.4, 2000, 3000)]
    for faces in (boxes[:1], boxes):
        drawn = annotate(image, result(*faces))
        assert drawn.shape[0] >= shape[0]
        assert drawn.shape[1] >= shape[1]
    sizes = {annotate(image, result(*f, time=1.0), Traces()).shape for f in (boxes, [], boxes[:1])}
    assert len(sizes) == 1  # the frames of a film


@pytest.mark.parametrize("side", [60, 90, 200])
def test_small_images_are_enlarged_and_their_labels_are_whole(side: int) -> None:
    """The label, below or above the face, ends before the picture does."""
    image = np.full((side, side, 3), 128, np.uint8)
    drawn = annotate(image, result(Box(0.3 * side, 0.35 * side, 0.3 * side, 0.3 * side)))
    assert drawn.shape == (SMALLEST_SIDE, SMALLEST_SIDE, 3)
    label = (drawn == (0x9A, 0x6A, 0)).all(axis=2)
    columns = np.flatnonzero(label.any(axis=0))
    assert columns[0] >= 2
    assert columns[-1] < SMALLEST_SIDE - 2 or (drawn[:, -1] == 128).all()
    assert (label.sum() + ((drawn == 255).all(axis=2)).sum()) > 1500


def test_what_has_no_room_is_under_the_picture() -> None:
    """A close-up, in which the label and the circumplex would cover the face."""
    image = np.full((300, 300, 3), 128, np.uint8)
    drawn = annotate(image, result(Box(4, 4, 292, 292)))
    height, width = drawn.shape[:2]
    assert width == 300
    assert height > 372
    np.testing.assert_array_equal(drawn[20:280, 20:280], image[20:280, 20:280])
    below = drawn[304:]
    assert ((below == (0x9A, 0x6A, 0)).all(axis=2)).sum() > 800  # the label
    assert (below != GROUND).any(axis=2)[:, :40].any()  # the circumplex
    assert tuple(below[-1, -1]) == GROUND


def test_faces_without_room_are_numbered_and_listed() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    boxes = [Box(2 + 100 * i, 2 + 100 * j, 96, 96) for j in range(4) for i in range(4)]
    drawn = annotate(image, result(*boxes))
    listed = (drawn[400:] == (0x9A, 0x6A, 0)).all(axis=2)
    assert listed.sum() > 16 * 800
    for x, y, *_ in boxes:  # the number is in a corner, the face is free
        part = drawn[int(y) + 8 : int(y) + 88, int(x) + 8 : int(x) + 88]
        changed = (part != 128).any(axis=2)
        assert 0 < changed.mean() < 0.1
        assert not changed[30:50, 30:50].any()


@pytest.mark.parametrize("expression", range(8))
def test_a_box_is_visible_on_any_background(expression: int) -> None:
    """One of its lines has a contrast of 4.5:1, as WCAG asks for text, with what is behind it."""
    backgrounds = [(v, v, v) for v in range(0, 256, 15)]
    backgrounds += [colour_of(name) for name in EXPRESSIONS]
    for colour in backgrounds:
        image = np.full((300, 300, 3), colour, np.uint8)
        drawn = annotate(image, result(Box(100, 100, 100, 100), expression=expression), panel=False)
        line = {tuple(map(int, pixel)) for pixel in drawn[150, 90:115]}
        assert max(contrast(pixel, colour) for pixel in line) >= 4.5


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    def luminance(colour: tuple[int, ...]) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_under_a_film_are_its_faces_and_curves() -> None:
    traces = Traces()
    for i in range(100):
        frame = result(Box(100, 120, 80, 100), time=i / 10)
        traces.add(frame)
    image = np.full((480, 640, 3), 128, np.uint8)
    drawn = annotate(image, frame, traces)
    assert drawn.shape[1] == 640
    below = drawn[480:]
    ribbon = (below[:, 320:] == colour_of("happiness")).all(axis=2)
    rows = np.flatnonzero(ribbon.any(axis=1))
    wide = ribbon[rows[len(rows) // 2]].sum()
    # 10 of 30 seconds, of a curve that is a little narrower than the half of the picture.
    assert wide == pytest.approx(10 / CURVE_SECONDS * 270, rel=0.25)
    assert ((below[:, :160] == (0x9A, 0x6A, 0)).all(axis=2)).sum() > 20  # the point
    other = annotate(image, result(time=10.0), traces)
    assert other.shape == drawn.shape


def test_traces_forget_what_is_past() -> None:
    traces = Traces()
    for i in range(1000):
        traces.add(result(Box(0, 0, 9, 9), time=i / 25))
    assert len(traces.points[1]) == 25 * CURVE_SECONDS + 1
    traces.add(result(time=80.0))
    assert traces.points == {}
