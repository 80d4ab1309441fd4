"""The findings about counts, for every common variant of a release."""

import numpy as np
import pytest

from affectnet.data.audit.counts import (
    RELEASES,
    Match,
    Recognition,
    published_test_part,
    recognise,
)
from affectnet.data.audit.findings import Severity
from affectnet.data.readers.classes import ALPHABETICAL
from affectnet.labels import EXPRESSIONS

TRAINING = np.array([74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750])
TEST_3999 = np.array([500] * 7 + [499])
TEST_4000 = np.array([500] * 8)


def parts(training: np.ndarray, test: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Split a training part as ingest does: a fifth becomes `val`."""
    training = np.array(training)
    counts = {"train": training - training // 5, "val": training // 5}
    return counts if test is None else counts | {"test": np.array(test)}


def text_of(recognition: Recognition, severity: Severity) -> str:
    return " | ".join(f.text for f in recognition.findings if f.severity is severity)


def test_the_table_holds_the_published_totals() -> None:
    totals = {release.title: [part.total for part in release.parts] for release in RELEASES}
    assert totals["AffectNet-8 (2021)"] == [287_651, 3_999]
    assert totals["AffectNet-7 (2021, without contempt)"] == [283_901, 3_500]
    assert [287_651, 4_000] in totals.values()
    assert totals["FER+ by majority (2016)"] == [25_045, 3_191]
    assert totals["RAF-DB, basic expressions"] == [12_271, 3_068]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.title)
@pytest.mark.parametrize("named", ["affectnet", "folder", ""])
def test_each_release_is_known_by_its_counts_alone(release, named: str) -> None:
    counts = {}
    for part in release.parts:
        counts |= parts(part.counts) if len(part.splits) > 1 else {part.splits[0]: part.counts}
    counts = {name: np.array(n) for name, n in counts.items()}
    recognition = recognise(counts, named)
    assert recognition.release is release
    assert all(c.match is Match.SAME for c in recognition.comparisons)
    assert {f.severity for f in recognition.findings} == {Severity.INFO}


def test_3999_and_4000_are_distinguished() -> None:
    new = recognise(parts(TRAINING, TEST_3999), "affectnet")
    assert "AffectNet-8 (2021)" in text_of(new, Severity.INFO)
    assert "3,999 faces (contempt 499) is the 2021 release's" in text_of(new, Severity.INFO)
    old = recognise(parts(TRAINING, TEST_4000), "affectnet")
    assert "manual release (2017)" in text_of(old, Severity.INFO)
    assert "4,000 faces is the set of the manual release" in text_of(old, Severity.INFO)


@pytest.mark.parametrize(
    ("release", "counts", "known"),
    [
        ("affectnet", TEST_3999, "AffectNet"),
        ("affectnet_csv", TEST_4000, "AffectNet"),
        ("affectnet_plus", TEST_4000, "AffectNet"),
        ("affectnet", [500] * 7 + [0], "AffectNet"),
        ("affectnet", [500] * 7 + [498], ""),
        ("affectnet", [1_180, 862, 348, 411, 60, 25, 289, 16], ""),  # FER+ in its layout
        ("folder", TEST_3999, ""),
        ("ferplus", [1_180, 862, 348, 411, 60, 25, 289, 16], ""),  # the public part
        ("ferplus", [1_000, 900, 400, 400, 100, 37, 280, 20], "FER+"),
        ("rafdb", [680, 1_185, 478, 329, 74, 160, 162, 0], "RAF-DB"),
        ("rafdb", TEST_3999, ""),
        ("table", [0] * 8, ""),
    ],
)
def test_published_figures_are_for_published_test_parts(release, counts, known) -> None:
    named = dict(zip(EXPRESSIONS, map(int, counts), strict=True)) | {"unlabelled": 7}
    assert published_test_part(release, named) == known


def test_a_missing_part_is_mentioned() -> None:
    assert "the validation part (3,999 faces) is not in this dataset" in text_of(
        recognise(parts(TRAINING), "affectnet"), Severity.INFO
    )
    only_test = recognise({"test": TEST_3999}, "affectnet")
    assert "the training part (287,651 faces) is not in" in text_of(only_test, Severity.INFO)


def test_rows_that_ingest_dropped_are_not_a_difference() -> None:
    short = TRAINING - [3, 2, 0, 0, 0, 0, 0, 0]
    recognition = recognise(parts(short, TEST_3999), "affectnet", dropped=5)
    assert "5 fewer than the 287,651" in text_of(recognition, Severity.INFO)
    assert not text_of(recognition, Severity.WARNING)
    unexplained = recognise(parts(short, TEST_3999), "affectnet", dropped=4)
    assert "a sample, not the whole" in text_of(unexplained, Severity.WARNING)


def test_a_relabelled_copy_is_a_problem() -> None:
    relabelled = TRAINING + np.array([-5000, 0, 3000, 0, 2000, 0, 0, 0])
    recognition = recognise(parts(relabelled, TEST_3999), "affectnet")
    text = text_of(recognition, Severity.PROBLEM)
    assert "287,651 faces, the total of" in text
    assert "a relabelled copy" in text
    assert "neutral 69,874 where 74,874 are published; sadness 28,459 where 25,459" in text


def test_an_alphabetical_class_order_is_a_problem() -> None:
    alphabetical = [TRAINING[EXPRESSIONS.index(name)] for name in ALPHABETICAL]
    text = text_of(recognise(parts(alphabetical), "affectnet"), Severity.PROBLEM)
    assert "numbered alphabetically" in text
    swapped = TRAINING[[0, 1, 2, 4, 3, 5, 6, 7]]
    text = text_of(recognise(parts(swapped), "affectnet"), Severity.PROBLEM)
    assert "surprise has the published count of fear; fear has the published count of" in text


def test_a_capped_release_is_a_warning_unless_the_cap_was_requested() -> None:
    capped = np.minimum(TRAINING, 15_000)
    before_ingest = recognise(parts(capped, TEST_3999), "affectnet")
    assert "capped at 15,000 per class before ingest" in text_of(before_ingest, Severity.WARNING)
    requested = recognise(parts(capped, TEST_3999), "affectnet", dropped=200_000, cap=15_000)
    assert "with at most 15,000 per class, as requested of ingest" in text_of(
        requested, Severity.INFO
    )
    assert not text_of(requested, Severity.WARNING)


@pytest.mark.parametrize("total", [25_000, 29_042, 37_553])
def test_a_copy_of_30000_faces_is_not_affectnet(total: int) -> None:
    counts = np.full(8, total // 8)
    counts[0] += total % 8
    recognition = recognise(parts(counts), "affectnet")
    assert "reduced copies of AffectNet with about 30,000 faces" in text_of(
        recognition, Severity.PROBLEM
    )
    unnamed = recognise(parts(counts), "folder")
    assert unnamed.release is None
    assert "reduced copies of about 30,000" in text_of(unnamed, Severity.WARNING)


def test_samples_other_counts_and_unknown_releases() -> None:
    sample = recognise(parts(TRAINING // 100), "affectnet")
    assert "a sample, not the whole" in text_of(sample, Severity.WARNING)
    other = recognise(parts(TRAINING + 1000), "affectnet")
    assert "a different or modified release" in text_of(other, Severity.WARNING)
    unknown = recognise(parts(np.full(8, 100)), "folder")
    assert unknown.release is None
    assert "match no published release" in text_of(unknown, Severity.INFO)
    empty = recognise({"train": np.zeros(8, int)}, "folder")
    assert empty.release is None


def test_without_contempt_affectnet_8_is_affectnet_7() -> None:
    counts = parts([*TRAINING[:7], 0], [*TEST_3999[:7], 0])
    found = recognise(counts, "affectnet", without_contempt=True)
    assert found.release is not None
    assert found.release.title == "AffectNet-7 (2021, without contempt)"
    assert [c.part.total for c in found.comparisons] == [283_901, 3_500]
    assert all(c.match is Match.SAME for c in found.comparisons)


def test_without_contempt_other_releases_are_compared_without_it() -> None:
    ferplus = next(r for r in RELEASES if r.title == "FER+ by majority (2016)")
    counts = {part.splits[0]: np.array([*part.counts[:7], 0]) for part in ferplus.parts}
    found = recognise(counts, "ferplus", without_contempt=True)
    assert found.release is not None
    assert found.release.title == "FER+ by majority (2016), without contempt"
    assert all(c.match is Match.SAME for c in found.comparisons)
