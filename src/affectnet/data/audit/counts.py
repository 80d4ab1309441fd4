"""The published class counts of the releases, and which release a dataset is by its counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.audit.findings import Finding, Topic
from affectnet.data.readers.classes import ALPHABETICAL
from affectnet.errors import counted
from affectnet.labels import EXPRESSIONS
from affectnet.seven import CONTEMPT


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """One published part, and the splits of a dataset that it becomes.

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
class PublishedRelease:
    """One release: `family` is ingest's name for it, `source` where the counts come from.

    `side` is that of its square images in pixels, where all have the same size.
    """

    family: str
    title: str
    parts: tuple[PublishedPart, ...]
    source: str
    side: int | None = None


_AFFECTNET_TRAINING: Final = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
_FERPLUS_TRAINING: Final = (8_733, 7_284, 3_022, 3_136, 536, 116, 2_098, 120)
_FERPLUS_VALIDATION: Final = (1_180, 862, 348, 411, 60, 25, 289, 16)
_RAFDB_TRAINING: Final = (2_524, 4_772, 1_982, 1_290, 281, 717, 705, 0)
_3999: Final = (
    "3,999 faces (contempt 499) is the 2021 release's set; the manual release of 2017 and "
    "AffectNet+ have 4,000: state which set a score is on"
)
_4000: Final = (
    "4,000 faces is the set of the manual release of 2017 and of AffectNet+; the 2021 release has "
    "3,999 (contempt 499): state which set a score is on"
)

RELEASES: Final = (
    PublishedRelease(
        "affectnet",
        "AffectNet-8 (2021)",
        (
            PublishedPart(("train", "val"), "training part", _AFFECTNET_TRAINING),
            PublishedPart(("test",), "validation part", (500,) * 7 + (499,), _3999),
        ),
        "the release's own annotation files, counted",
        224,
    ),
    PublishedRelease(
        "affectnet",
        "AffectNet-7 (2021, without contempt)",
        (
            PublishedPart(("train", "val"), "training part", (*_AFFECTNET_TRAINING[:7], 0)),
            PublishedPart(("test",), "validation part", (*(500,) * 7, 0)),
        ),
        "AffectNet-8 without its eighth class",
        224,
    ),
    PublishedRelease(
        "affectnet",
        "AffectNet, manual release (2017) or AffectNet+ (2024), eight classes",
        (
            PublishedPart(("train", "val"), "training part", _AFFECTNET_TRAINING),
            PublishedPart(("test",), "validation part", (500,) * 8, _4000),
        ),
        "training.csv (414,799 rows) and validation.csv (5,500), expressions 0 to 7, counted",
    ),
    PublishedRelease(
        "ferplus",
        "FER+ by majority (2016), its validation part as test",
        (
            PublishedPart(("train", "val"), "training part", _FERPLUS_TRAINING),
            PublishedPart(("test",), "validation part", _FERPLUS_VALIDATION),
        ),
        "the majority rule of Barsoum et al. 2016 applied to the votes, counted",
        48,
    ),
    PublishedRelease(
        "ferplus",
        "FER+ by majority (2016)",
        (
            PublishedPart(("train",), "training part", _FERPLUS_TRAINING),
            PublishedPart(("val",), "validation part", _FERPLUS_VALIDATION),
        ),
        "the majority rule of Barsoum et al. 2016 applied to the votes, counted; its test part has "
        "3,137 faces",
        48,
    ),
    PublishedRelease(
        "rafdb",
        "RAF-DB, basic expressions",
        (
            PublishedPart(("train", "val"), "training part", _RAFDB_TRAINING),
            PublishedPart(("test",), "test part", (680, 1_185, 478, 329, 74, 160, 162, 0)),
        ),
        "the release's list_patition_label.txt, counted",
        100,
    ),
)
"""Earlier entries win ties."""


_FERPLUS_TEST_TOTAL: Final = 3_137
_BENCHMARKS: Final = {"affectnet": "AffectNet", "ferplus": "FER+", "rafdb": "RAF-DB"}
"""Family of the release -> the name under which figures are published."""


def published_test_part(release: str, counts: Mapping[str, int]) -> str:
    """The dataset whose published test part a split is: AffectNet, FER+ or RAF-DB; or "".

    Published figures are comparable only there. AffectNet's is recognised by its 500 faces of each
    class (contempt 499 or 500, or none in seven classes), FER+'s by its 3,137 faces, RAF-DB's by
    its counts.

    Args:
        release: name of the release, as ingest recognised it.
        counts: faces of each expression in the split; other entries are ignored.
    """
    family = next((name for name in _BENCHMARKS if release.startswith(name)), "")
    found = tuple(counts.get(name, 0) for name in EXPRESSIONS)
    if family == "ferplus":
        return _BENCHMARKS[family] if sum(found) == _FERPLUS_TEST_TOTAL else ""
    known = [
        part.counts
        for one in RELEASES
        for part in one.parts
        if one.family == family and part.splits == ("test",)
    ]
    return _BENCHMARKS[family] if found in known else ""


