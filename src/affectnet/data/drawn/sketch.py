"""Painting of a drawn face through its 68 landmarks, and of its surroundings, light and camera."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from affectnet.data.drawn.shape import Colour, Identity, Muscles, Points, Pose, Traits, smooth, tint


class Sketch:
    """Polygons and lines in the face's frame, from back to front, painted in one pass."""

    def __init__(self) -> None:
        self._points: list[Points] = []
        self._paints: list[tuple[Colour, float]] = []

    def fill(self, polygon: Points, colour: Colour) -> None:
        """Add a filled polygon (n, 3)."""
        self._points.append(polygon)
        self._paints.append((colour, 0.0))

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Add an open line (n, 3); its width is in units of the face's frame."""
        self._points.append(points)
        self._paints.append((colour, width))

    def paint(self, canvas: ImageDraw.ImageDraw, pose: Pose, zoom: int) -> None:
        """Paint on a canvas `zoom` times as large as the image of the pose."""
        larger = replace(
            pose,
            scale=zoom * pose.scale,
            x=zoom * (pose.x + 0.5) - 0.5,
            y=zoom * (pose.y + 0.5) - 0.5,
        )
        flat = larger.project(np.concatenate(self._points)).ravel().tolist()
        start = 0
        for points, (colour, width) in zip(self._points, self._paints, strict=True):
            end = start + 2 * len(points)
            if width:
                canvas.line(flat[start:end], colour, max(1, round(width * larger.scale)))
            else:
                canvas.polygon(flat[start:end], colour)
            start = end


def lift(points: Points, depth: float = 0.0) -> Points:
    """Add a third coordinate to points (n, 2)."""
    return np.column_stack([points, np.full(len(points), depth)])


def oval(x: float, y: float, width: float, height: float, depth: float = 0.0) -> Points:
    """Return the polygon of an ellipse from its centre and half axes."""
    return np.column_stack([x + width * _COS, y + height * _SIN, np.full(len(_COS), depth)])


_ANGLES: Final = np.linspace(0, 2 * np.pi, 22)[:-1]
_COS: Final = np.cos(_ANGLES)
_SIN: Final = np.sin(_ANGLES)
_HALF: Final = np.linspace(0, np.pi, 19)


def _dome(width: float, base: float, top: float, depth: float = 0.0) -> Points:
    """Return the upper half of a head's contour, from right to left."""
    x = width * np.cos(_HALF)
    y = base - (base - top) * np.sin(_HALF) ** 0.8
    return lift(np.stack([x, y], axis=1), depth)


def sketch_face(person: Identity, traits: Traits, muscles: Muscles, marks: Points) -> Sketch:
    """Draw a person through landmarks (68, 3) in the face's frame."""
    sketch = Sketch()
    _back(sketch, person, traits)
    _head(sketch, person, traits, marks)
    _folds(sketch, person, traits, muscles, marks)
    _nose(sketch, traits, muscles, marks)
    for corner in (36, 42):
        _eye(sketch, traits, muscles, marks[corner : corner + 6])
    for first in (17, 22):
        _brow(sketch, person, traits, marks[first : first + 5], tapers_left=first == 17)
    _mouth(sketch, traits, marks)
    _front_hair(sketch, person, traits)
    if traits.glasses:
        _glasses(sketch, person, marks)
    return sketch


