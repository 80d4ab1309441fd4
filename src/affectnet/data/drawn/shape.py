"""A drawn person: proportions, colours, muscles that move the 68 landmarks, pose in the image.

Coordinates are in the face's frame: x to the right of the image, y down, the origin between the
eyes, in units of the distance between the eye centres; the third coordinate is how far a point
protrudes from the head. Sides are those of the image: -1 left, +1 right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.labels import EXPRESSIONS

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

PROTOTYPES: Final[dict[str, dict[int, float]]] = {
    "neutral": {},
    "happiness": {6: 0.9, 12: 1.0, 25: 0.8},
    "sadness": {1: 1.0, 4: 0.45, 15: 1.0, 17: 0.7, 43: 0.35},
    "surprise": {1: 1.0, 2: 1.0, 5: 1.0, 25: 0.8, 26: 1.0},
    "fear": {1: 0.9, 2: 0.4, 4: 0.6, 5: 1.0, 7: 0.3, 20: 1.0, 25: 1.0, 26: 0.2},
    "disgust": {4: 0.5, 6: 0.4, 7: 0.7, 9: 1.0, 10: 1.0, 15: 0.3, 17: 0.4, 25: 0.5},
    "anger": {4: 1.0, 5: 0.4, 7: 0.7, 17: 0.3, 23: 0.8, 24: 0.8},
    "contempt": {12: 1.0, 14: 1.0, 43: 0.35},
}
"""Strength in [0, 1] of the action units of each expression, by unit number.

The sets of units follow the emotion prediction table of Ekman, Friesen and Hager (2002), "Facial
Action Coding System: Investigator's Guide"; contempt, which pulls only one corner of the mouth,
follows Ekman and Friesen (1986), "A new pan-cultural facial expression of emotion". The strengths,
and the lowered lid (43) of sadness and contempt, are chosen to make small drawings recognisable.
"""

ONE_SIDED: Final = (12, 14)
"""The units that contempt moves on one side only."""

HEAD_RADIUS: Final = 1.7
"""For rotations the head is an upright cylinder of this radius."""

MIRRORED: Final[tuple[int, ...]] = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # bridge of the nose
    *range(35, 30, -1),  # wings of the nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)
"""Landmark i of a mirrored image is landmark `MIRRORED[i]` of the image."""


SKINS: Final = np.array(
    [
        (240, 208, 186),
        (232, 190, 160),
        (226, 176, 132),
        (196, 136, 94),
        (146, 92, 62),
        (98, 64, 46),
    ]
)
HAIRS: Final = (
    (32, 27, 25),
    (64, 43, 32),
    (108, 70, 42),
    (156, 108, 62),
    (206, 168, 108),
    (146, 146, 148),
    (222, 220, 216),
    (146, 66, 34),
)
EYES: Final = ((66, 42, 26), (98, 64, 34), (60, 92, 66), (66, 100, 142), (92, 100, 108))
CLOTHES: Final = (
    (52, 62, 92),
    (140, 46, 50),
    (60, 98, 76),
    (210, 206, 198),
    (38, 38, 42),
    (176, 144, 82),
)
HAIR_STYLES: Final = ("bald", "short", "fringe", "long", "curly")


@dataclass(frozen=True, slots=True)
class Identity:
    """The proportions of a person, in units of the distance between the eye centres."""

    width: float  # half the width of the head
    chin: float
    squareness: float  # exponent of the jaw's superellipse: 2 is an ellipse
    forehead: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow: float
    brow_arch: float
    brow_thickness: float
    nose: float
    nose_width: float
    mouth: float
    mouth_width: float
    lips: float

    @classmethod
    def draw(cls, rng: np.random.Generator, variety: float) -> "Identity":
        """Draw a person; `variety` 0 gives the average person, 1 the full range."""
        ranges = (
            (1.02, 1.20),
            (1.62, 1.90),
            (1.9, 2.7),
            (1.15, 1.35),
            (0.50, 0.60),
            (0.22, 0.26),
            (-0.05, 0.02),
            (-0.42, -0.34),
            (0.4, 1.3),
            (0.045, 0.085),
            (0.54, 0.66),
            (0.20, 0.29),
            (1.02, 1.12),
            (0.36, 0.44),
            (0.09, 0.17),
        )
        low, high = np.array(ranges).T
        place = 0.5 + variety * (rng.random(len(ranges)) - 0.5)
        return cls(*(low + place * (high - low)).tolist())


def tint(
    colour: Colour, factor: float, towards: Colour = (0, 0, 0), fraction: float = 0.0
) -> Colour:
    """Return a colour scaled in brightness by a factor, then mixed with a fraction of another."""
    mixed = (
        min(255, round((1 - fraction) * factor * own + fraction * other))
        for own, other in zip(colour, towards, strict=True)
    )
    red, green, blue = mixed
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Traits:
    """Colours, hair, beard and glasses of a person."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    shirt: Colour
    style: str
    beard: str  # 'none', 'stubble', 'full'
    glasses: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, variety: float) -> "Traits":
        """Draw traits; the probability of glasses and of beards is proportional to `variety`."""
        tone = rng.random() * (len(SKINS) - 1.001)
        below, weight = int(tone), tone % 1
        rgb = (1 - weight) * SKINS[below] + weight * SKINS[below + 1] + rng.uniform(-8, 8, 3)
        red, green, blue = rgb.clip(0, 255).astype(int).tolist()
        skin = (red, green, blue)
        hair = HAIRS[rng.integers(len(HAIRS))]
        iris = EYES[rng.integers(len(EYES))]
        shirt = CLOTHES[rng.integers(len(CLOTHES))]
        style = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
        made_up, bearded, glasses = rng.random(3)
        lips = tint(skin, 0.80, (178, 52, 62), 0.30 + 0.4 * (made_up < 0.25))
        beard = "none"
        if style in ("bald", "short") and bearded < 0.45 * variety:
            beard = "full" if bearded < 0.2 * variety else "stubble"
        return cls(skin, hair, iris, lips, shirt, style, beard, bool(glasses < 0.15 * variety))