def _without_contempt(release: PublishedRelease) -> PublishedRelease:
    if not any(part.counts[CONTEMPT] for part in release.parts):
        return release
    parts = tuple(replace(part, counts=(*part.counts[:7], 0), note="") for part in release.parts)
    title = f"{release.title.removesuffix(', eight classes')}, without contempt"
    return replace(release, title=title, parts=parts)


SEVEN_CLASS_RELEASES: Final = tuple(
    _without_contempt(release) for release in RELEASES if release.title != "AffectNet-8 (2021)"
)
"""The counts of the releases without contempt; AffectNet-8 is then AffectNet-7."""

REDUCED_COPY: Final = (20_000, 45_000)
"""Range of training faces in the common copies of "AffectNet" with about 30,000 faces."""

TOPIC: Final = Topic("counts")
Counts = NDArray[np.int64]


class Match(IntEnum):
    """How the counts of a part relate to the published ones, from best to worst."""

    SAME = 0
    SHORT = 1
    """Fewer faces, by no more than ingest dropped."""
    CAPPED = 2
    PERMUTED = 3
    RELABELLED = 4
    """The same total, different counts per class."""
    FEWER = 5
    """No class larger than published."""
    OTHER = 6


@dataclass(frozen=True, slots=True)
class PartComparison:
    """One part of the release and the dataset's counts of the same faces, `actual`, (8,)."""

    part: PublishedPart
    actual: Counts
    match: Match

    @property
    def where(self) -> str:
        """The splits that hold the part: `train + val`."""
        return " + ".join(self.part.splits)


@dataclass(frozen=True, slots=True)
class Recognition:
    """The result of `recognise`: the release (None when unknown), its parts, and the findings."""

    release: PublishedRelease | None
    comparisons: tuple[PartComparison, ...]
    findings: tuple[Finding, ...]


def recognise(
    counts: Mapping[str, Counts],
    named: str = "",
    dropped: int = 0,
    cap: int | None = None,
    without_contempt: bool = False,
) -> Recognition:
    """Find the published release that has these counts, and report the differences.

    Args:
        counts: split -> faces of each expression, int (8,).
        named: the release that ingest recognised; decides where the counts do not.
        dropped: rows that ingest dropped, apart from contempt where that was requested.
        cap: the `--max-per-class` of ingest.
        without_contempt: compare with the releases without their faces of contempt.
    """
    releases = SEVEN_CLASS_RELEASES if without_contempt else RELEASES
    ranked = []
    for place, release in enumerate(releases):
        comparisons = _compare(release, counts, dropped, cap)
        if not comparisons:
            continue
        matches = [c.match for c in comparisons]
        strong = min(matches) <= Match.RELABELLED
        family = named.replace("_", "").replace("+", "plus").lower().startswith(release.family)
        if strong or family:
            distance = sum(int(np.abs(c.actual - c.part.counts).sum()) for c in comparisons)
            ranked.append((not strong, min(matches), sum(matches), not family, distance, place))
    if not ranked:
        return Recognition(None, (), (_unknown(counts),))
    release = releases[min(ranked)[-1]]
    comparisons = _compare(release, counts, dropped, cap)
    findings = _findings(release, comparisons, counts, cap)
    return Recognition(release, tuple(comparisons), tuple(findings))


def _findings(
    release: PublishedRelease,
    comparisons: list[PartComparison],
    counts: Mapping[str, Counts],
    cap: int | None,
) -> Iterator[Finding]:
    if all(c.match >= Match.FEWER for c in comparisons):
        yield TOPIC.info(f"ingest read this as {release.title}; the counts do not confirm it")
    else:
        yield TOPIC.info(f"by its counts this is {release.title}")
    for comparison in comparisons:
        yield _describe(comparison, release, cap)
        if comparison.match is Match.SAME and comparison.part.note:
            yield TOPIC.info(comparison.part.note)
    for part in release.parts:
        if not any(split in counts for split in part.splits):
            yield TOPIC.info(f"the {part.title} ({part.total:,} faces) is not in this dataset")


def _compare(
    release: PublishedRelease, counts: Mapping[str, Counts], dropped: int, cap: int | None
) -> list[PartComparison]:
    comparisons = []
    for part in release.parts:
        found = [counts[split] for split in part.splits if split in counts]
        if found:
            actual = np.sum(found, axis=0).astype(np.int64)
            comparisons.append(PartComparison(part, actual, _match(actual, part, dropped, cap)))
    return comparisons


