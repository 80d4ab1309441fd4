"""Which faces of a run a report shows, and their images, read by id one at a time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.images import data_uri, decode_image
from affectnet.data.store import Split, open_split
from affectnet.errors import DataError
from affectnet.report.runs import EvaluatedRun, ScoredFaces, mapping_of

FaceRows = NDArray[np.int64]
Verdict = Literal["right", "wrong"]

THUMBNAIL_SIDE: Final = 96
THUMBNAIL_QUALITY: Final = 78


def most_confident(preds: ScoredFaces, kind: Verdict, most: int) -> FaceRows:
    """The rows of the most confident right or wrong predictions, highest confidence first.

    Faces without a true expression are neither. Without probabilities they are ordered by id.
    """
    wanted = preds.right if kind == "right" else preds.labelled & ~preds.right
    return _first(np.flatnonzero(wanted), -preds.confidence, preds.ids, most)


def least_confident(preds: ScoredFaces, most: int) -> FaceRows:
    """The rows with the lowest confidence, lowest first."""
    usable = np.flatnonzero(preds.labelled & np.isfinite(preds.confidence))
    return _first(usable, preds.confidence, preds.ids, most)


def largest_affect_errors(preds: ScoredFaces, most: int) -> FaceRows:
    """The rows with the largest distance from annotated to predicted point, largest first."""
    usable = np.flatnonzero(np.isfinite(preds.affect_error))
    return _first(usable, -preds.affect_error, preds.ids, most)


def fair_sample(preds: ScoredFaces, most: int) -> FaceRows:
    """A random sample of rows: those whose ids have the lowest checksums.

    It depends on the ids only, so runs on the same faces show the same ones.
    """
    keys = np.array([crc32(face.encode()) for face in preds.ids], dtype=np.int64)
    return np.argsort(keys, kind="stable")[:most]


def for_gallery(preds: ScoredFaces, most: int) -> FaceRows:
    """At most `most` distinct rows of informative faces, for the gallery.

    About a third are confidently wrong; a fifth each are confidently right, of low confidence, and
    far off in valence and arousal. Wrong and right faces are balanced over the true classes.
    """
    chosen: dict[int, None] = {}
    wrong = _by_class(preds, "wrong", most // 3)
    right = _by_class(preds, "right", most // 5)
    for rows in (
        wrong,
        right,
        least_confident(preds, most // 5),
        largest_affect_errors(preds, most // 5),
        most_confident(preds, "wrong", most),
    ):
        for row in rows:
            if len(chosen) < most:
                chosen.setdefault(int(row))
    return np.fromiter(chosen, dtype=np.int64)


def _by_class(preds: ScoredFaces, kind: Verdict, most: int) -> FaceRows:
    return interleave(most_confident(preds, kind, len(preds)), preds.expression)[:most]


def interleave(rows: FaceRows, labels: FaceRows) -> FaceRows:
    """Reorder rows: the first of each class, then the second of each, and so on."""
    rank = np.empty(len(rows), np.int64)
    for c in np.unique(labels[rows]):
        own = labels[rows] == c
        rank[own] = np.arange(own.sum())
    return rows[np.argsort(rank, kind="stable")]


def _first(rows: FaceRows, key: NDArray[Any], ids: list[str], most: int) -> FaceRows:
    """The `most` rows with the smallest keys; ties by id, independent of the order in the file."""
    keys = np.nan_to_num(key[rows], nan=np.inf)
    if len(rows) > most:
        # Avoid sorting 300,000 ids for a dozen rows: first drop keys above the limit.
        limit = np.partition(keys, most - 1)[most - 1] if most else -np.inf
        rows, keys = rows[keys <= limit], keys[keys <= limit]
    order = sorted(range(len(rows)), key=lambda i: (keys[i], ids[rows[i]]))
    return rows[order[:most]]


class FaceSource:
    """Images of one split by id, from one or several datasets, decoded on request.

    Attributes:
        datasets: the folders that could be opened.
        problem: why there are no images, as shown in the report; empty where there are some.
    """

    def __init__(self, datasets: Iterable[Path], split: str) -> None:
        self.split = split
        self.datasets: list[Path] = []
        self._splits: list[Split] = []
        self._rows: list[dict[str, int]] = []
        problems = []
        for folder in datasets:
            try:
                opened = open_split(folder, split)
                self._rows.append({face: row for row, face in enumerate(opened.ids)})
            except DataError as error:
                problems.append(str(error))
                continue
            self.datasets.append(folder)
            self._splits.append(opened)
        self.problem = ""
        if not self._splits:
            self.problem = "; ".join(problems) or "neither the run nor its metrics name a dataset"

    @property
    def key(self) -> str:
        """Identifies the source: one id may stand for different faces in two datasets."""
        return "|".join(str(folder.resolve()) for folder in self.datasets)

    def pixels(self, face: str, side: int | None = None) -> NDArray[np.uint8] | None:
        """RGB pixels of a face, uint8 (h, w, 3), resized to (side, side) where given.

        None where no dataset holds the id, or its image cannot be decoded.
        """
        for split, rows in zip(self._splits, self._rows, strict=True):
            if face in rows:
                try:
                    return decode_image(split.image_bytes(rows[face]), side)
                except DataError:
                    return None
        return None


def datasets_of(run: EvaluatedRun) -> list[Path]:
    """The dataset folders named in metrics.json, then those named in config.yaml.

    A relative path is resolved against the working directory, then against the run folder; one
    that exists in neither is returned unchanged.
    """
    protocol = mapping_of(run.metrics, "protocol")
    named = [protocol.get("data"), protocol.get("truth")]
    # The truth may also be a file, or just a name.
    named = [one for one in named if isinstance(one, str) and Path(one).is_dir()]
    named.append(run.config.get("data"))
    found: list[Path] = []
    for value in named:
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str) and one:
                path = _resolved(Path(one), run.folder.path)
                if path not in found:
                    found.append(path)
    return found


def _resolved(path: Path, run: Path) -> Path:
    if path.is_absolute():
        return path
    for base in (Path.cwd(), run):
        if (base / path).exists():
            return (base / path).resolve()
    return path


def thumbnail(pixels: NDArray[np.uint8], side: int = THUMBNAIL_SIDE) -> str:
    """Return the square in the middle of an image, at most `side` pixels wide, as a data URI.

    Args:
        pixels: uint8 (h, w, 3).
    """
    image = Image.fromarray(pixels)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short))
    if short > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return data_uri(image, "webp", THUMBNAIL_QUALITY)


class Thumbnails:
    """The thumbnails of a page, each once, up to a limit.

    Args:
        limit: most characters of all thumbnails together.

    Attributes:
        uris: the data URIs.
        omitted: number of images left out because of the limit.
    """

    def __init__(self, limit: int) -> None:
        self.uris: list[str] = []
        self.omitted = 0
        self._left = limit
        self._known: dict[tuple[str, str], int | None] = {}

    def add(self, source: FaceSource, face: str) -> int | None:
        """Return the index of a face in `uris`; None where it has no image or exceeds the limit."""
        key = (source.key, face)
        if key not in self._known:
            self._known[key] = self._new(source, face)
        return self._known[key]

    def _new(self, source: FaceSource, face: str) -> int | None:
        pixels = source.pixels(face)
        if pixels is None:
            return None
        uri = thumbnail(pixels)
        if len(uri) > self._left:
            self.omitted += 1
            return None
        self._left -= len(uri)
        self.uris.append(uri)
        return len(self.uris) - 1
