"""The geometry of drawn faces: labels move the landmarks that they should, poses turn them."""

from collections import Counter

import numpy as np
import pytest

from affectnet.data.drawn.shape import MIRRORED, Identity, Muscles, Pose, landmarks, smooth
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

NEUTRAL, FEAR, CONTEMPT = 0, 4, 7


def shape(expression, valence, arousal, seed=0, variety=0.0):
    """Landmarks (68, 2) of an upright face in its own frame."""
    rng = np.random.default_rng(seed)
    person = Identity.draw(rng, variety)
    return landmarks(person, Muscles.draw(expression, valence, arousal, rng, variety))[:, :2]


def typical(expression, **more):
    return shape(expression, *CIRCUMPLEX[EXPRESSIONS[expression]], **more)


def eye_opening(points):
    return (points[[41, 40, 47, 46], 1] - points[[37, 38, 43, 44], 1]).mean()


def mouth_opening(points):
    return points[66, 1] - points[62, 1]


def corner_lift(points):
    """How far the corners of the mouth stand above the middle of the lips."""
    middle = (points[51, 1] + points[57, 1]) / 2
    return middle - points[[48, 54], 1].mean()


def test_mirrored_face_has_mirrored_landmarks():
    for expression in range(CONTEMPT):
        points = typical(expression)
        np.testing.assert_allclose(points[list(MIRRORED)] * (-1, 1), points, atol=1e-9)
    assert sorted(MIRRORED) == list(range(68))


def test_contempt_pulls_one_corner_and_either_side_comes():
    sides = Counter()
    for seed in range(20):
        points = typical(CONTEMPT, seed=seed)
        higher = points[54, 1] - points[48, 1]
        assert abs(higher) > 0.1
        sides[higher > 0] += 1
    assert len(sides) == 2


def test_roll_turns_the_landmarks_as_a_rigid_body():
    rng = np.random.default_rng(0)
    person = Identity.draw(rng, 1.0)
    points = landmarks(person, Muscles.draw(FEAR, -0.6, 0.6, rng, 1.0))
    upright = Pose(0.0, 0.2, 0.1, 50.0, 100.0, 90.0).project(points)
    angle = 0.4
    rolled = Pose(angle, 0.2, 0.1, 100.0, 10.0, 20.0).project(points)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose((upright - (100, 90)) * 2 @ turn + (10, 20), rolled, atol=1e-9)


def test_yaw_foreshortens_the_far_side():
    rng = np.random.default_rng(0)
    person = Identity.draw(rng, 0.0)
    points = landmarks(person, Muscles.draw(NEUTRAL, 0.0, 0.0, rng, 0.0))
    turned = Pose(0.0, 0.35, 0.0, 1.0, 0.0, 0.0).project(points)
    left, right = turned[30, 0] - turned[0, 0], turned[16, 0] - turned[30, 0]
    assert left > 1.5 * right > 0


@pytest.mark.parametrize("seed", range(5))
def test_expressions_move_what_their_action_units_say(seed):
    face = {name: typical(i, seed=seed, variety=1.0) for i, name in enumerate(EXPRESSIONS)}
    lift = {name: corner_lift(points) for name, points in face.items()}
    assert lift["happiness"] > lift["neutral"] > lift["sadness"]
    eyes = {name: eye_opening(points) for name, points in face.items()}
    assert eyes["surprise"] > eyes["neutral"] > eyes["disgust"]
    assert eyes["surprise"] > eyes["anger"]
    assert max(mouth_opening(p) for p in face.values()) == mouth_opening(face["surprise"])
    inner_brow = {name: points[[21, 22], 1].mean() for name, points in face.items()}
    assert inner_brow["sadness"] < inner_brow["neutral"] < inner_brow["anger"]
    width = {name: points[54, 0] - points[48, 0] for name, points in face.items()}
    assert width["fear"] > width["neutral"] > width["surprise"]
    assert face["disgust"][33, 1] < face["neutral"][33, 1]  # the wrinkled nose is shorter


@pytest.mark.parametrize("variety", [0.0, 1.0])
@pytest.mark.parametrize("expression", range(8))
def test_arousal_opens_eyes_and_mouth_and_valence_lifts_the_corners(expression, variety):
    steps = np.linspace(-1, 1, 9)
    aroused = [shape(expression, -0.2, step, variety=variety) for step in steps]
    assert (np.diff([eye_opening(p) for p in aroused]) > 0).all()
    assert (np.diff([mouth_opening(p) for p in aroused]) > 0).all()
    pleased = [shape(expression, step, 0.3, variety=variety) for step in steps]
    assert (np.diff([corner_lift(p) for p in pleased]) > 0).all()


def test_pose_holds_the_widest_expressions_of_anybody():
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        person = Identity.draw(rng, 1.0)
        muscles = Muscles.draw(seed % 8, *rng.choice([-1.0, 1.0], 2), rng, 1.0)
        pixels = Pose.draw(person, 32, rng, 1.0).project(landmarks(person, muscles))
        assert pixels.min() >= 0
        assert pixels.max() <= 31


def test_smooth_curve_goes_through_its_points_and_keeps_lines_straight():
    points = np.random.default_rng(0).normal(size=(6, 3))
    np.testing.assert_allclose(smooth(points, 5)[::5], points, atol=1e-12)
    way = np.array([1.0, -2.0])
    line = smooth(np.outer(np.arange(4.0), way), 3)
    np.testing.assert_allclose(line, np.outer(np.arange(10) / 3, way), atol=1e-12)