def _back(sketch: Sketch, person: Identity, traits: Traits) -> None:
    wide, top = person.width, -person.forehead
    if traits.style == "long":
        locks = [(1.28 * wide, 1.7), (0.9 * wide, 2.1), (-0.9 * wide, 2.1), (-1.28 * wide, 1.7)]
        hair = np.concatenate([_dome(1.2 * wide, 0, top - 0.28)[::-1], lift(np.array(locks))])
        sketch.fill(hair, tint(traits.hair, 0.8))
    elif traits.style == "curly":
        for angle in np.linspace(-0.25, np.pi + 0.25, 12):
            x, y = 1.12 * wide * np.cos(angle), -0.1 + (top + 0.05) * np.sin(angle)
            sketch.fill(oval(x, y, 0.36, 0.36, -0.1), traits.hair)
    low = person.chin
    shoulders = np.array(
        [(-0.6, 1.75), (-2.6, low + 0.75), (-3.0, 5.0), (3.0, 5.0), (2.6, low + 0.75), (0.6, 1.75)]
    )
    neck = np.array([(-0.68, 0.9), (0.68, 0.9), (0.72, 2.35), (0, 2.65), (-0.72, 2.35)])
    sketch.fill(lift(shoulders, -0.5), traits.shirt)
    sketch.fill(lift(neck, -0.4), tint(traits.skin, 0.74))
    for side in (-1, 1):
        sketch.fill(oval(side * (wide + 0.02), 0.22, 0.16, 0.30, -0.25), tint(traits.skin, 0.86))


def _head(sketch: Sketch, person: Identity, traits: Traits, marks: Points) -> None:
    jaw = smooth(marks[:17], 3)
    top = _dome(person.width, marks[0, 1], -person.forehead)
    sketch.fill(np.concatenate([jaw, top[1:-1]]), traits.skin)
    if traits.beard != "none":
        density = 0.85 if traits.beard == "full" else 0.25
        colour = tint(traits.skin, 1.0, traits.hair, density)
        inside = marks[3:14].copy()
        inside[:, 0] *= 0.62
        inside[:, 1] = 0.5 * (inside[:, 1] + marks[33, 1]) - 0.05
        sketch.fill(np.concatenate([smooth(marks[2:15], 3), smooth(inside, 2)[::-1]]), colour)
        lip = smooth(marks[48:55], 2)
        upper = lip * (1.12, 1, 1) - (0, 0.13, 0)
        sketch.fill(np.concatenate([upper, smooth(marks[[54, 55, 57, 59, 48]], 2)]), colour)


def _folds(
    sketch: Sketch, person: Identity, traits: Traits, muscles: Muscles, marks: Points
) -> None:
    """Draw the creases that muscles make in the skin."""
    unit = muscles.unit

    def crease(points: list[tuple[float, float]], strength: float) -> None:
        if strength > 0.15:
            colour = tint(traits.skin, 1 - 0.28 * min(1.0, strength))
            sketch.line(smooth(lift(np.array(points))), colour, 0.02 + 0.014 * strength)

    flush = 0.10 + 0.25 * unit(6)
    for side in (-1, 1):
        low = 0.62 - 0.08 * unit(6)
        sketch.fill(oval(side * 0.62, low, 0.27, 0.2), tint(traits.skin, 1.0, (226, 92, 88), flush))
        corner = marks[54 if side > 0 else 48]
        x, y = float(corner[0]), float(corner[1])
        wing = float(marks[35 if side > 0 else 31, 1])
        pull = max(unit(12, side), unit(10), 0.8 * unit(9))
        fold = [(side * 0.33, wing - 0.02), (x * 0.5 + side * 0.28, (wing + y) / 2 - 0.04)]
        crease([*fold, (x + side * 0.10, y + 0.04)], pull)
        dimple = unit(14, side)
        crease(
            [(x + side * 0.07, y - 0.12), (x + side * 0.12, y), (x + side * 0.07, y + 0.10)], dimple
        )
        crease([(x + side * 0.02, y + 0.06), (x + side * 0.06, y + 0.18)], 0.8 * unit(15))
        # The brow lowerer folds the skin between the brows vertically, the nose wrinkler across.
        crease([(side * 0.07, person.brow + 0.18), (side * 0.06, person.brow - 0.08)], unit(4))
        for step in range(3):
            start = 0.14 + 0.10 * step
            crease([(side * 0.03, start - 0.03), (side * 0.19, start + 0.05)], unit(9))
        for tilt in (-0.09, 0.0, 0.09):
            crease([(side * 0.86, tilt), (side * 0.99, 2 * tilt)], unit(6) * (unit(12) > 0))
    raised = max(unit(1), unit(2))
    high = -0.62 * person.forehead - 0.05
    for row in range(3):
        y = high + 0.11 * row - 0.06
        bow = 0.05 * (2 * unit(2) - 1)
        half = 0.30 + 0.22 * unit(2)
        crease([(-half, y + bow), (0, y), (half, y + bow)], raised * 0.8)


