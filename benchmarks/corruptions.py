"""Common faults of photos at three strengths, to measure how robust a model is.

After the idea of Hendrycks and Dietterich (2019, arXiv:1903.12261): fixed corruptions at fixed
strengths, applied to test images only. Every size below is a fraction of the face's side, so a
strength means the same at 48 and at 224 pixels.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, suggest

Pixels = NDArray[np.uint8]
STRENGTHS: Final = (1, 2, 3)

_EYES: Final = ((0.31, 0.40), (0.69, 0.40))
"""The eyes in a cropped upright face, as (x, y) fractions of its side."""


def corrupt(face: Pixels, kind: str, strength: int, seed: int = 0) -> Pixels:
    """Return `face` with one corruption.

    Args:
        face: (H, W, 3), RGB, a cropped upright face.
        kind: one of `CORRUPTIONS`.
        strength: 1 (slight) to 3 (heavy).
        seed: of the noise, and of the side to which a head turns.

    Raises:
        ConfigError: there is no such corruption or strength.
    """
    if kind not in CORRUPTIONS:
        raise ConfigError(
            f"there is no corruption '{kind}'{suggest(kind, CORRUPTIONS)}; "
            f"there are {', '.join(CORRUPTIONS)}"
        )
    if strength not in STRENGTHS:
        raise ConfigError(f"the strength is {strength}; it may be 1, 2 or 3")
    return CORRUPTIONS[kind](face, strength - 1, np.random.default_rng(seed))


def blur(face: Pixels, level: int, _rng: np.random.Generator) -> Pixels:
    """Out of focus: Gaussian of 1.5, 3, 4.5% of the side."""
    return _uint8(cv2.GaussianBlur(face, (0, 0), (0.015, 0.03, 0.045)[level] * max(face.shape)))


def motion(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Motion blur over 6, 12, 18% of the side, in any direction."""
    length = max(3, round((0.06, 0.12, 0.18)[level] * max(face.shape)))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    middle = ((length - 1) / 2, (length - 1) / 2)
    turned = cv2.warpAffine(
        kernel, cv2.getRotationMatrix2D(middle, rng.uniform(0, 180), 1), (length, length)
    )
    return _uint8(cv2.filter2D(face, -1, turned / turned.sum(), borderType=cv2.BORDER_REPLICATE))


def low_light(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Half, a quarter, a seventh of the light, with the noise of few photons, not brightened."""
    light, photons = ((0.5, 400), (0.25, 200), (0.14, 100))[level]
    return _uint8(rng.poisson(face / 255 * light * photons) / photons * 255)


def jpeg(face: Pixels, level: int, _rng: np.random.Generator) -> Pixels:
    """JPEG of quality 30, 15, 7."""
    quality = (30, 15, 7)[level]
    done, packed = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    decoded = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert decoded is not None
    return _uint8(decoded[..., ::-1])


def low_resolution(face: Pixels, level: int, _rng: np.random.Generator) -> Pixels:
    """A face of 24, 16, 12 pixels, enlarged again."""
    height, width = face.shape[:2]
    side = (24, 16, 12)[level]
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return _uint8(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def noise(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Gaussian noise of 4, 8, 16% of the range."""
    return _uint8(face + rng.normal(0, (0.04, 0.08, 0.16)[level] * 255, face.shape))


def glasses(face: Pixels, level: int, _rng: np.random.Generator) -> Pixels:
    """Rims, tinted glasses (60% dark), black sunglasses, where an upright face has its eyes."""
    height, width = face.shape[:2]
    side = max(height, width)
    shades = face.copy()
    axes = (round(0.155 * width), round(0.105 * height))
    centres = [(round(x * width), round(y * height)) for x, y in _EYES]
    for centre in centres:
        if level:
            cv2.ellipse(shades, centre, axes, 0, 0, 360, (15, 15, 18), cv2.FILLED, cv2.LINE_AA)
    opacity = (0.0, 0.6, 1.0)[level]
    worn = _uint8(face * (1 - opacity) + shades * opacity)
    rim = max(1, round(0.025 * side))
    for centre in centres:
        cv2.ellipse(worn, centre, axes, 0, 0, 360, (25, 22, 20), rim, cv2.LINE_AA)
    (left, y), (right, _) = centres
    cv2.line(worn, (left + axes[0], y), (right - axes[0], y), (25, 22, 20), rim, cv2.LINE_AA)
    return worn


def roll(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Head tilted by 10, 20, 30 degrees to either side, in the image plane."""
    height, width = face.shape[:2]
    angle = (10, 20, 30)[level] * rng.choice((-1, 1))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(angle), 1)
    return _uint8(cv2.warpAffine(face, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))


def yaw(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Head turned by 10, 20, 30 degrees to either side, as if painted on an upright cylinder.

    The cylinder is as wide as the image. A column at x (-1 to 1) stands at the angle asin(x) and
    shows what stood at asin(x) - yaw; what was hidden is filled with the edge.
    """
    height, width = face.shape[:2]
    angle = np.deg2rad((10, 20, 30)[level]) * rng.choice((-1, 1))
    x = (np.arange(width) + 0.5) / width * 2 - 1
    source = np.sin(np.clip(np.arcsin(x) - angle, -np.pi / 2, np.pi / 2))
    columns = np.broadcast_to(((source + 1) / 2 * width - 0.5)[None], (height, width))
    rows = np.broadcast_to(np.arange(height)[:, None], (height, width))
    return _uint8(
        cv2.remap(
            face,
            columns.astype(np.float32),
            rows.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def shifted_crop(face: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A looser or tighter box: off by 5, 10, 15% of the side in place and in size."""
    height, width = face.shape[:2]
    fraction = (0.05, 0.10, 0.15)[level]
    size = 1 + fraction * rng.choice((-1, 1))
    right, down = fraction * rng.choice((-1, 1), 2)
    matrix = np.array(
        [
            [1 / size, 0, width / 2 * (1 - 1 / size) + right * width],
            [0, 1 / size, height / 2 * (1 - 1 / size) + down * height],
        ]
    )
    return _uint8(cv2.warpAffine(face, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))


CORRUPTIONS: Final[dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]]] = {
    "blur": blur,
    "motion": motion,
    "low_light": low_light,
    "jpeg": jpeg,
    "low_resolution": low_resolution,
    "noise": noise,
    "glasses": glasses,
    "roll": roll,
    "yaw": yaw,
    "shifted_crop": shifted_crop,
}
"""The corruptions by name; each takes (face, level 0 to 2, random generator)."""


def _uint8(pixels: object) -> Pixels:
    rounded: Pixels = np.clip(np.rint(np.asarray(pixels)), 0, 255).astype(np.uint8)
    return rounded
