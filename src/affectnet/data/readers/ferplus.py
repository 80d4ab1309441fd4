"""FER+ (2016): `FER2013Train|FER2013Valid|FER2013Test/` with images and ten votes each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.annotations import Bad, number, open_csv, path_below, plain_key
from affectnet.data.readers.archive import find_folders, image_names
from affectnet.data.readers.classes import FERPLUS
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

FOLDERS: Final = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
LABELS_NAME: Final = "label.csv"
ANSWERS: Final = (*FERPLUS, "unknown", "NF")
"""The order of the votes; NF is no face."""

_TO_OURS = [FERPLUS.index(name) for name in EXPRESSIONS]
_MOST_VOTES = 1000


def read_ferplus(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read FER+; its three folders are the splits train, val and test as they are.

    `options.labels` 'majority' uses the faces that `majority` gives an expression. 'shares' uses
    all faces whose most frequent answer is an expression, with the vote shares as soft labels, and
    the expression where there is a majority.

    Raises:
        DataError: a folder or its label.csv is missing or has other columns.
    """
    found = find_labelled(paths)
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is none of {', '.join(FOLDERS)} with a "
            f"{LABELS_NAME}; give the folder that contains them"
        )
    splits: dict[str, str] = {}
    with Engine(options) as engine:
        for folder in found:
            if FOLDERS[folder.name] in splits:
                raise DataError(f"{folder.name} is there twice; give one of the two")
            splits[FOLDERS[folder.name]] = folder.name
            engine.read(_faces(folder, options))
        return engine.release("ferplus", splits, labels=options.labels)


def find_labelled(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of the release that contain a label.csv."""
    found = [path for path in find_folders(paths, FOLDERS) if (path / LABELS_NAME).is_file()]
    return sorted(found, key=lambda folder: list(FOLDERS).index(folder.name))


def majority(votes: NDArray[np.int64]) -> int | None:
    """Return the answer by the majority rule of FER+, an index into `ANSWERS`.

    Answers with a single vote are dropped as outliers; the most frequent answer needs more than
    half of the remaining votes (Barsoum et al., 2016).

    Args:
        votes: int (10,), in the order of `ANSWERS`.

    Returns:
        None if no answer has that many.
    """
    left = np.where(votes > 1, votes, 0)
    peak = int(left.argmax())
    return peak if 2 * left[peak] > left.sum() else None


def vote_shares(votes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vote share of each expression, float32 (8,) in the order of `labels.EXPRESSIONS`.

    Single votes are dropped as in `majority`; unknown and NF do not count.

    Raises:
        Bad: no expression has two votes, or unknown or NF has more than any expression.
    """
    left = np.where(votes > 1, votes, 0)
    faces = left[:N_EXPRESSIONS]
    if left[N_EXPRESSIONS:].max() > faces.max():
        raise Bad(Reason.NO_EXPRESSION, f"most votes are for {ANSWERS[int(left.argmax())]}")
    if not faces.sum():
        raise Bad(Reason.NO_MAJORITY, "no two votes for the same expression")
    return np.asarray(faces[_TO_OURS] / faces.sum(), np.float32)


def _faces(folder: Path, options: ReadOptions) -> Iterator[FaceRecord | Dropped]:
    file = folder / LABELS_NAME
    unnamed = set(image_names(folder))
    with open_csv(file, options.progress(str(folder))) as rows:
        name_at, votes_at, width = 0, list(range(2, 12)), 12
        for number_of_row, (line, row) in enumerate(rows):
            if number_of_row == 0 and _is_header(row):
                name_at, votes_at, width = _columns(file, row)
                continue
            name = row[name_at].strip() if name_at < len(row) else ""
            try:
                if len(row) != width:
                    raise Bad(Reason.UNREADABLE, f"line {line} has {len(row)} values, not {width}")
                yield _face(folder, name, [row[i] for i in votes_at], options)
            except Bad as bad:
                yield Dropped(folder.name, _stem(name) or f"line {line}", *bad.fault)
            unnamed.discard(name)
    for name in sorted(unnamed):
        yield Dropped(
            folder.name, _stem(name), Reason.ORPHAN_IMAGE, f"{LABELS_NAME} does not name it"
        )


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _is_header(row: list[str]) -> bool:
    return "neutral" in map(plain_key, row)


def _columns(file: Path, header: list[str]) -> tuple[int, list[int], int]:
    """Find the columns by their names, as their order may differ."""
    keys = [plain_key(cell) for cell in header]
    names = [key for key in ("imagename", "name", "image", "filename") if key in keys]
    missing = [answer for answer in ANSWERS if keys.count(plain_key(answer)) != 1]
    if not names or missing:
        raise DataError(
            f"{file} has the columns {', '.join(header)[:200]}; it needs the name of the image "
            f"and the votes for {', '.join(ANSWERS)}"
        )
    votes = [keys.index(plain_key(answer)) for answer in ANSWERS]
    return keys.index(names[0]), votes, len(header)


def _face(folder: Path, name: str, cells: Sequence[str], options: ReadOptions) -> FaceRecord:
    if not name:
        raise Bad(Reason.MISSING, "no image name (FER+ has rows for images that were removed)")
    image = folder / path_below(name, options.allow_outside)
    counts = [number(cell, answer) for cell, answer in zip(cells, ANSWERS, strict=True)]
    if not all(n is not None and 0 <= n <= _MOST_VOTES and n == int(n) for n in counts):
        raise Bad(Reason.UNREADABLE, f"votes are {', '.join(cells)[:100]}")
    votes = np.array(counts, np.int64)
    winner = majority(votes)
    if winner is not None and winner >= N_EXPRESSIONS:
        raise Bad(Reason.NO_EXPRESSION, f"the majority voted {ANSWERS[winner]}")
    soft = None
    if options.labels == "shares":
        soft = vote_shares(votes)
    elif winner is None:
        raise Bad(Reason.NO_MAJORITY, f"votes are {', '.join(cell.strip() for cell in cells)}")
    label = None if winner is None else EXPRESSIONS.index(ANSWERS[winner])
    return FaceRecord(folder.name, _stem(name), image, label, soft=soft)