@dataclass(frozen=True, slots=True)
class Muscles:
    """The movement of a face: action units, the side of one-sided ones, valence and arousal."""

    units: Mapping[int, float]
    side: int  # -1 or +1: only this side of `ONE_SIDED` moves; 0: both
    valence: float
    arousal: float

    @classmethod
    def draw(
        cls,
        expression: int,
        valence: float,
        arousal: float,
        rng: np.random.Generator,
        variety: float,
    ) -> "Muscles":
        """Draw how strongly a person shows an expression.

        The number of random draws does not depend on the expression, so the same generator gives
        the same person, pose and light to every expression.
        """
        strength = 1 - 0.15 * variety * rng.random()
        jitter = 1 + 0.12 * variety * rng.uniform(-1, 1, 44)
        side = -1 if rng.random() < 0.5 else 1
        prototype = PROTOTYPES[EXPRESSIONS[expression]]
        units = {unit: full * strength * jitter[unit] for unit, full in prototype.items()}
        one_sided = EXPRESSIONS[expression] == "contempt"
        return cls(units, side if one_sided else 0, valence, arousal)

    def unit(self, number: int, side: int = 0) -> float:
        """Return the strength of an action unit, 0 at rest, on one side of the face."""
        if number in ONE_SIDED and self.side * side < 0:
            return 0.0
        return self.units.get(number, 0.0)

    @property
    def gap(self) -> float:
        """Distance between the lips. It grows with arousal and is always above zero."""
        parted = 0.02 + 0.30 * self.unit(26) + 0.09 * self.unit(25) + 0.05 * self.unit(20)
        return parted * (1 + 0.45 * self.arousal)


def landmarks(person: Identity, muscles: Muscles) -> Points:
    """Return the 68 landmarks of a face in iBUG's order, (68, 3) in the face's frame.

    0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth (Sagonas et al. 2013, "300 Faces
    in-the-Wild Challenge").
    """
    points = np.zeros((68, 3))
    points[0:17, :2] = _jaw(person, 0.6 * muscles.gap - 0.03 * muscles.unit(17))
    points[17:22, :2] = _brow(person, muscles, -1)
    points[22:27, :2] = _brow(person, muscles, 1)[::-1]
    points[27:36] = _nose(person, muscles)
    left, right = _eye(person, muscles, -1), _eye(person, muscles, 1)
    points[36:42, :2] = left
    points[42:48, :2] = right[[3, 2, 1, 0, 5, 4]]
    points[48:68, :2] = _mouth(person, muscles)
    return points


def _jaw(person: Identity, drop: float) -> Points:
    angle = np.linspace(0, np.pi, 17)
    power = 2 / person.squareness
    cos, sin = np.cos(angle), np.sin(angle).clip(0)
    x = -person.width * np.sign(cos) * np.abs(cos) ** power
    y = 0.02 + (person.chin - 0.02) * sin**power + drop * sin**2
    return np.stack([x, y], axis=1)


