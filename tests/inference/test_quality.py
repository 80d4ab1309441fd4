"""Head pose on projected, drawn and turned faces whose pose is known; the rule of `usable`."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from affectnet.data.crop import Box
from affectnet.data.drawn.release import render
from affectnet.data.drawn.shape import Identity, Muscles, Pose, Traits
from affectnet.inference.detector import FaceDetector
from affectnet.inference.quality import MEAN_FACE, Quality, head_pose, measure

angle = st.floats(-50, 50)


def projected(yaw: float, pitch: float, roll: float, far: float = 16.0) -> np.ndarray:
    """The five points of the mean face in a camera, by SciPy's rotations."""
    turn = Rotation.from_euler("ZYX", [roll, -yaw, -pitch], degrees=True)
    points = turn.apply(MEAN_FACE - MEAN_FACE.mean(axis=0)) + np.array((0, 0, far))
    return 600 * points[:, :2] / points[:, 2:] + np.array((320, 240))


@settings(max_examples=60, deadline=None)
@given(angle, angle, angle)
def test_the_pose_of_the_mean_face_is_found(yaw: float, pitch: float, roll: float) -> None:
    """A flat face seen from one side looks like one seen from the other; the nose decides."""
    pose = head_pose(projected(yaw, pitch, roll))
    assert pose == pytest.approx((yaw, pitch, roll), abs=1)


def test_signs_and_mirror_images() -> None:
    to_the_right, up, clockwise = (
        projected(*turn) for turn in ((30, 0, 0), (0, 20, 0), (0, 0, 25))
    )
    assert to_the_right[2, 0] > projected(0, 0, 0)[2, 0]
    assert up[2, 1] < projected(0, 0, 0)[2, 1]
    assert clockwise[1, 1] > clockwise[0, 1]
    for points, turn in ((to_the_right, (30, 0, 0)), (up, (0, 20, 0)), (clockwise, (0, 0, 25))):
        np.testing.assert_allclose(head_pose(points), turn, atol=1)
    mirrored = projected(30, 10, 5)[[1, 0, 2, 4, 3]] * (-1, 1)
    np.testing.assert_allclose(head_pose(mirrored), head_pose(projected(-30, 10, -5)), atol=0.2)


@pytest.mark.parametrize(
    "points",
    [
        [(5, 5)] * 5,
        [(i, i) for i in range(5)],
        [(0, 0), (1, 0), (50, 90), (1, 1), (0, 1)],
        [(float("nan"), 0)] * 5,
    ],
)
def test_points_that_are_no_face_have_no_pose(points: list[tuple[float, float]]) -> None:
    assert head_pose(points) is None


def test_drawn_faces() -> None:
    """YuNet's landmarks on drawn faces: docs/predict.md states these errors."""
    detector, errors = FaceDetector(), []
    for i in range(48):
        rng = np.random.default_rng([7, i])
        image, _ = render(i % 8, 0.2, 0.1, rng, 256)
        rng = np.random.default_rng([7, i])
        person = Identity.draw(rng, 1.0)
        Traits.draw(rng, 1.0)
        Muscles.draw(i % 8, 0.2, 0.1, rng, 1.0)
        drawn = Pose.draw(person, 256, rng, 1.0)
        for face in detector.detect(image)[:1]:
            assert face.landmarks is not None
            pose = head_pose(face.landmarks)
            assert pose is not None
            wanted = np.rad2deg((drawn.yaw, -drawn.pitch, drawn.roll))
            errors.append(np.abs(np.array(pose) - wanted))
    assert len(errors) > 44
    yaw, pitch, roll = np.mean(errors, axis=0)
    assert yaw < 9
    assert pitch < 12
    assert roll < 4


def test_a_photo_turned_in_the_image(photo_file) -> None:
    """YuNet's landmarks of small faces hardly turn with the face, so only the order is certain."""
    photo = np.asarray(Image.open(photo_file).convert("RGB"))
    height, width = photo.shape[:2]
    rolls = []
    for turn in (-30, 0, 30):
        matrix = cv2.getRotationMatrix2D((width, height), -turn, 0.8)
        large = cv2.resize(photo, None, fx=2, fy=2)
        turned = cv2.warpAffine(
            large, matrix, (2 * width, 2 * height), borderMode=cv2.BORDER_REPLICATE
        )
        face, *_ = FaceDetector().detect(turned)
        pose, quality = measure(face.box, face.landmarks, turned)
        assert pose is not None
        rolls.append(pose.roll)
        assert quality.usable
    assert rolls[0] < rolls[1] - 8 < rolls[1] + 8 < rolls[2]


def test_usable_needs_size_sharpness_and_a_frontal_face(photo_file) -> None:
    assert Quality(24, 0.015, 0.7).usable
    assert Quality(24, 0.015, None).usable
    assert not Quality(23, 0.5, 1.0).usable
    assert not Quality(100, 0.014, 1.0).usable
    assert not Quality(100, 0.5, 0.69).usable
    photo = np.asarray(Image.open(photo_file).convert("RGB"))
    box = Box(*FaceDetector().detect(photo)[0].box)
    x, y, w, h = map(round, box)
    face = photo[y : y + h, x : x + w]
    sharp = [
        measure(box, None, cv2.GaussianBlur(face, (0, 0), blur) if blur else face)[1].sharpness
        for blur in (0, 3, 6)
    ]
    assert sharp[0] > sharp[1] > sharp[2]
    dim = measure(box, None, (face // 4 + 90).astype(np.uint8))[1].sharpness
    assert dim == pytest.approx(sharp[0], rel=0.1)  # contrast has no influence
    assert measure(box, None, np.full((48, 48, 3), 7, np.uint8))[1].sharpness == 0
    # Landmarks that are not those of a face.
    assert measure(box, [(i, i) for i in range(5)], face)[1].frontality == 0