def _nose(sketch: Sketch, traits: Traits, muscles: Muscles, marks: Points) -> None:
    dark, light = tint(traits.skin, 0.80), tint(traits.skin, 1.09)
    bridge, base = marks[27:31], marks[31:36]
    width = np.array([0.05, 0.055, 0.065, 0.10])[:, None] * np.array([[1.0, 0, 0]])
    sketch.fill(np.concatenate([bridge - width, (bridge + width)[::-1]]), light)
    sketch.line(smooth(bridge + 1.15 * width), dark, 0.025)
    flare = 0.05 + 0.02 * muscles.unit(9)
    wings = np.stack([base[0] - (flare, 0.10, 0), base[0] - (flare, 0, 0), *base[1:4]])
    wings = np.concatenate([wings, [base[4] + (flare, 0, 0), base[4] + (flare, -0.10, 0)]])
    sketch.line(smooth(wings, 3), dark, 0.035)
    for nostril in (base[1], base[3]):
        x, y, depth = (float(v) for v in nostril)
        sketch.fill(oval(x, y - 0.02, 0.06, 0.03, depth), tint(traits.skin, 0.42))


def _eye(sketch: Sketch, traits: Traits, muscles: Muscles, marks: Points) -> None:
    upper, lower = smooth(marks[:4]), smooth(marks[[3, 4, 5, 0]])
    middle = marks.mean(axis=0)
    half = abs(float(marks[3, 0] - marks[0, 0])) / 2
    lid = upper - (0, 0.07 * (1 - 0.6 * muscles.unit(5)), 0)
    shade = tint(traits.skin, 0.84)
    socket = np.concatenate([lid, np.add(lower[1:], (0, 0.03, 0))])
    sketch.fill(socket, shade)
    sketch.fill(np.concatenate([upper, lower[1:]]), (244, 242, 238))
    # The lids cut off the iris.
    x, y = float(middle[0]), float(marks[[0, 3], 1].mean()) - 0.01
    radius = 0.125 * half / 0.275

    top_x, bottom_x = np.maximum.accumulate(upper[:, 0]), np.maximum.accumulate(lower[::-1, 0])

    def within_lids(polygon: Points) -> Points:
        top = np.interp(polygon[:, 0], top_x, upper[:, 1])
        bottom = np.interp(polygon[:, 0], bottom_x, lower[::-1, 1])
        clipped = polygon.copy()
        clipped[:, 1] = np.clip(polygon[:, 1], top, bottom)
        return clipped

    pupil = radius * (0.5 + 0.08 * muscles.arousal)
    sketch.fill(within_lids(oval(x, y, radius, radius)), traits.iris)
    sketch.fill(within_lids(oval(x, y, pupil, pupil)), (14, 12, 12))
    sketch.fill(within_lids(oval(x - 0.05, y - 0.05, 0.025, 0.025)), (255, 255, 255))
    sketch.line(upper, (38, 28, 26), 0.04)
    sketch.line(lower, tint(traits.skin, 0.62), 0.018)


def _brow(
    sketch: Sketch, person: Identity, traits: Traits, marks: Points, *, tapers_left: bool
) -> None:
    middle = smooth(marks)
    taper = np.linspace(0.3, 1.0, len(middle))
    if not tapers_left:
        taper = taper[::-1]
    half = np.zeros_like(middle)
    half[:, 1] = person.brow_thickness * taper * 0.8
    colour = tint(traits.hair if traits.style != "bald" else (64, 48, 40), 0.72)
    sketch.fill(np.concatenate([middle - half, (middle + half)[::-1]]), colour)


