"""The surroundings of a drawn face: background, covering objects, light and camera."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from affectnet.data.drawn.shape import Pose
from affectnet.data.drawn.sketch import Traits


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
