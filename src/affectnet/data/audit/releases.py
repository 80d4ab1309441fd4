"""The published sizes of the releases that an audit compares with."""

from dataclasses import dataclass, replace
from typing import Final

from affectnet.labels import CONTEMPT


@dataclass(frozen=True, slots=True)
class Part:
    """One published part, and the splits of a dataset that it became.

    `counts` is the number of faces of each expression, in the order of `labels.EXPRESSIONS`.
    """

    splits: tuple[str, ...]
    title: str
    counts: tuple[int, ...]
    note: str = ""

    @property
    def total(self) -> int:
        """The number of faces."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Release:
    """One release: `family` is what ingest may call it, `source` where the figures come from.

    `side` is that of its square images, in pixels, where they all have one size.
    """

    family: str
    title: str
    parts: tuple[Part, ...]
    source: str
    side: int | None = None


_AFFECTNET_TRAINING: Final = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
_FERPLUS_TRAINING: Final = (8_733, 7_284, 3_022, 3_136, 536, 116, 2_098, 120)
_FERPLUS_VALIDATION: Final = (1_180, 862, 348, 411, 60, 25, 289, 16)
_3999: Final = (
    "3,999 faces (contempt 499) is the 2021 release's set; the manual release of 2017 and "
    "AffectNet+ have 4,000: say which one a figure is on"
)
_4000: Final = (
    "4,000 faces is the set of the manual release of 2017 and of AffectNet+; the 2021 release has "
    "3,999 (contempt 499): say which one a figure is on"
)

RELEASES: Final = (
    Release(
        "affectnet",
        "AffectNet-8 (2021)",
        (
            Part(("train", "val"), "training part", _AFFECTNET_TRAINING),
            Part(("test",), "validation part", (500,) * 7 + (499,), _3999),
        ),
        "the release's own annotation files, counted",
        224,
    ),
    Release(
        "affectnet",
        "AffectNet-7 (2021, without contempt)",
        (
            Part(("train", "val"), "training part", (*_AFFECTNET_TRAINING[:7], 0)),
            Part(("test",), "validation part", (*(500,) * 7, 0)),
        ),
        "AffectNet-8 without its eighth class",
        224,
    ),
    Release(
        "affectnet",
        "AffectNet, manual release (2017) or AffectNet+ (2024), eight classes",
        (
            Part(("train", "val"), "training part", _AFFECTNET_TRAINING),
            Part(("test",), "validation part", (500,) * 8, _4000),
        ),
        "training.csv (414,799 rows) and validation.csv (5,500), expressions 0 to 7, counted",
    ),
    Release(
        "ferplus",
        "FER+ by majority (2016), its validation part as test",
        (
            Part(("train", "val"), "training part", _FERPLUS_TRAINING),
            Part(("test",), "validation part", _FERPLUS_VALIDATION),
        ),
        "the majority rule of Barsoum et al. 2016 applied to the votes, counted",
        48,
    ),
    Release(
        "ferplus",
        "FER+ by majority (2016)",
        (
            Part(("train",), "training part", _FERPLUS_TRAINING),
            Part(("val",), "validation part", _FERPLUS_VALIDATION),
        ),
        "the majority rule of Barsoum et al. 2016 applied to the votes, counted; its test part has "
        "3,137 faces",
        48,
    ),
    Release(
        "rafdb",
        "RAF-DB, basic expressions",
        (
            Part(("train", "val"), "training part", (2_524, 4_772, 1_982, 1_290, 281, 717, 705, 0)),
            Part(("test",), "test part", (680, 1_185, 478, 329, 74, 160, 162, 0)),
        ),
        "the release's list_patition_label.txt, counted",
        100,
    ),
)
"""Earlier entries win a tie."""


def _without_contempt(release: Release) -> Release:
    if not any(part.counts[CONTEMPT] for part in release.parts):
        return release
    parts = tuple(replace(part, counts=(*part.counts[:7], 0), note="") for part in release.parts)
    title = f"{release.title.removesuffix(', eight classes')}, without contempt"
    return replace(release, title=title, parts=parts)


SEVEN_CLASS_RELEASES: Final = tuple(
    _without_contempt(release) for release in RELEASES if release.title != "AffectNet-8 (2021)"
)
"""What the releases hold without contempt; AffectNet-8 is then AffectNet-7."""

REDUCED_COPY: Final = (20_000, 45_000)
"""Training faces of the copies of "AffectNet" of about 30,000 faces that go round."""

ALPHABETICAL: Final = (
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
)
"""How folders sort: the order that copies of the releases are numbered in."""

OTHER_ORDERS: Final = {
    "alphabetical": ALPHABETICAL,
    "FER+": (
        "neutral",
        "happiness",
        "surprise",
        "sadness",
        "anger",
        "disgust",
        "fear",
        "contempt",
    ),
    "RAF-DB": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
}
"""Class orders that are taken for AffectNet's by mistake: number -> what it means there."""
