"""Corruptions: any size, the same for the same seed, and worse at higher strength."""

import numpy as np
import pytest
from corruptions import CORRUPTIONS, STRENGTHS, corrupt

from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image
from affectnet.errors import ConfigError


@pytest.fixture(scope="module")
def face():
    drawn = next(iter(draw_faces(1, seed=3, size=96)))
    return np.asarray(decode_image(drawn.image), dtype=np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_stronger_is_farther_from_the_face(kind, face):
    before = face.copy()
    distances = [
        np.mean(
            [np.abs(corrupt(face, kind, s, seed).astype(float) - face).mean() for seed in range(8)]
        )
        for s in STRENGTHS
    ]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert (face == before).all(), "the given face must not change"


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(12, 12), (48, 48), (61, 40), (224, 224)])
def test_every_size_keeps_its_shape_and_seed_decides(kind, shape):
    face = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for strength in STRENGTHS:
        first = corrupt(face, kind, strength, seed=5)
        assert first.shape == face.shape
        assert first.dtype == np.uint8
        assert (first == corrupt(face, kind, strength, seed=5)).all()


def test_low_light_keeps_the_fraction_of_light(face):
    for strength, light in ((1, 0.5), (2, 0.25), (3, 0.14)):
        dark = corrupt(face, "low_light", strength, seed=1)
        assert dark.mean() == pytest.approx(face.mean() * light, rel=0.05)


def test_roll_turns_the_face_by_its_angle():
    face = np.zeros((101, 101, 3), np.uint8)
    face[48:53, 90:95] = 255  # a mark to the right of the middle
    y, x = (np.argwhere(corrupt(face, "roll", 3, seed=0)[..., 0] > 127).mean(0) - 50) * (-1, 1)
    assert abs(np.degrees(np.arctan2(y, x))) == pytest.approx(30, abs=1.5)


def test_yaw_moves_the_nose_by_the_sine_of_its_angle():
    face = np.zeros((101, 101, 3), np.uint8)
    face[:, 49:52] = 255  # the nose, in the middle
    for strength, degrees in ((1, 10), (2, 20), (3, 30)):
        x = (np.argwhere(corrupt(face, "yaw", strength, seed=0)[50, :, 0] > 127).mean() - 50) / 50.5
        assert abs(x) == pytest.approx(np.sin(np.radians(degrees)), abs=0.02)


def test_unknown_kinds_and_strengths_are_refused():
    with pytest.raises(ConfigError, match=r"blurr.*low_light"):
        corrupt(np.zeros((8, 8, 3), np.uint8), "blurr", 1)
    with pytest.raises(ConfigError, match="strength is 4"):
        corrupt(np.zeros((8, 8, 3), np.uint8), "blur", 4)
