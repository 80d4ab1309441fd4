"""Brightness and sharpness of the images of a split."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from affectnet.data.image_columns import brightness, image_columns, sharpness
from affectnet.data.store import open_split


def test_brightness_is_that_of_pillow_in_grey():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=float)
    assert brightness(image) == pytest.approx(grey.mean() / 255, abs=0.003)
    assert brightness(np.full((5, 5, 3), 255, np.uint8)) == pytest.approx(1.0)


def test_sharpness_is_that_of_opencv_and_falls_with_blur():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    grey = image @ np.array([0.299, 0.587, 0.114])
    theirs = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1].var()
    assert sharpness(image) == pytest.approx(theirs)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    assert sharpness(blurred) < sharpness(image) / 10
    assert sharpness(np.zeros((2, 2, 3), np.uint8)) == 0.0


def test_columns_follow_the_rows(drawn):
    split = open_split(drawn, "test")
    columns = image_columns(split, ["brightness", "sharpness"])
    assert list(columns) == ["brightness", "sharpness"]
    assert all(column.shape == (len(split),) for column in columns.values())
    assert ((columns["brightness"] > 0) & (columns["brightness"] < 1)).all()
    assert np.ptp(columns["sharpness"]) > 0
    assert image_columns(split, []) == {}