def _mouth(sketch: Sketch, traits: Traits, marks: Points) -> None:
    outer = np.concatenate(
        [smooth(marks[48:55], 3), smooth(marks[[54, 55, 56, 57, 58, 59, 48]], 3)]
    )
    upper, lower = smooth(marks[60:65], 3), smooth(marks[[60, 67, 66, 65, 64]], 3)
    sketch.fill(outer, traits.lips)
    sketch.fill(np.concatenate([upper, lower[::-1]]), (64, 18, 22))
    gap = np.maximum(lower[:, 1] - upper[:, 1], 0)
    if gap.max() > 0.06:
        teeth = upper.copy()
        teeth[:, 1] += np.minimum(0.62 * gap, 0.15)
        sketch.fill(np.concatenate([upper[1:-1], teeth[-2:0:-1]]), (240, 236, 226))
    if gap.max() > 0.2:
        tongue = lower.copy()
        tongue[:, 1] -= 0.3 * gap
        sketch.fill(np.concatenate([lower[2:-2], tongue[-3:1:-1]]), (190, 84, 86))
    seam = np.concatenate([marks[48:49], upper, marks[54:55]])
    sketch.line(seam, tint(traits.lips, 0.42), 0.03)


def _front_hair(sketch: Sketch, person: Identity, traits: Traits) -> None:
    if traits.style == "bald":
        return
    wide, top = 1.05 * person.width, -person.forehead - 0.14
    line = {"short": -0.86, "fringe": -0.74, "long": -0.84, "curly": -0.82}[traits.style]
    line *= person.forehead / 1.25
    cap = _dome(wide, -0.05, top, -0.05)
    if traits.style == "long":  # parted
        edge = [(-0.93, -0.1), (-0.80, -0.5), (-0.2, line - 0.12), (0.3, line), (0.85, -0.45)]
        edge.append((0.93, -0.1))
    elif traits.style == "fringe":
        edge = [(-0.95, -0.1), (-0.86, line + 0.1), (-0.3, line), (0.35, line + 0.03)]
        edge += [(0.86, line + 0.1), (0.95, -0.1)]
    else:
        edge = [(-0.94, -0.15), (-0.84, -0.55), (-0.5, line), (0.5, line - 0.02)]
        edge += [(0.84, -0.55), (0.94, -0.15)]
    hairline = lift(np.array(edge) * (person.width, 1), -0.02)
    sketch.fill(np.concatenate([cap, smooth(hairline, 3)]), traits.hair)
    shine = smooth(lift(np.array([(-0.5, top + 0.2), (-0.1, top + 0.1), (0.4, top + 0.14)])))
    sketch.line(shine, tint(traits.hair, 1.0, (255, 255, 255), 0.22), 0.05)


def _glasses(sketch: Sketch, person: Identity, marks: Points) -> None:
    frame, width = (34, 32, 36), 0.04
    for side, eye in ((-1, marks[36:42]), (1, marks[42:48])):
        x = float(eye[:, 0].mean())
        ring = oval(x, 0.06, 0.40, 0.33, 0.1)
        sketch.line(np.concatenate([ring, ring[:2]]), frame, width)
        arm = np.array([(x + side * 0.40, 0.02, 0.1), (side * person.width, 0.0, -0.1)])
        sketch.line(arm, frame, width)
    sketch.line(
        np.array([(-0.11, 0.02, 0.15), (0.0, -0.02, 0.2), (0.11, 0.02, 0.15)]), frame, width
    )


