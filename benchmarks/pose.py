"""Head pose on drawn faces whose pose is known, compared with the answer "from the front".

    python benchmarks/pose.py [--faces 400]

`landmarks` are the drawn points themselves: what the method could reach. `YuNet` are those of the
detector, as in `affectnet predict`. The errors are mean absolute ones in degrees; the slope is that
of the found angle over the true one, 1 where it is not underestimated.
"""

import argparse

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from affectnet.data.drawn.shape import Identity, Muscles, Pose, Traits, landmarks
from affectnet.data.drawn.sketch import background, sketch_face
from affectnet.inference.detector import FaceDetector
from affectnet.inference.quality import head_pose

SIZE = 256
RANGES = {"up to 24, 10 and 20 degrees": (24, 10, 20), "up to 45, 25 and 35 degrees": (45, 25, 35)}


def main() -> None:
    """Draw, detect and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=400)
    faces = parser.parse_args().faces
    console = Console(width=110)
    for title, most in RANGES.items():
        table = Table("points", "faces", "yaw", "pitch", "roll", "slopes", title=title)
        true, found = measure(faces, np.deg2rad(most))
        for name, poses in found.items():
            known = np.isfinite(poses[:, 0])
            errors = np.abs(poses - true)[known].mean(axis=0)
            alone = np.abs(true[known]).mean(axis=0)
            slopes = [np.polyfit(true[known, i], poses[known, i], 1)[0] for i in range(3)]
            cells = (f"{e:.1f} ({e / a:.2f})" for e, a in zip(errors, alone, strict=True))
            table.add_row(name, str(known.sum()), *cells, " ".join(f"{s:.2f}" for s in slopes))
        console.print(table)
    console.print("in brackets: over the error of the answer 0, 0, 0")


def measure(faces: int, most: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return true poses in degrees, and those found by each set of points; NaN where none is."""
    detector, true = FaceDetector(), []
    found: dict[str, list] = {"landmarks": [], "YuNet": []}
    for i in range(faces):
        rng = np.random.default_rng([9, i])
        person, traits = Identity.draw(rng, 1.0), Traits.draw(rng, 1.0)
        muscles = Muscles.draw(i % 8, *rng.uniform(-0.6, 0.6, 2), rng, 1.0)
        yaw, pitch, roll = rng.uniform(-1, 1, 3) * most
        marks = landmarks(person, muscles)
        points = Pose(roll, yaw, pitch, SIZE / 4, 0, 0).project(marks)
        x, y = (SIZE - points.min(axis=0) - points.max(axis=0)) / 2
        pose = Pose(roll, yaw, pitch, SIZE / 4, float(x), float(y))
        canvas = Image.new("RGB", (2 * SIZE, 2 * SIZE))
        draw = ImageDraw.Draw(canvas)
        background(draw, canvas.width, rng)
        sketch_face(person, traits, muscles, marks).paint(draw, pose, 2)
        points = pose.project(marks)
        eyes = [points[36:42].mean(axis=0), points[42:48].mean(axis=0)]
        seen = detector.detect(np.asarray(canvas.reduce(2)))[:1]
        five = {"landmarks": [*eyes, points[30], points[48], points[54]]}
        five["YuNet"] = seen[0].landmarks if seen else [(0.0, 0.0)] * 5
        true.append(np.rad2deg((yaw, -pitch, roll)))
        for name, where in five.items():
            found[name].append(head_pose(where) or (np.nan,) * 3)
    return np.array(true), {name: np.array(poses) for name, poses in found.items()}


if __name__ == "__main__":
    main()