def _brow(person: Identity, muscles: Muscles, side: int) -> Points:
    """Return five points from the temple to the nose."""
    inner = np.array([0.0, 0.12, 0.35, 0.68, 1.0])
    outer = np.array([0.65, 1.0, 0.85, 0.45, 0.15])
    arch = np.array([0.07, -0.01, -0.04, -0.03, 0.01])
    raised, lowered = muscles.unit(1), muscles.unit(4)
    x = np.array([0.86, 0.71, 0.53, 0.34, 0.16]) - inner * (0.06 * lowered + 0.02 * muscles.unit(9))
    y = person.brow + person.brow_arch * arch
    y = y - 0.24 * raised * inner - 0.20 * muscles.unit(2) * outer
    # With raised inner brows, the brow lowerer draws them together rather than down.
    y = y + lowered * (0.19 * inner * max(0.0, 1 - 0.8 * raised) + 0.03)
    y = y + 0.07 * muscles.unit(9) * inner + 0.03 * muscles.unit(43)
    return np.stack([side * x, y], axis=1)


def _nose(person: Identity, muscles: Muscles) -> Points:
    lift = 0.06 * muscles.unit(9) + 0.02 * muscles.unit(10)
    wing = person.nose_width * (1 + 0.15 * muscles.unit(9) + 0.05 * muscles.unit(12))
    points = np.zeros((9, 3))
    points[:4, 1] = np.linspace(0.04, person.nose - 0.6 * lift, 4)
    points[:4, 2] = 0.10, 0.20, 0.31, 0.40
    points[4:, 0] = wing * np.array([-1, -0.45, 0, 0.45, 1])
    points[4:, 1] = person.nose + np.array([0.04, 0.10, 0.13, 0.10, 0.04])
    points[4:, 1] -= lift * np.array([1.3, 0.9, 0.7, 0.9, 1.3])
    points[4:, 2] = 0.12, 0.20, 0.25, 0.20, 0.12
    return points


def _eye(person: Identity, muscles: Muscles, side: int) -> Points:
    """Return six points: outer corner, upper lid, inner corner, lower lid back to the outside."""
    unit = muscles.unit
    open_ = person.eye_open * (1 + 0.38 * muscles.arousal)
    squeeze = 0.30 * unit(7) + 0.18 * unit(6) + 0.12 * unit(4) * (1 - min(1.0, unit(1)))
    upper = 0.62 * open_ * max(0.15, 1 + 0.55 * unit(5) - squeeze - 0.75 * unit(43))
    lower = 0.38 * open_ * max(0.15, 1 + 0.20 * unit(5) - 0.55 * unit(7) - 0.75 * unit(6))
    half = person.eye_width / 2
    slant = 0.05 * unit(1) * (1 - min(1.0, unit(2)))  # grief lifts the lid towards the nose
    x = 0.5 + half * np.array([1, 0.40, -0.40, -1, -0.40, 0.40])
    y = np.array([person.eye_tilt, -upper + slant, -upper - slant, 0.02, lower, lower])
    return np.stack([side * x, y], axis=1)


