"""Drawn films for benchmarks and tests: faces that move, grow, enter and leave, and cuts."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.drawn.release import render

PORTRAIT = Path(__file__).parents[1] / "tests" / "files" / "astronaut.jpg"
Frames = list[NDArray[np.uint8]]


def draw_film(
    frames: int, size: tuple[int, int] = (640, 480), fps: float = 25, seed: int = 0
) -> Frames:
    """Draw a film of scenes of about three seconds, uint8 RGB (height, width, 3).

    A scene has a textured background and one to three persons, a portrait and drawn faces. Each
    moves at up to a third of the width per second and changes its size; in each scene one enters or
    leaves at an edge. Scenes follow each other by cuts.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    film: Frames = []
    while len(film) < frames:
        length = int(fps * rng.uniform(2, 4))
        coarse = rng.integers(40, 200, (height // 40, width // 40, 3), np.uint8)
        ground = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        people = [_person(rng, size, i) for i in range(rng.integers(1, 4))]
        leaves = rng.integers(len(people))
        for i in range(min(length, frames - len(film))):
            image = ground.copy()
            for number, (face, at, speed, scale, swing) in enumerate(people):
                time = i / fps
                x, y = at + speed * time + swing * np.sin(2 * np.pi * time / 1.7)
                if number == leaves:  # from outside of the frame, or to it
                    x += width * (1.2 * i / length - 0.4 if seed % 2 else 1.0 - 1.2 * i / length)
                side = face.shape[0] * scale * (1 + 0.25 * np.sin(time))
                _paste(image, face, x, y, side / face.shape[0])
            film.append(image)
    return film


def _person(rng: np.random.Generator, size: tuple[int, int], number: int):
    width, height = size
    if number == 0 and PORTRAIT.is_file():
        face = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    else:
        face, _ = render(int(rng.integers(8)), 0.3, 0.2, rng, size=256, variety=0.5)
    at = np.array([rng.uniform(0, 0.25) + number * 0.3, rng.uniform(0, 0.3)]) * (width, height)
    speed = rng.uniform(-0.12, 0.12, 2) * width
    swing = rng.uniform(-0.06, 0.06, 2) * width
    return face, at, speed, rng.uniform(0.35, 0.9) * height / 480, swing


def _paste(image: NDArray[np.uint8], face: NDArray[np.uint8], x: float, y: float, scale: float):
    """Paste with an accuracy below a pixel, so that slow movements are smooth."""
    move = np.array([[scale, 0, x], [0, scale, y]])
    height, width = image.shape[:2]
    small = cv2.resize(face, None, fx=min(1.0, scale), fy=min(1.0, scale), interpolation=3)
    move[:, :2] *= face.shape[0] / small.shape[0]
    cv2.warpAffine(small, move, (width, height), image, borderMode=cv2.BORDER_TRANSPARENT)
