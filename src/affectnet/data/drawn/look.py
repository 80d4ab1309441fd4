"""What a drawn person looks like beside the shape of the face: colours, hair, beard, glasses."""

from dataclasses import dataclass
from typing import Final

import numpy as np

Colour = tuple[int, int, int]

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


def tint(colour: Colour, factor: float, towards: Colour = (0, 0, 0), share: float = 0.0) -> Colour:
    """Return a colour darker or lighter by a factor, then mixed with another by a share."""
    mixed = (
        min(255, round((1 - share) * factor * own + share * other))
        for own, other in zip(colour, towards, strict=True)
    )
    red, green, blue = mixed
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Look:
    """What a person looks like beside the shape of the face."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    shirt: Colour
    style: str
    beard: str  # 'none', 'stubble', 'full'
    glasses: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, variety: float) -> "Look":
        """Draw a look; glasses and beards come with probability in proportion to `variety`."""
        tone = rng.random() * (len(SKINS) - 1.001)
        below, share = int(tone), tone % 1
        rgb = (1 - share) * SKINS[below] + share * SKINS[below + 1] + rng.uniform(-8, 8, 3)
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