def _mouth(person: Identity, muscles: Muscles) -> Points:
    """Return twenty points: the outer lips, then the inner lips, each clockwise from the left."""
    unit, gap = muscles.unit, muscles.gap
    thin = max(0.2, 1 - 0.35 * unit(23) - 0.35 * unit(24) - 0.2 * unit(20) - 0.2 * unit(12))
    seam = person.mouth - 0.07 * unit(10) - 0.05 * unit(17) - 0.02 * unit(9)
    upper, lower = seam - 0.25 * gap, seam + 0.75 * gap
    narrow = 1 + 0.22 * unit(20) - 0.10 * unit(24) - 0.08 * unit(17) - 0.22 * unit(26)
    sides = {}
    for side in (-1, 1):
        pull, dimple = unit(12, side), unit(14, side)
        half = person.mouth_width * max(0.5, narrow + 0.20 * pull + 0.12 * dimple)
        lift = 0.19 * pull + 0.07 * dimple - 0.17 * unit(15) + 0.09 * muscles.valence
        sides[side] = half, person.mouth - lift + 0.02 * unit(20) + 0.26 * gap

    def curve(at: Points, middle: float, power: float) -> Points:
        """Place points along the mouth; `at` runs from -1, the left corner, to 1."""
        half = np.where(at < 0, sides[-1][0], sides[1][0])
        corner = np.where(at < 0, sides[-1][1], sides[1][1])
        return np.stack([half * at, middle + (corner - middle) * np.abs(at) ** power], axis=1)

    # An open mouth is round, and a raised upper lip makes it square.
    square = 2.0 + 1.2 * unit(10) + 0.8 * unit(20)
    outer_at, inner_at = np.array([-1, -0.66, -0.28, 0, 0.28, 0.66, 1]), np.array([-0.88, -0.4, 0])
    inner_at = np.concatenate([inner_at, -inner_at[1::-1]])
    top, bottom = curve(outer_at, upper, square), curve(outer_at, lower, 2.2)
    thickness = person.lips * thin
    top[:, 1] -= thickness * np.array([0, 0.55, 1.0, 0.85, 1.0, 0.55, 0])
    bottom[:, 1] += 1.15 * thickness * np.array([0, 0.6, 0.95, 1.0, 0.95, 0.6, 0])
    inner_top, inner_bottom = curve(inner_at, upper, square), curve(inner_at, lower, 2.2)
    # The two curves share the inner corners: half way between their ends.
    for end in (0, 4):
        inner_top[end, 1] = (inner_top[end, 1] + inner_bottom[end, 1]) / 2
    return np.concatenate([top, bottom[-2:0:-1], inner_top, inner_bottom[-2:0:-1]])


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of a head in the image: angles in radians, scale in pixels per unit."""

    roll: float
    yaw: float
    pitch: float
    scale: float
    x: float
    y: float

    @classmethod
    def draw(cls, person: Identity, size: int, rng: np.random.Generator, variety: float) -> "Pose":
        """Draw a pose that keeps all landmarks in a square image with any expression."""
        lean, turn, nod, near, right, down = variety * rng.uniform(-1, 1, 6)
        free = cls(np.deg2rad(20) * lean, np.deg2rad(24) * turn, np.deg2rad(10) * nod, 1, 0, 0)
        # The extremes of all expressions: jaw fully down, brows fully up.
        open_wide = _jaw(person, 0.42)
        high_brows = np.array([[-0.9, person.brow - 0.36], [0.9, person.brow - 0.36]])
        extremes = np.concatenate([_jaw(person, 0.0), open_wide, high_brows])
        box = free.project(np.column_stack([extremes, np.zeros(len(extremes))]))
        low, high = box.min(axis=0), box.max(axis=0)
        # A margin of 1/64 of the side stays free: half a pixel of the smallest image.
        inner = size * 31 / 32
        scale = min((0.325 + 0.03 * near) * size, 0.97 * inner / float((high - low).max()))
        room = inner - scale * (high - low)
        at = room * (0.5 + 0.5 * np.clip(np.array([right, 0.6 * down + 0.1]), -0.95, 0.95))
        shift = at + size / 64 - scale * low - 0.5
        return cls(free.roll, free.yaw, free.pitch, scale, float(shift[0]), float(shift[1]))

    def project(self, points: Points) -> Points:
        """Project points in the face's frame (n, 3) to pixels (n, 2) with centres at integers."""
        x, y = points[:, 0], points[:, 1]
        depth = np.sqrt(np.maximum(HEAD_RADIUS**2 - x * x, 0)) - 1.1 + points[:, 2]
        turned = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        nodded = y * np.cos(self.pitch) + depth * np.sin(self.pitch)
        cos, sin = self.scale * np.cos(self.roll), self.scale * np.sin(self.roll)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.x + cos * turned - sin * nodded
        pixels[:, 1] = self.y + sin * turned + cos * nodded
        return pixels


@lru_cache(maxsize=32)
def spline_matrix(n: int, steps: int) -> Points:
    """Return the matrix that turns `n` points into a smooth curve through all of them.

    An open Catmull-Rom spline with `steps` pieces between neighbours; (n - 1) * steps + 1 rows.
    """
    padded = np.zeros((n + 2, n))
    padded[1:-1] = np.eye(n)
    padded[0, :2] = 2, -1
    padded[-1, -2:] = -1, 2
    t = np.arange(steps)[:, None] / steps
    weights = 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3],
        axis=1,
    )
    pieces = [weights @ padded[i : i + 4] for i in range(n - 1)]
    return np.concatenate([*pieces, np.eye(n)[-1:]])


def smooth(points: Points, steps: int = 4) -> Points:
    """Return an open smooth curve through points (n, d)."""
    return spline_matrix(len(points), steps) @ points
