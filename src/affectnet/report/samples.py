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
VERDICTS: Final[tuple[Verdict, ...]] = ("wrong", "right")

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
    wrong, right = (most_confident(preds, verdict, len(preds)) for verdict in VERDICTS)
    groups = (
        interleave(wrong, preds.expression)[: most // 3],
        interleave(right, preds.expression)[: most // 5],
        least_confident(preds, most // 5),
        largest_affect_errors(preds, most // 5),
        wrong[:most],
    )
    distinct = dict.fromkeys(np.concatenate(groups).tolist())
    return np.array(list(distinct)[:most], np.int64)


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

    def __init__(self, datasets: Iterable[Path | str], split: str) -> None:
        self.datasets: list[Path] = []
        self._splits: list[tuple[Split, dict[str, int]]] = []
        problems = []
        for folder in map(Path, datasets):
            try:
                opened = open_split(folder, split)
                rows = {face: row for row, face in enumerate(opened.ids)}
            except DataError as error:
                problems.append(str(error))
                continue
            self.datasets.append(folder)
            self._splits.append((opened, rows))
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
        for split, rows in self._splits:
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
    config = run.config.get("data")
    named += config if isinstance(config, list | tuple) else [config]
    paths = [Path(one) for one in named if isinstance(one, str) and one]
    return list(dict.fromkeys(_resolved(path, run.folder.path) for path in paths))


def _resolved(path: Path, run: Path) -> Path:
    bases = (Path.cwd(), run) if not path.is_absolute() else ()
    found = (base / path for base in bases if (base / path).exists())
    return next((one.resolve() for one in found), path)


def thumbnail(pixels: NDArray[np.uint8], side: int = THUMBNAIL_SIDE) -> str:
    """Return the square in the middle of an image, uint8 (h, w, 3), as a data URI.

    It is at most `side` pixels wide.
    """
    image = Image.fromarray(pixels)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short))
    if short > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return data_uri(image, "webp", THUMBNAIL_QUALITY)


class Thumbnails:
    """The thumbnails of a page as data URIs `uris`, each once, at most `limit` characters together.

    `omitted` is the number of images left out because of the limit.
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
            self._known[key] = None
            pixels = source.pixels(face)
            uri = "" if pixels is None else thumbnail(pixels)
            if len(uri) > self._left:
                self.omitted += 1
            elif uri:
                self._known[key] = len(self.uris)
                self._left -= len(uri)
                self.uris.append(uri)
        return self._known[key]