def _match(actual: Counts, part: PublishedPart, dropped: int, cap: int | None) -> Match:
    published = np.array(part.counts)
    if np.array_equal(actual, published):
        return Match.SAME
    most = int(actual.max())
    # Classes below the cap with their full count distinguish a capped release from a sample.
    capped = np.array_equal(actual, np.minimum(published, most)) and (
        bool((actual < most)[published > 0].any())
    )
    if capped and cap == most:
        return Match.CAPPED
    missing = published - actual
    if (missing >= 0).all() and missing.sum() <= dropped:
        return Match.SHORT
    if capped:
        return Match.CAPPED
    if np.array_equal(np.sort(actual), np.sort(published)):
        return Match.PERMUTED
    if actual.sum() == published.sum():
        return Match.RELABELLED
    return Match.FEWER if (missing >= 0).all() else Match.OTHER


def _describe(comparison: PartComparison, release: PublishedRelease, cap: int | None) -> Finding:
    part, actual = comparison.part, comparison.actual
    total, most = int(actual.sum()), int(actual.max())
    title = f"the {part.title} of {release.title}"
    faces = f"{comparison.where}: {counted(total, 'face')}"
    reduced = release.family == "affectnet" and "train" in part.splits
    match comparison.match:
        case Match.SAME:
            return TOPIC.info(f"{faces}, the same in every class as published for {title}")
        case Match.SHORT:
            return TOPIC.info(
                f"{faces}, {part.total - total:,} fewer than the {part.total:,} of {title}, "
                "which the rows dropped by ingest explain; dropped.csv has the reasons"
            )
        case Match.CAPPED if cap == most:
            return TOPIC.info(
                f"{faces}: {title} with at most {most:,} per class, as requested of ingest"
            )
        case Match.CAPPED:
            return TOPIC.warning(
                f"{faces}: {title} capped at {most:,} per class before ingest; scores on it are "
                "not comparable with those on the whole release"
            )
        case Match.PERMUTED:
            return TOPIC.problem(f"{faces} as in {title}, {_permutation(actual, part)}")
        case Match.RELABELLED:
            return TOPIC.problem(
                f"{faces}, the total of {title}, but with different counts per class "
                f"({_differences(actual, part)}): a relabelled copy, so scores are not comparable "
                "with published ones"
            )
        case _ if reduced and REDUCED_COPY[0] <= total <= REDUCED_COPY[1]:
            return TOPIC.problem(
                f"{faces}: one of the reduced copies of AffectNet with about 30,000 faces, not the "
                f"{part.total:,} of {title}; scores on it are not comparable"
            )
        case Match.FEWER:
            return TOPIC.warning(
                f"{faces} of the {part.total:,} of {title}: a sample, not the whole; scores on it "
                "are not comparable with published ones"
            )
        case _:
            return TOPIC.warning(
                f"{faces}, where {title} has {part.total:,} ({_differences(actual, part)}): "
                "a different or modified release"
            )


def _unknown(counts: Mapping[str, Counts]) -> Finding:
    total = int(sum(c.sum() for name, c in counts.items() if name != "test"))
    classes = np.sum([*counts.values()], axis=0) > 0 if counts else np.zeros(8, bool)
    if classes.sum() >= 7 and REDUCED_COPY[0] <= total <= REDUCED_COPY[1]:
        return TOPIC.warning(
            f"no published release has these counts; if these {total:,} training faces are said to "
            "be AffectNet, they are one of the reduced copies of about 30,000, not its 287,651"
        )
    return TOPIC.info("these counts match no published release that this audit knows")


def _differences(actual: Counts, part: PublishedPart) -> str:
    """List the classes that differ most: `neutral 70,000 where 74,874 are published`."""
    order = np.argsort(-np.abs(actual - part.counts))
    texts = [
        f"{EXPRESSIONS[i]} {int(actual[i]):,} where {part.counts[i]:,} are published"
        for i in order[:3]
        if actual[i] != part.counts[i]
    ]
    return "; ".join(texts)


def _permutation(actual: Counts, part: PublishedPart) -> str:
    alphabetical = [part.counts[EXPRESSIONS.index(name)] for name in ALPHABETICAL]
    if np.array_equal(actual, alphabetical):
        return (
            "but its classes are numbered alphabetically (0 anger, 1 contempt, ...) and were "
            "read in AffectNet's order: every label is wrong; ingest it again with its class order"
        )
    moved = [
        f"{EXPRESSIONS[i]} has the published count of {EXPRESSIONS[part.counts.index(int(n))]}"
        for i, n in enumerate(actual)
        if n != part.counts[i]
    ]
    return (
        f"but under other names ({'; '.join(moved[:3])}): the class order is wrong, and so are "
        "the labels; ingest it again with its class order"
    )
