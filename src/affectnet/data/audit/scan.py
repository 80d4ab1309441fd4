"""One pass over all images: format, size, colour, content hashes and a thumbnail of each."""

import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from affectnet.data.audit.phash import THUMBNAIL
from affectnet.data.store import Split, decode_image
from affectnet.errors import DataError

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
        ThreadPoolExecutor() as pool,
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
