"""Which of a run's faces a report shows: the telling ones, and a fair sample of all.

The face images that a report shows: found by id in the dataset, read one at a time.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.images import decode_image
from affectnet.data.store import DatasetInfo, Split, open_split
from affectnet.errors import DataError
from affectnet.report.runs import EvaluatedRun, ScoredFaces

Rows = NDArray[np.int64]


def most_confident(preds: ScoredFaces, kind: Literal["right", "wrong"], most: int) -> Rows:
    """The rows of the most confident right or wrong answers, surest first.

    Faces without a true expression are neither. Without probabilities the order is that of the
    ids.
    """
    wanted = preds.right if kind == "right" else preds.labelled & ~preds.right
    return _first(np.flatnonzero(wanted), -preds.confidence, preds.ids, most)


def least_confident(preds: ScoredFaces, most: int) -> Rows:
    """The rows that the model was least sure of, least sure first."""
    usable = np.flatnonzero(preds.labelled & np.isfinite(preds.confidence))
    return _first(usable, preds.confidence, preds.ids, most)


def largest_affect_errors(preds: ScoredFaces, most: int) -> Rows:
    """The rows whose predicted point lies farthest from the annotated one, farthest first."""
    usable = np.flatnonzero(np.isfinite(preds.affect_error))
    return _first(usable, -preds.affect_error, preds.ids, most)


def fair_sample(preds: ScoredFaces, most: int) -> Rows:
    """Rows that stand for all of them: those whose ids come first by their checksum.

    The choice depends on the ids alone, so runs over the same faces show the same ones.
    """
    keys = np.array([crc32(face.encode()) for face in preds.ids], dtype=np.int64)
    return np.argsort(keys, kind="stable")[:most]


def for_gallery(preds: ScoredFaces, most: int) -> Rows:
    """At most `most` different rows of every telling kind, for people to sort and filter.

    About a third confidently wrong, a fifth each confidently right, unsure, and far off in
    valence and arousal; among the wrong and the right every true class has its share.
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


def _by_class(preds: ScoredFaces, kind: Literal["right", "wrong"], most: int) -> Rows:
    """The most confident rows, each true class giving in turn its surest."""
    rows = most_confident(preds, kind, len(preds))
    rank = np.empty(len(rows), dtype=np.int64)
    for c in np.unique(preds.expression[rows]):
        own = preds.expression[rows] == c
        rank[own] = np.arange(own.sum())
    return rows[np.argsort(rank, kind="stable")][:most]


def _first(rows: Rows, key: NDArray[Any], ids: list[str], most: int) -> Rows:
    """The `most` rows of the smallest key; ties by id, so that no order of the file matters."""
    keys = np.nan_to_num(key[rows], nan=np.inf)
    if len(rows) > most:
        # Sorting 300,000 ids for the sake of a dozen is wasted: cut at the key that decides.
        limit = np.partition(keys, most - 1)[most - 1] if most else -np.inf
        rows, keys = rows[keys <= limit], keys[keys <= limit]
    order = sorted(range(len(rows)), key=lambda i: (keys[i], ids[rows[i]]))
    return rows[order[:most]]


THUMBNAIL_SIDE = 96
THUMBNAIL_QUALITY = 78


class FaceSource:
    """Images of one split, by id, over one or several datasets.

    Nothing is decoded before it is asked for.

    Attributes:
        datasets: the folders that could be opened.
        problem: why there are no images, in words for the page; empty where there are some.
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
            self.problem = "; ".join(problems) or "neither the run nor its scores name a dataset"

    @property
    def key(self) -> str:
        """Tells sources apart: the same id in two datasets may be two faces."""
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

    def infos(self) -> list[DatasetInfo]:
        """`dataset.json` of each dataset."""
        return [DatasetInfo.read(folder) for folder in self.datasets]


def datasets_of(run: EvaluatedRun) -> list[Path]:
    """The dataset folders that a run's scores and settings name, those of the scores first.

    A relative path is looked for from the working directory, then from the run folder; one that is
    found nowhere is kept as it was written.
    """
    protocol = run.metrics.get("protocol")
    named = [protocol.get("data"), protocol.get("truth")] if isinstance(protocol, dict) else []
    # The truth may also be a file that somebody wrote, or only its name.
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
    """Return a square picture of at most `side` pixels as a `data:` address.

    Args:
        pixels: uint8 (h, w, 3); what is not square is cut to its middle.
    """
    image = Image.fromarray(pixels)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short))
    if short > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


class Album:
    """The thumbnails of a page, each once, within a budget of bytes.

    Args:
        budget: most characters of all thumbnails together; faces that come after are refused.
    """

    def __init__(self, budget: int) -> None:
        self.pictures: list[str] = []
        self.refused = 0
        self._left = budget
        self._known: dict[tuple[str, str], int | None] = {}

    def add(self, source: FaceSource, face: str) -> int | None:
        """Return the index of a face in `pictures`; None where there is no image or no room."""
        key = (source.key, face)
        if key not in self._known:
            self._known[key] = self._take(source, face)
        return self._known[key]

    def _take(self, source: FaceSource, face: str) -> int | None:
        pixels = source.pixels(face)
        if pixels is None:
            return None
        picture = thumbnail(pixels)
        if len(picture) > self._left:
            self.refused += 1
            return None
        self._left -= len(picture)
        self.pictures.append(picture)
        return len(self.pictures) - 1
