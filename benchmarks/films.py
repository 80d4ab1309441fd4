"""Drawn films for benchmarks and tests: faces that move, grow, enter and leave, and cuts."""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.drawn.release import render
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

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


class Shown(NamedTuple):
    """What a person of `persons_film` shows, from one time to another in seconds."""

    expression: str
    start: float
    end: float


def plan(persons: int = 3, seconds: float = 60.0, seed: int = 0) -> list[list[Shown]]:
    """Draw what each person shows when: neutral first, then for 1.5 to 5 seconds each."""
    rng = np.random.default_rng(seed)
    names = ("neutral", "happiness", "surprise", "anger", "sadness")
    plans = []
    for _ in range(persons):
        shown, time, name = [], 0.0, "neutral"
        while time < seconds:
            length = 4.0 if time == 0 else float(rng.integers(15, 50)) / 10
            end = seconds if time + length > seconds - 1.5 else time + length
            shown.append(Shown(name, time, end))
            time, name = end, str(rng.choice([other for other in names if other != name]))
        plans.append(shown)
    return plans


def persons_film(
    plans: list[list[Shown]],
    seconds: float = 60.0,
    fps: float = 20.0,
    size: tuple[int, int] = (640, 240),
    people: tuple[int, ...] = (9, 11, 14, 12),
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of persons side by side, from left to right, who sway and show their plan."""
    width, height = size
    side = min(height, width // len(plans))
    ground = np.full((height, width, 3), 150, np.uint8)
    for i in range(round(seconds * fps)):
        time, image = i / fps, ground.copy()
        for number, shown in enumerate(plans):
            name = next(one.expression for one in shown if time < one.end)
            face = _face(people[number], name, side)
            x = number * (width / len(plans)) + 3 * np.sin(time + number)
            _paste(image, face, x, (height - side) / 2 + 2 * np.cos(0.7 * time), 1.0)
        yield image


@lru_cache(maxsize=64)
def _face(person: int, expression: str, side: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(person)
    face, _ = render(EXPRESSIONS.index(expression), *CIRCUMPLEX[expression], rng, side, variety=0.4)
    return face


def encode(frames: Iterator[NDArray[np.uint8]], path: Path, fps: float = 20.0) -> Path:
    """Write frames as an MJPEG film."""
    with av.open(str(path), "w") as output:
        stream = None
        for image in frames:
            if stream is None:
                stream = output.add_stream("mjpeg", rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuvj420p"
                stream.options = {"qmin": "2", "qmax": "4"}
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return path
