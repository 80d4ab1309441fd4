"""The settings of augmentation and the named sets; without torch, for help texts and configs."""

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, Self, get_args

from affectnet.errors import ConfigError, check_choice, suggest

Fill = Literal["black", "edge", "mirror"]


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. A setting of 0 turns its step off.

    The steps run in the order of the fields. Labels never change: a mirrored face shows the same
    expression, valence and arousal. Batches have no landmarks, so none are moved.

    Raises:
        ConfigError: a setting is out of its range.
    """

    glasses: float = 0.0
    """Fraction of the faces that are given glasses, clear to black; for upright faces with eyes at
    0.33 to 0.45 of the height."""
    hflip: float = 0.0
    """Fraction of the images mirrored left and right."""
    vflip: float = 0.0
    """Fraction of the images turned upside down. Off by default: the original notebook lists
    it, but no face reaches the model upside down, and the turn swaps the places of brows and
    mouth, by which expressions differ."""
    rotation: float = 0.0
    """Largest rotation in degrees, 0 to 180; each image is rotated by a draw from -r to +r."""
    scale: float = 0.0
    """Largest change of size, 0 up to 1: a factor from 1-s to 1+s for each image."""
    shift: float = 0.0
    """Largest shift as a fraction of the side, 0 to 1, right or left and up or down."""
    fill: Fill = "black"
    """What fills the area that a moved image leaves: black, its edge, or its mirror image."""
    low_resolution: float = 0.0
    """Fraction of the images shrunk and enlarged again, as if the face had been small."""
    low_resolution_side: float = 0.25
    """Smallest fraction of the side after shrinking; each image draws from there to 1."""
    motion: float = 0.0
    """Fraction of the images blurred along a line, as if the face or the camera had moved."""
    motion_length: tuple[float, float] = (0.02, 0.2)
    """Range of the line's length as a fraction of the side."""
    blur: float = 0.0
    """Fraction of the images blurred by a Gaussian of kernel 5."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    exposure: float = 0.0
    """Fraction of the images darkened or lightened in the middle tones (low light, glare)."""
    exposure_gamma: tuple[float, float] = (0.5, 2.5)
    """Range of the exponent of the pixel values, uniform in its logarithm; above 1 darkens."""
    brightness: float = 0.0
    """Largest change of brightness, 0 to 1: a factor from 1-b to 1+b for each image."""
    contrast: float = 0.0
    """Largest change of contrast, 0 to 1: distances to the mean grey times 1-c to 1+c."""
    saturation: float = 0.0
    """Largest change of saturation, 0 to 1: distances to each pixel's grey times 1-s to 1+s."""
    grey: float = 0.0
    """Fraction of the images made grey."""
    noise: float = 0.0
    """Fraction of the images that get Gaussian noise."""
    noise_std: float = 0.08
    """Largest standard deviation of the noise, where pixels run from 0 to 1."""
    jpeg: float = 0.0
    """Fraction of the images compressed strongly as JPEG."""
    jpeg_quality: tuple[int, int] = (5, 50)
    """Range of the JPEG quality, 1 to 100."""
    erasing: float = 0.0
    """Fraction of the images with one rectangle painted over in a random colour."""
    erasing_area: tuple[float, float] = (0.02, 0.15)
    """Range of the rectangle's area as a fraction of the image; its sides' ratio is 1:3 to 3:1."""

    def __post_init__(self) -> None:
        for names, low, high, meaning in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not low <= value <= high:
                    raise ConfigError(
                        f"the augmentation setting {name} is {value}; {meaning} {low} to {high}"
                    )
        for name, low, high in _PAIRS:
            value = getattr(self, name)
            if len(value) != 2 or not low <= value[0] <= value[1] <= high:
                raise ConfigError(
                    f"the augmentation setting {name} is {value}; it is a lowest and a highest "
                    f"value, in this order, within {low} to {high}"
                )
        check_choice("augmentation setting fill", self.fill, get_args(Fill))

    def with_overrides(self, **settings: Any) -> Self:
        """Return a copy with the given settings, except those that are None.

        Raises:
            ConfigError: there is no such setting, or its value is out of range.
        """
        names = [field.name for field in fields(self)]
        for name in settings:
            if name not in names:
                raise ConfigError(
                    f"there is no augmentation setting '{name}'{suggest(name, names)}; "
                    f"there are {', '.join(names)}"
                )
        return replace(self, **{name: v for name, v in settings.items() if v is not None})

    @property
    def resamples(self) -> bool:
        """Whether pixels move other than by flips."""
        return max(self.rotation, self.scale, self.shift) > 0


_FRACTIONS = (
    *("glasses", "hflip", "vflip", "low_resolution", "motion", "blur", "exposure", "grey"),
    *("noise", "jpeg", "erasing"),
)
_RANGES: Final = (
    (_FRACTIONS, 0, 1, "it is the fraction of images that it changes, from"),
    (("rotation",), 0, 180, "it is in degrees, from"),
    (("scale",), 0, 0.9, "it is a change of the factor 1, from"),
    (("shift",), 0, 1, "it is a fraction of the side, from"),
    (("brightness", "contrast", "saturation"), 0, 1, "it is a change of the factor 1, from"),
    (("low_resolution_side",), 0.01, 1, "it is a fraction of the side, from"),
    (("noise_std",), 0, 1, "it is a standard deviation of pixels, from"),
)
_PAIRS: Final = (
    ("motion_length", 0.001, 0.5),
    ("blur_sigma", 0.01, 100),
    ("exposure_gamma", 0.1, 10),
    ("jpeg_quality", 1, 100),
    ("erasing_area", 0.001, 0.9),
)

AUGMENTATIONS: Final[dict[str, Augmentation]] = {
    "none": Augmentation(),
    "notebook": Augmentation(hflip=0.5, rotation=45, blur=1.0),
    "standard": Augmentation(
        hflip=0.5,
        rotation=15,
        scale=0.1,
        shift=0.06,
        fill="edge",
        brightness=0.25,
        contrast=0.25,
        saturation=0.2,
        erasing=0.2,
    ),
    "photos": Augmentation(
        glasses=0.08,
        hflip=0.5,
        rotation=20,
        scale=0.12,
        shift=0.08,
        fill="edge",
        low_resolution=0.1,
        motion=0.1,
        blur=0.1,
        exposure=0.15,
        noise=0.15,
        jpeg=0.1,
        erasing=0.2,
    ),
    "strong": Augmentation(
        hflip=0.5,
        rotation=25,
        scale=0.2,
        shift=0.1,
        fill="edge",
        low_resolution=0.15,
        motion=0.15,
        blur=0.15,
        exposure=0.25,
        brightness=0.35,
        contrast=0.35,
        saturation=0.4,
        grey=0.1,
        noise=0.15,
        jpeg=0.15,
        erasing=0.4,
        erasing_area=(0.02, 0.25),
    ),
}
"""The sets by name. 'notebook' holds the original notebook's: mirror, rotation up to 45 degrees,
blur of kernel 5 (its upside-down flip only where `vflip` is set); 'standard' suits faces;
'photos' gives some of them common faults of photos: small, blurred, dark, noisy, badly compressed,
covered, behind glasses, for networks that ignore colour and contrast (CVNet); 'strong' gives more
images more faults."""


def named_augmentation(name: str) -> Augmentation:
    """Return one of `AUGMENTATIONS`.

    Raises:
        ConfigError: there is no set of that name.
    """
    if name not in AUGMENTATIONS:
        raise ConfigError(
            f"there is no augmentation '{name}'{suggest(name, AUGMENTATIONS)}; "
            f"there are {', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]
