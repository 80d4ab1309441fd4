"""What the images of a dataset are, in a few figures and sentences."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from affectnet.data.audit.findings import Finding, info, problem, several, share, warning
from affectnet.data.audit.releases import Release
from affectnet.data.audit.scan import Scan

TOPIC = "images"


@dataclass(frozen=True, slots=True)
class Images:
    """Figures of n images.

    Args:
        n: all of them.
        kinds: format -> images.
        sizes: (width, height) in pixels -> images, most frequent first.
        grey: images all of whose pixels are grey.
        stored_grey: images with one channel.
        total_bytes: encoded.
        median_bytes: of one image.
        largest_bytes: of one image.
        plain: rows of images that show one even tone.
        broken: row -> why its image cannot be decoded.
    """

    n: int
    kinds: dict[str, int]
    sizes: dict[tuple[int, int], int]
    grey: int
    stored_grey: int
    total_bytes: int
    median_bytes: int
    largest_bytes: int
    plain: tuple[int, ...]
    broken: dict[int, str]


def summarise_images(scan: Scan) -> Images:
    """Count what `scan_images` saw."""
    good = scan.readable
    sizes = Counter(zip(scan.width[good].tolist(), scan.height[good].tolist(), strict=True))
    return Images(
        len(good),
        dict(Counter(scan.kind[good].tolist()).most_common()),
        dict(sizes.most_common()),
        int(scan.grey.sum()),
        int(scan.stored_grey.sum()),
        int(scan.size.sum()),
        int(np.median(scan.size)) if len(good) else 0,
        int(scan.size.max(initial=0)),
        tuple(np.flatnonzero(scan.plain).tolist()),
        dict(sorted(scan.broken.items())),
    )


def judge_images(images: Images, release: Release | None) -> list[Finding]:
    """Say what the images are, and what is odd about them."""
    findings = [info(TOPIC, _describe(images))]
    if images.broken:
        findings.append(problem(TOPIC, f"{several(len(images.broken), 'image')} cannot be decoded"))
    if images.plain:
        findings.append(
            warning(
                TOPIC,
                f"{several(len(images.plain), 'image')} of one even tone: no face is to be seen",
            )
        )
    side = release.side if release else None
    usual = images.sizes.get((side, side), 0) if side else images.n
    readable = sum(images.sizes.values())
    if side and usual < readable:
        (width, height), most = next(iter(images.sizes.items()))
        findings.append(
            warning(
                TOPIC,
                f"{share(readable - usual, readable)} of the images are not {side}x{side} as those "
                f"of {release.title if release else ''} are (most frequent: {width}x{height}, "
                f"{most:,}): a resized copy, which costs or changes accuracy",
            )
        )
    mixed = images.grey - images.stored_grey
    if 0 < images.grey < readable:
        findings.append(
            info(TOPIC, f"{images.grey:,} images are grey, {readable - images.grey:,} in colour")
        )
    elif images.grey:
        stored = f"; {mixed:,} of them stored as colour" if mixed else ""
        findings.append(info(TOPIC, f"all images are grey{stored}"))
    return findings


def _describe(images: Images) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in images.kinds.items())
    if not images.sizes:
        return f"{several(images.n, 'image')}, none of which can be decoded"
    widths, heights = zip(*images.sizes, strict=True)
    if len(images.sizes) == 1:
        size = f"all {widths[0]}x{heights[0]} pixels"
    else:
        size = (
            f"{len(images.sizes):,} sizes, from {min(widths)} to {max(widths)} pixels wide and "
            f"{min(heights)} to {max(heights)} high"
        )
    return (
        f"{kinds}; {size}; {images.total_bytes / 1e6:,.1f} MB, {images.median_bytes / 1e3:.1f} kB "
        f"the median, {images.largest_bytes / 1e3:.1f} kB the largest"
    )
