"""Findings about the images of a dataset, from a summary of them."""

import pytest

from affectnet.data.audit.counts import RELEASES
from affectnet.data.audit.findings import Finding, Severity
from affectnet.data.audit.scan import ImageSummary, judge_images

FERPLUS = next(release for release in RELEASES if release.family == "ferplus")
NO_SIDE = next(release for release in RELEASES if release.side is None)


def found(
    sizes: dict[tuple[int, int], int], release=None, grey=0, stored_grey=0, turned=0
) -> list[Finding]:
    n = sum(sizes.values())
    images = ImageSummary(
        n, {"PNG": n}, sizes, grey, stored_grey, turned, 1000 * n, 1000, 2000, plain=(), broken={}
    )
    return list(judge_images(images, release))


def test_images_of_another_size_than_the_release_are_a_resized_copy() -> None:
    (text,) = [f.text for f in found({(96, 96): 3, (48, 48): 1}, FERPLUS) if f.severity != "info"]
    assert text.startswith("75% of the images are not 48x48, the size in FER+ by majority (2016)")
    assert text.endswith("(most frequent: 96x96, 3): a resized copy, which changes accuracy")


def test_images_that_are_not_stored_upright_are_reported() -> None:
    (text,) = [f.text for f in found({(48, 48): 4}, turned=2) if f.severity is Severity.WARNING]
    assert text.startswith("2 images not stored upright (EXIF orientation): affectnet turns them")


@pytest.mark.parametrize("release", [FERPLUS, NO_SIDE, None])
def test_images_of_the_published_size_or_of_any_where_none_is_published(release) -> None:
    sizes = {(48, 48): 4} if release is FERPLUS else {(96, 96): 3, (48, 48): 1}
    assert {finding.severity for finding in found(sizes, release)} == {Severity.INFO}


def test_grey_images_are_reported() -> None:
    assert found({(48, 48): 4}, grey=1)[-1].text == "1 images are grey, 3 in colour"
    assert found({(48, 48): 4}, grey=4, stored_grey=4)[-1].text == "all images are grey"
    colour = found({(48, 48): 4}, grey=4, stored_grey=3)[-1].text
    assert colour == "all images are grey; 1 of them stored as colour"
    assert len(found({(48, 48): 4})) == 1
