"""Resizing in training: the pixels of prediction, in less time."""

import numpy as np
import pytest

from affectnet.data.dataset import FaceDataset, fast_resize
from affectnet.data.images import decode_image, resize
from affectnet.data.store import open_split


@pytest.mark.parametrize("size", [48, 112, 224, 256, 384])
@pytest.mark.parametrize(("name", "most"), [("bilinear", 1), ("bicubic", 2), ("lanczos", 0)])
def test_resized_as_in_prediction(photo: np.ndarray, size: int, name: str, most: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    for image in (photo, photo[:200, 40:240], noise):
        fast, plain = fast_resize(image, size, name), resize(image, size, name)
        difference = np.abs(fast.astype(int) - plain)
        assert difference.max() <= most
        assert (difference > 0).mean() < 0.03


def test_an_image_of_the_right_size_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    assert fast_resize(image, 48) is image


def test_pixels_that_must_not_be_written(photo: np.ndarray) -> None:
    locked = photo.copy()
    locked.flags.writeable = False
    difference = np.abs(fast_resize(locked, 64).astype(int) - resize(photo, 64))
    assert difference.max() <= 1


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_faces_as_prediction_decodes_them(drawn, name: str) -> None:
    split = open_split(drawn, "val")
    rows = np.arange(len(split))
    faces = FaceDataset(split, 80, name).images(rows).permute(0, 2, 3, 1).numpy()
    for row in rows:
        plain = decode_image(split.image_bytes(row), 80, name).astype(int)
        assert np.abs(faces[row] - plain).max() <= (1 if name == "bilinear" else 2)