def background(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Fill the canvas with a colour and three ellipses."""
    level, colour = rng.uniform(50, 215, (4, 1)), rng.uniform(-38, 38, (4, 3))
    colours = np.clip(level + colour, 0, 255).astype(int).tolist()
    places = (rng.random((3, 3)) * side).tolist()
    draw.rectangle((0, 0, side, side), fill=tuple(colours[0]))
    for (x, y, extent), colour in zip(places, colours[1:], strict=True):
        half = extent / 2
        draw.ellipse((x - half, y - half, x + half, y + half), fill=tuple(colour))


def cover(
    draw: ImageDraw.ImageDraw,
    side: int,
    pose: Pose,
    zoom: int,
    traits: Traits,
    rng: np.random.Generator,
    variety: float,
) -> None:
    """Cover some faces in part: by a patch, a hand, or a scarf over the chin."""
    chance, kind, x, y, turn, extent = rng.random(6).tolist()
    grey = rng.integers(20, 230, 3).tolist()
    if chance >= 0.15 * variety:
        return
    unit = zoom * pose.scale
    if kind < 0.4:
        angle, half = np.pi * turn, (0.3 + 0.35 * extent) * unit
        corners = angle + np.array([0.6, np.pi - 0.6, np.pi + 0.6, -0.6])
        at = np.stack(
            [x * side + half * np.cos(corners), y * side + half * np.sin(corners)], axis=1
        )
        draw.polygon(at.ravel().tolist(), fill=tuple(grey))
    elif kind < 0.7:
        reach = (0.25 + 0.3 * extent) * side
        foot = (x * side, side * 1.1)
        tip = (foot[0] + (0.5 - turn) * side * 0.5, side - reach)
        for finger in range(4):
            shift = (finger - 1.5) * 0.24 * unit
            short = 0.12 * unit * abs(finger - 1.6)
            at4 = (foot[0] + shift, foot[1], tip[0] + shift, tip[1] + short)
            draw.line(at4, tuple(int(0.85 * c) for c in traits.skin), max(1, round(0.21 * unit)))
            end, radius = (tip[0] + shift, tip[1] + short), 0.1 * unit
            box = (end[0] - radius, end[1] - radius, end[0] + radius, end[1] + radius)
            draw.ellipse(box, fill=tuple(int(0.85 * c) for c in traits.skin))
    else:
        top = np.array([[-1.6, 1.35 + 0.4 * extent, 0.3], [1.6, 1.35 + 0.4 * turn, 0.3]])
        low = np.add(top[::-1], (0, 3.0, 0))
        band = zoom * (pose.project(np.concatenate([top, low])) + 0.5) - 0.5
        draw.polygon(band.ravel().tolist(), fill=tuple(grey))


def photograph(
    image: Image.Image, pose: Pose, rng: np.random.Generator, variety: float
) -> NDArray[np.uint8]:
    """Light the scene from one side, then simulate a camera: gain, colour cast, blur and noise."""
    size = image.width
    gain, blurred, grey = rng.uniform(-1, 1), rng.random(), rng.random()
    light = variety * rng.uniform(-1, 1, 2)
    cast = 1 + 0.05 * variety * rng.uniform(-1, 1, 3)
    noise = variety * rng.uniform(1, 7)
    if blurred < 0.2 * variety:
        image = image.filter(ImageFilter.BoxBlur(size / 224 * 4 * blurred / 0.2))
    if grey < 0.05 * variety:
        image = image.convert("L").convert("RGB")
        cast = np.ones(3)
    pixels = np.asarray(image, np.float32)
    shade = _shading(size, pose, light) * (1 + variety * (0.18 * gain - 0.06))
    pixels = pixels * (shade[:, :, None] * cast.astype(np.float32))
    if noise:
        # One draw per pixel, weighted by channel, takes a third of the time and looks the same.
        grain = rng.standard_normal((size, size), np.float32) * np.float32(noise)
        pixels += grain[:, :, None] * np.array([1.0, 0.8, -0.6], np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _shading(size: int, pose: Pose, light: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the brightness of each pixel: the head as a ball, lit from direction `light`."""
    coarse = 24
    at = (np.arange(coarse) + 0.5) * size / coarse - 0.5
    dx, dy = (at - pose.x) / pose.scale, (at[:, None] - pose.y) / pose.scale
    cos, sin = np.cos(pose.roll), np.sin(pose.roll)
    x = (cos * dx + sin * dy - 0.6 * np.sin(pose.yaw)) / 1.35
    y = (cos * dy - sin * dx - 0.4) / 1.75
    inside = np.clip(1.1 - x * x - y * y, 0, 1)
    shade = 1 + (0.32 * light[0] * x + 0.22 * light[1] * y) * (0.35 + 0.65 * inside)
    shade = shade - 0.14 * (1 - inside) + 0.04 * inside
    full = Image.fromarray(shade.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(full)
