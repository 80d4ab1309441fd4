"""The sample video: two drawn persons whose expressions change, made when it is first asked for."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from affectnet.data.drawn.release import render
from affectnet.data.images import Pixels
from affectnet.inference.annotated_video import CODECS, encoder_of
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS
from affectnet.run import write_beside

FPS: Final = 12
SIDE: Final = 320
PERSONS: Final = (
    (2, ("happiness", "surprise", "sadness", "happiness")),
    (4, ("surprise", "happiness", "happiness", "fear")),
)
"""For each person the seed of its face, and its expressions, one after another."""
SECONDS_EACH: Final = 2.5
_FADE: Final = 0.4
_SWAY: Final = 10


def write_sample(path: Path) -> None:
    """Write the video, which ends in `.mp4` or `.webm`; complete or not at all."""
    encoder = encoder_of(path.suffix)
    with write_beside(path) as new, av.open(f"file:{new}", "w", format=path.suffix[1:]) as file:
        stream: Any = file.add_stream(encoder, rate=FPS)
        stream.width, stream.height = SIDE * len(PERSONS), SIDE
        stream.pix_fmt, stream.options = "yuv420p", CODECS[path.suffix][encoder]
        for i, pixels in enumerate(sample_frames()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def sample_frames() -> Iterator[Pixels]:
    """Yield the frames: each person shows its expressions one after another, and sways a little."""
    faces = [[_face(seed, name) for name in names] for seed, names in PERSONS]
    for i in range(round(FPS * SECONDS_EACH * len(faces[0]))):
        time = i / FPS
        at = int(time / SECONDS_EACH)
        new = min(1.0, (time - at * SECONDS_EACH) / _FADE) if at else 1.0
        right = round(_SWAY * (1 + np.sin(1.3 * time)))
        parts = []
        for shown in faces:
            mixed = new * shown[at] + (1 - new) * shown[max(0, at - 1)]
            parts.append(mixed[_SWAY : _SWAY + SIDE, right : right + SIDE])
        yield np.ascontiguousarray(np.hstack(parts).round().astype(np.uint8))


def _face(seed: int, name: str) -> Any:
    """Draw a person with an expression; the seed alone is the person, the pose and the light."""
    rng, side = np.random.default_rng(seed), SIDE + 2 * _SWAY
    pixels, _ = render(EXPRESSIONS.index(name), *CIRCUMPLEX[name], rng, side, variety=0.5)
    return pixels.astype(np.float32)
