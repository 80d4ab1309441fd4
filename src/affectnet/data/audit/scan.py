"""One pass over all images of a dataset: format, size, colour, content hashes and a thumbnail."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from affectnet.data.audit.counts import PublishedRelease
from affectnet.data.audit.findings import Finding, Topic, percentage
from affectnet.data.duplicate_search import THUMBNAIL, are_plain, thumbnail
from affectnet.data.images import (
    decode_image,
    jpeg_header,
    one_large_at_a_time,
    orientation,
    read_header,
)
from affectnet.data.store import Split
from affectnet.errors import DataError, counted, megabytes
from affectnet.threads import ordered_map

_ROWS_AT_ONCE = 128


class SplitRows:
    """Selected rows of a split, renumbered, with the columns that an audit reads."""

    def __init__(self, split: Split, rows: NDArray[np.int64]) -> None:
        self.ids = [split.ids[row] for row in rows.tolist()]
        self.expression = split.expression[rows]
        self.valence = split.valence[rows]
        self.arousal = split.arousal[rows]
        self._split = split
        self._rows = rows

    def __len__(self) -> int:
        return len(self.ids)

    def image_bytes(self, row: int) -> memoryview:
        """Return the encoded image of a row."""
        return self._split.image_bytes(int(self._rows[row]))


AnySplit = Split | SplitRows


@dataclass(frozen=True, slots=True)
class DatasetRows:
    """The rows of all splits, one split after another."""

    splits: tuple[str, ...]
    ids: list[str]
    split: NDArray[np.int8]
    expression: NDArray[np.int8]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]

    @classmethod
    def of(cls, splits: Mapping[str, AnySplit]) -> "DatasetRows":
        """Concatenate the labels of the splits of a dataset."""
        opened = list(splits.values())
        return cls(
            tuple(splits),
            [name for split in opened for name in split.ids],
            np.repeat(np.arange(len(opened), dtype=np.int8), [len(split) for split in opened]),
            *(
                np.concatenate([getattr(split, column) for split in opened])
                for column in ("expression", "valence", "arousal")
            ),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def start(self, split: str) -> int:
        """Return the row at which a split begins."""
        return int(np.searchsorted(self.split, self.splits.index(split)))

    def split_of(self, row: int) -> str:
        """Return the name of a row's split."""
        return self.splits[int(self.split[row])]


@dataclass(frozen=True, slots=True)
class Scan:
    """Properties of the images of n rows.

    Args:
        kind: `JPEG`, `PNG`, ... of each row; '' where the image cannot be decoded.
        width: of the decoded image, in pixels.
        height: likewise.
        size: encoded bytes.
        grey: whether all pixels are grey.
        stored_grey: whether the file has one channel.
        turned: whether an EXIF orientation says to turn the stored pixels.
        file_hash: 16 bytes, of the encoded bytes.
        pixel_hash: 16 bytes, of the decoded pixels and their size.
        thumbnail: grey, uint8 (n, 32, 32).
        broken: row -> why its image cannot be decoded.
    """

    kind: NDArray[np.str_]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.int64]
    grey: NDArray[np.bool_]
    stored_grey: NDArray[np.bool_]
    turned: NDArray[np.bool_]
    file_hash: NDArray[np.void]
    pixel_hash: NDArray[np.void]
    thumbnail: NDArray[np.uint8]
    broken: dict[int, str]

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Whether the image of each row can be decoded."""
        readable: NDArray[np.bool_] = self.kind != ""
        return readable

    @property
    def plain(self) -> NDArray[np.bool_]:
        """Whether the image of each row is one even tone, or nearly."""
        return self.readable & are_plain(self.thumbnail)


def scan_images(splits: Mapping[str, AnySplit]) -> Scan:
    """Decode every image once, in threads, with a progress bar.

    Takes about 1.2 kB of memory per face. Rows are numbered as in `DatasetRows`. An image that
    cannot be decoded is recorded in `broken`, not raised.
    """
    n = sum(map(len, splits.values()))
    scan = Scan(
        np.zeros(n, "U5"),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, bool),
        np.zeros(n, bool),
        np.zeros(n, bool),
        np.zeros(n, "V16"),
        np.zeros(n, "V16"),
        np.zeros((n, THUMBNAIL, THUMBNAIL), np.uint8),
        {},
    )
    jobs = []
    first = 0
    for split in splits.values():
        jobs += [(split, start, first + start) for start in range(0, len(split), _ROWS_AT_ONCE)]
        first += len(split)

    def run(job: tuple[AnySplit, int, int]) -> int:
        split, start, row = job
        rows = range(start, min(start + _ROWS_AT_ONCE, len(split)))
        for place, within in enumerate(rows, start=row):
            data = split.image_bytes(within)
            with one_large_at_a_time(data):
                _scan_image(data, scan, place)
        return len(rows)

    with tqdm(total=n, desc="scanning images", unit=" faces", disable=None, leave=False) as bar:
        for done in ordered_map(run, jobs):
            bar.update(done)
    return scan


def _scan_image(data: memoryview, scan: Scan, row: int) -> None:
    scan.size[row] = len(data)
    scan.file_hash[row] = _digest(data)
    try:
        pixels = decode_image(data)
        kind, stored_grey = _header(data)
    except DataError as error:
        scan.broken[row] = str(error)
        return
    scan.height[row], scan.width[row] = pixels.shape[:2]
    scan.pixel_hash[row] = _digest(pixels.data, pixels.shape)
    scan.grey[row] = stored_grey or _is_grey(pixels)
    scan.stored_grey[row] = stored_grey
    scan.turned[row] = orientation(data) > 1
    scan.thumbnail[row] = thumbnail(data)
    scan.kind[row] = kind


def _digest(data: memoryview, shape: tuple[int, ...] = ()) -> np.void:
    digest = hashlib.sha256(str(shape).encode())
    digest.update(data)
    return np.void(digest.digest()[:16])


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    sample = pixels[:: max(1, len(pixels) // 8)]
    return all(
        bool((part[..., 0] == part[..., 1]).all() and (part[..., 1] == part[..., 2]).all())
        for part in (sample, pixels)
    )


def _header(data: memoryview) -> tuple[str, bool]:
    """Return the format of an image that was decoded, and whether it has one stored channel."""
    header = jpeg_header(data)
    if header is not None:
        return "JPEG", header[2] == "Gray"
    other = read_header(data)
    return other.format, other.grey


TOPIC: Final = Topic("images")


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """Summary of n images.

    Args:
        n: number of images.
        kinds: format -> images.
        sizes: (width, height) in pixels -> images, most frequent first.
        grey: images with only grey pixels.
        stored_grey: images with one channel.
        turned: images that an EXIF orientation says to turn.
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
    turned: int
    total_bytes: int
    median_bytes: int
    largest_bytes: int
    plain: tuple[int, ...]
    broken: dict[int, str]


