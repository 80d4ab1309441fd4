"""Head pose of a face from five landmarks, and how well the face can be seen."""

import math
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box, Landmarks
from affectnet.data.images import GREY, Pixels, resize, sharpness

MEAN_FACE: Final = np.array(
    [(-0.5, 0, 0), (0.5, 0, 0), (0, 0.57, -0.5), (-0.415, 1.155, -0.05), (0.415, 1.155, -0.05)]
)
"""Eyes, nose tip and corners of the mouth in units of the distance between the eyes: x to the right
of the image, y down, z away from the camera. x and y are those of the five points to which ArcFace
aligns faces (Deng et al., CVPR 2019), z are round numbers for an adult's nose and mouth."""
DISTANCE: Final = 16.0
"""Between camera and face, in the same units: about a metre. It is not known from an image, and
matters little beyond half a metre; so a face has one pose in an image and in a crop of it."""
MAX_RESIDUAL: Final = 0.25
"""Of five points that are a face's, in units of the largest distance of a point from their centre
(root mean square). Drawn faces have 0.05."""

USABLE_SIDE: Final = 24
USABLE_SHARPNESS: Final = 0.015
USABLE_FRONTALITY: Final = 0.7
_SIDE: Final = 48
_MIRROR: Final = np.diag([1.0, 1.0, -1.0])


class Pose(NamedTuple):
    """Angles of a head against the line from it to the camera, in degrees.

    Yaw and pitch are those of the head after the image is turned back by roll.
    """

    yaw: float
    """Positive: turned to the right of the image, which is the person's left."""
    pitch: float
    """Positive: up."""
    roll: float
    """Positive: clockwise in the image."""


class Quality(NamedTuple):
    """How well a face can be seen."""

    side: float
    """The longer side of its box in pixels."""
    sharpness: float
    """Variance of the Laplacian over the variance of the grey values, at 48 px; low where the
    image is blurred or the face is small."""
    frontality: float | None
    """Cosine of the angle between the face and the line to the camera: 1 from the front, 0 in
    profile or where the landmarks are not those of a face; None without landmarks."""

    @property
    def usable(self) -> bool:
        """Whether the face is large, sharp and frontal enough: `USABLE_SIDE` (24 px),
        `USABLE_SHARPNESS` (0.015) and, where it is known, `USABLE_FRONTALITY` (0.7, 45 degrees)."""
        frontal = self.frontality is None or self.frontality >= USABLE_FRONTALITY
        return self.side >= USABLE_SIDE and self.sharpness >= USABLE_SHARPNESS and frontal


def head_pose(landmarks: Landmarks) -> Pose | None:
    """Return the pose of a head; None where the points are not those of a face.

    The rotation of `MEAN_FACE` whose projection is nearest to the points (PnP): SQPnP (Terzakis and
    Lourakis, ECCV 2020), then Levenberg-Marquardt. Turned towards the other side, a flat face looks
    nearly the same, so the mirrored rotation is refined, too, and the nearer one is kept.

    Args:
        landmarks: right eye, left eye, nose tip, corners of the mouth (the person's own right
            first), in pixels.
    """
    points = np.asarray(landmarks, np.float64)
    centre = points.mean(axis=0)
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    if points.shape != (5, 2) or not 0 < radius < math.inf:
        return None
    face = MEAN_FACE - MEAN_FACE.mean(axis=0)
    focal = DISTANCE * radius / np.linalg.norm(face, axis=1).max()
    seen, camera = (points - centre) / focal, np.eye(3)
    nearest, rotation = MAX_RESIDUAL * radius / focal, None
    try:
        turns: Any
        moves: Any
        _, turns, moves, _ = cv2.solvePnPGeneric(face, seen, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        for turn, move in zip(turns, moves, strict=True):
            plain = cv2.Rodrigues(turn)[0]
            for start in (plain, _MIRROR @ plain @ _MIRROR):
                r, t = cv2.solvePnPRefineLM(
                    face, seen, camera, None, cv2.Rodrigues(start)[0], move.copy()
                )
                shown = cv2.projectPoints(face, r, t, camera, None)[0][:, 0]
                residual = math.sqrt(((shown - seen) ** 2).sum(axis=1).mean())
                if t[2, 0] > 0 and residual < nearest:
                    nearest, rotation = residual, cv2.Rodrigues(r)[0]
    except cv2.error:  # points on one line
        return None
    return None if rotation is None else _angles(rotation)


def _angles(rotation: NDArray[Any]) -> Pose | None:
    if rotation[2, 2] <= 0:  # the back of a head
        return None
    # The rotation is one about z (roll) after one about y (yaw) after one about x (pitch).
    yaw = math.asin(min(1.0, max(-1.0, rotation[2, 0])))
    pitch = -math.atan2(rotation[2, 1], rotation[2, 2])
    roll = math.atan2(rotation[1, 0], rotation[0, 0])
    return Pose(*(round(math.degrees(angle), 2) for angle in (yaw, pitch, roll)))


def measure(box: Box, landmarks: Landmarks | None, crop: Pixels) -> tuple[Pose | None, Quality]:
    """Return the pose of a face, None without landmarks, and its quality.

    Args:
        box: in pixels.
        landmarks: as `head_pose` takes them.
        crop: the face, RGB, of any size.
    """
    pose = None if landmarks is None else head_pose(landmarks)
    frontality = None if landmarks is None else 0.0
    if pose is not None:
        frontality = math.cos(math.radians(pose.yaw)) * math.cos(math.radians(pose.pitch))
    small = resize(crop, _SIDE, "bilinear")
    spread = float((small @ GREY).var())
    return pose, Quality(
        max(box.width, box.height),
        round(sharpness(small) / spread, 4) if spread > 0 else 0.0,
        None if frontality is None else round(frontality, 4),
    )
