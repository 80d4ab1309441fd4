"""Turning annotations upright, against Pillow; the pixels are tested with the decoder."""

import io

import numpy as np
import pytest
from PIL import Image

from affectnet.data.orientation import upright_annotations


def face_points() -> np.ndarray:
    """Landmarks (68, 2) with the mouth below the eyes, in an image of 60x40 pixels."""
    points = np.random.default_rng(4).uniform((10, 12), (50, 20), (68, 2)).astype(np.float32)
    points[48:] += (0, 15)
    return points


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_follow_the_pixels_only_where_they_belong_to_them(orientation):
    """Against Pillow: a mark at a place of the upright image, and where it is stored."""
    points, box = face_points(), (9.0, 11.0, 30.0, 28.0)
    assert upright_annotations(points, box, orientation, (60, 40)) == (points, box)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation >= 5
    numbers = np.arange(2400, dtype=np.int32).reshape((60, 40) if turned else (40, 60))
    buffer = io.BytesIO()
    Image.fromarray(numbers).save(buffer, "TIFF", exif=exif)
    upright = np.asarray(Image.open(buffer))
    assert upright.shape == (40, 60)

    def stored(x: float, y: float) -> tuple[int, int]:
        row, column = np.argwhere(numbers == upright[round(y), round(x)])[0]
        return int(column), int(row)

    whole = points.round()
    there = np.array([stored(x, y) for x, y in whole], np.float32)
    corners = np.array([stored(9, 11), stored(38, 38)])
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    box_there = (*map(float, low), *map(float, high - low))
    found, found_box = upright_annotations(there, box_there, orientation, (60, 40))
    if orientation in (1, 2):  # a mirrored face has its mouth below its eyes, too
        np.testing.assert_array_equal(found, there)
    else:
        np.testing.assert_array_equal(found, whole)
        assert found_box == box


def test_a_box_alone_is_in_the_frame_that_it_fits():
    inside_upright, inside_stored = (45.0, 5.0, 12.0, 30.0), (5.0, 45.0, 30.0, 12.0)
    for box in (inside_upright, inside_stored):
        assert upright_annotations(None, box, 6, (60, 40)) == (
            None, inside_upright if box is inside_upright else (3.0, 5.0, 12.0, 30.0)
        )  # fmt: skip
    assert upright_annotations(None, None, 6, (60, 40)) == (None, None)