def summarise_images(scan: Scan) -> ImageSummary:
    """Summarise the result of `scan_images`."""
    good = scan.readable
    sizes = Counter(zip(scan.width[good].tolist(), scan.height[good].tolist(), strict=True))
    return ImageSummary(
        len(good),
        dict(Counter(scan.kind[good].tolist()).most_common()),
        dict(sizes.most_common()),
        int(scan.grey.sum()),
        int(scan.stored_grey.sum()),
        int(scan.turned.sum()),
        int(scan.size.sum()),
        int(np.median(scan.size)) if len(good) else 0,
        int(scan.size.max(initial=0)),
        tuple(np.flatnonzero(scan.plain).tolist()),
        dict(sorted(scan.broken.items())),
    )


def judge_images(images: ImageSummary, release: PublishedRelease | None) -> Iterator[Finding]:
    """Yield the findings about the images."""
    yield TOPIC.info(_describe(images))
    if images.broken:
        yield TOPIC.problem(f"{counted(len(images.broken), 'image')} cannot be decoded")
    if images.plain:
        yield TOPIC.warning(
            f"{counted(len(images.plain), 'image')} of one even tone, which show no face"
        )
    if images.turned:
        yield TOPIC.warning(
            f"{counted(images.turned, 'image')} not stored upright (EXIF orientation): affectnet "
            "turns them, but their landmarks are in stored pixels, and earlier versions trained on "
            "them unturned; ingest the release again, which stores them upright"
        )
    readable = sum(images.sizes.values())
    if release and (side := release.side):
        others = readable - images.sizes.get((side, side), 0)
        if others:
            (width, height), most = next(iter(images.sizes.items()))
            yield TOPIC.warning(
                f"{percentage(others, readable)} of the images are not {side}x{side}, the size in "
                f"{release.title} (most frequent: {width}x{height}, {most:,}): a resized copy, "
                "which changes accuracy"
            )
    if 0 < images.grey < readable:
        yield TOPIC.info(f"{images.grey:,} images are grey, {readable - images.grey:,} in colour")
    elif images.grey:
        mixed = images.grey - images.stored_grey
        stored = f"; {mixed:,} of them stored as colour" if mixed else ""
        yield TOPIC.info(f"all images are grey{stored}")


def _describe(images: ImageSummary) -> str:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in images.kinds.items())
    if not images.sizes:
        return f"{counted(images.n, 'image')}, none of which can be decoded"
    widths, heights = zip(*images.sizes, strict=True)
    if len(images.sizes) == 1:
        size = f"all {widths[0]}x{heights[0]} pixels"
    else:
        size = (
            f"{len(images.sizes):,} sizes, from {min(widths)} to {max(widths)} pixels wide and "
            f"{min(heights)} to {max(heights)} high"
        )
    return (
        f"{kinds}; {size}; {megabytes(images.total_bytes)}, {images.median_bytes / 1e3:.1f} kB "
        f"the median, {images.largest_bytes / 1e3:.1f} kB the largest"
    )
