"""A perceptual hash of 64 bits for faces, and the search for all pairs of near hashes.

One pass over all images: format, size, colour, content hashes and a thumbnail of each.

What the images of a dataset are, in a few figures and sentences.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

from affectnet.data.audit.counts import Release
from affectnet.data.audit.findings import Finding, info, problem, share, warning
from affectnet.data.images import decode_image
from affectnet.data.store import Split
from affectnet.errors import DataError, counted
from affectnet.threads import cores

THUMBNAIL = 32
"""Side of the grey thumbnail that the hash is computed from."""

RADIUS = 7
"""Bits in which two near hashes may differ; the search is complete up to here."""

MEDIAN_FROM = 1000
"""Faces from which the medians of a dataset are used; fewer would put single faces on the edge."""

_BLOCKS = 4
_CHUNK = 1 << 21


def _low_frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies but the mean, as JPEG orders them."""
    places = [(r, c) for r in range(16) for c in range(16) if r + c > 0]
    places.sort(key=lambda place: (sum(place), place[0]))
    rows, columns = np.array(places[:64]).T
    return rows, columns


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a perceptual hash of each thumbnail.

    A bit says whether one of the 64 lowest DCT coefficients (without the mean, so brightness does
    not count) exceeds its median over the dataset, or zero where there are under 1,000 thumbnails.
    Faces in the same frame resemble one another: against zero a third of the bits would be nearly
    constant, against the median each halves the dataset, which keeps distinct faces apart and the
    search's buckets small. After Zauner 2010, "Implementation and benchmarking of perceptual image
    hash functions", whose median is over the coefficients of one image instead.

    Args:
        thumbnails: uint8 (n, 32, 32).

    Returns:
        uint64 (n,). Hashes of different datasets are not comparable.
    """
    rows, columns = _low_frequencies()
    coefficients = np.empty((len(thumbnails), 64), np.float32)
    for start in range(0, len(thumbnails), 4096):
        chunk = thumbnails[start : start + 4096].astype(np.float32)
        coefficients[start : start + 4096] = dctn(chunk, axes=(1, 2), norm="ortho")[
            :, rows, columns
        ]
    edge = np.median(coefficients, axis=0) if len(thumbnails) >= MEDIAN_FROM else np.float32(0)
    # A coefficient of a plain image is zero but for rounding; it must not toss a coin.
    bits = coefficients > edge + 1e-3
    # Spread the frequencies over the blocks: the lowest, which vary together, do not share one.
    order = np.argsort(np.arange(64) % _BLOCKS, kind="stable")
    packed = np.ascontiguousarray(np.packbits(bits[:, order], axis=1))
    result: NDArray[np.uint64] = packed.view(np.uint64)[:, 0]
    return result


def distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of bits in which hashes differ."""
    x = left ^ right
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    x = x - ((x >> one) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> two) & np.uint64(0x3333333333333333))
    x = (x + (x >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):
        x = (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return x.astype(np.int64)


def near_pairs(
    values: NDArray[np.uint64], radius: int = RADIUS
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, in pieces, the positions (i, j) of all pairs whose hashes differ in at most `radius`.

    Multi-index hashing (Norouzi et al. 2012): the hash is cut into four blocks of 16 bits. Of up to
    7 differing bits at most one falls into the poorest block, so a pair is met where a block agrees
    but for one bit, and only such pairs are compared. A pair may come up to four times; i and j
    differ, in either order.

    Raises:
        ValueError: `radius` is over 7.
    """
    if radius > RADIUS:
        raise ValueError(f"radius {radius} is given; the search is complete up to {RADIUS}")
    blocks = values.view(np.uint16).reshape(-1, _BLOCKS)
    for block in range(_BLOCKS):
        for left, right in _agreeing(np.ascontiguousarray(blocks[:, block])):
            near = distance(values[left], values[right]) <= radius
            if near.any():
                yield left[near], right[near]


def _agreeing(
    keys: NDArray[np.uint16],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pieces of all pairs whose keys agree but for one bit at most."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order].astype(np.int64)
    edges = np.searchsorted(ordered, np.arange((1 << 16) + 1))
    places = np.arange(len(keys))
    yield from _pairs(order, places, places + 1, edges[ordered + 1])
    for bit in range(16):
        unset = places[(ordered >> bit) & 1 == 0]
        other = ordered[unset] | (1 << bit)
        yield from _pairs(order, unset, edges[other], edges[other + 1])


def _pairs(
    order: NDArray[np.int64],
    places: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each place with every place from its start to its end, some two million at a time."""
    counts = ends - starts
    running = np.cumsum(counts)
    at = 0
    while at < len(places):
        done = running[at - 1] if at else 0
        upto = max(at + 1, int(np.searchsorted(running, done + _CHUNK)))
        piece = counts[at:upto]
        within = np.arange(piece.sum()) - np.repeat(running[at:upto] - done - piece, piece)
        left = np.repeat(places[at:upto], piece)
        yield order[left], order[np.repeat(starts[at:upto], piece) + within]
        at = upto


PLAIN = 3.0
"""Standard deviation of a thumbnail's grey values under which an image shows nothing."""

_CHUNK = 128


class SomeRows:
    """Some rows of a split, numbered anew, for what an audit reads of a split."""

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


AnySplit = Split | SomeRows


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of all splits, one behind the other."""

    splits: tuple[str, ...]
    ids: list[str]
    split: NDArray[np.int8]
    expression: NDArray[np.int8]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]

    @classmethod
    def of(cls, splits: Mapping[str, AnySplit]) -> "Rows":
        """Join the labels of the splits of a dataset."""
        parts = list(splits.values())
        return cls(
            tuple(splits),
            [name for part in parts for name in part.ids],
            np.repeat(np.arange(len(parts), dtype=np.int8), [len(part) for part in parts]),
            np.concatenate([part.expression for part in parts]),
            np.concatenate([part.valence for part in parts]),
            np.concatenate([part.arousal for part in parts]),
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
    """What the images of n rows are.

    Args:
        kind: `JPEG`, `PNG`, ... of each row; '' where the image cannot be decoded.
        width: of the decoded image, in pixels.
        height: likewise.
        size: encoded bytes.
        grey: whether all pixels are grey.
        stored_grey: whether the file has one channel.
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
        """Whether an image is one even tone, or nearly, at each row."""
        flat = self.thumbnail.reshape(len(self.thumbnail), -1)
        spread = np.empty(len(flat), np.float32)
        for start in range(0, len(flat), 8192):
            spread[start : start + 8192] = flat[start : start + 8192].std(axis=1, dtype=np.float32)
        return self.readable & (spread < PLAIN)


def scan_images(splits: Mapping[str, AnySplit]) -> Scan:
    """Decode every image once, by threads, with a progress bar.

    About 1.2 kB stay in memory for each face. Rows are numbered as in `Rows`. An image that cannot
    be decoded is noted, not raised.
    """
    n = sum(map(len, splits.values()))
    scan = Scan(
        np.zeros(n, "U5"),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
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
        jobs += [(split, start, first + start) for start in range(0, len(split), _CHUNK)]
        first += len(split)

    def run(job: tuple[AnySplit, int, int]) -> int:
        split, start, row = job
        rows = range(start, min(start + _CHUNK, len(split)))
        for place, within in enumerate(rows, start=row):
            _look(split.image_bytes(within), scan, place)
        return len(rows)

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=n, desc="looking at images", unit=" faces", disable=None, leave=False) as bar,
    ):
        for done in pool.map(run, jobs):
            bar.update(done)
    return scan


def _look(data: memoryview, scan: Scan, row: int) -> None:
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
    small = Image.fromarray(pixels)
    # Averaging whole pixels first makes the two steps that follow cheap.
    small = small.reduce(max(1, min(small.size) // (2 * THUMBNAIL))).convert("L")
    small = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    scan.thumbnail[row] = np.asarray(small)
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
    """Return the format and whether one channel is stored, of an image that was decoded."""
    if bytes(data[:2]) == b"\xff\xd8":
        try:
            return "JPEG", simplejpeg.decode_jpeg_header(data)[2] == "Gray"
        except ValueError:  # Pillow decoded it, so Pillow knows it
            pass
    with Image.open(io.BytesIO(data)) as image:
        return image.format or "other", image.mode in ("1", "L", "LA", "I", "I;16", "F")


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
        findings.append(problem(TOPIC, f"{counted(len(images.broken), 'image')} cannot be decoded"))
    if images.plain:
        findings.append(
            warning(
                TOPIC,
                f"{counted(len(images.plain), 'image')} of one even tone: no face is to be seen",
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
        f"{kinds}; {size}; {images.total_bytes / 1e6:,.1f} MB, {images.median_bytes / 1e3:.1f} kB "
        f"the median, {images.largest_bytes / 1e3:.1f} kB the largest"
    )
