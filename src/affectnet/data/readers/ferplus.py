"""FER+ (2016): `FER2013Train|FER2013Valid|FER2013Test/` with images and ten votes each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.affectnet import Release
from affectnet.data.readers.annotations import Bad, number, open_csv, plain_key
from affectnet.data.readers.classes import FERPLUS
from affectnet.data.readers.collect import Record
from affectnet.data.readers.part import (
    MISSING,
    NO_EXPRESSION,
    NO_MAJORITY,
    ORPHAN_IMAGE,
    UNREADABLE,
    UNREADABLE_ID,
)
from affectnet.data.readers.parts import Options, Parts
from affectnet.data.readers.search import below, entries, is_image
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS

FOLDERS: Final = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
LABELS_NAME: Final = "label.csv"
ANSWERS: Final = (*FERPLUS, "unknown", "NF")
"""The order of the votes; NF is no face."""

_TO_OURS = [FERPLUS.index(name) for name in EXPRESSIONS]
_MOST_VOTES = 1000


def read_ferplus(paths: Sequence[Path], options: Options) -> Release:
    """Read FER+; its three folders are the splits train, val and test as they are.

    `options.labels` 'majority' keeps the faces that `majority` gives an expression. 'shares' keeps
    all whose most frequent answer is an expression, with the shares of their votes as soft labels,
    and the expression where there is a majority.

    Raises:
        DataError: a folder or its label.csv is missing or has other columns.
    """
    found = find_folders(paths)
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: none of {', '.join(FOLDERS)} with a {LABELS_NAME} is "
            "there; give the folder that holds them"
        )
    splits: dict[str, str] = {}
    with Parts(options) as parts:
        for folder in found:
            if FOLDERS[folder.name] in splits:
                raise DataError(f"{folder.name} is there twice; give one of them")
            splits[FOLDERS[folder.name]] = folder.name
            _read_folder(folder, parts, options)
        return parts.release("ferplus", splits, labels=options.labels)


def find_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the release's folders that hold a label.csv."""
    found: dict[Path, Path] = {}
    for path in paths:
        here = [path.absolute()] if path.absolute().name in FOLDERS else []
        for folder in [*here, *below(path, lambda name: name in FOLDERS, folders=True)]:
            if (folder / LABELS_NAME).is_file():
                found.setdefault(folder.resolve(), folder)
    return sorted(found.values(), key=lambda folder: list(FOLDERS).index(folder.name))


def majority(votes: NDArray[np.int64]) -> int | None:
    """Return the answer that the majority rule of FER+ gives, an index into `ANSWERS`.

    Answers with a single vote are dropped as outliers; the most frequent of the rest needs more
    than half of the votes that are left (Barsoum et al., 2016).

    Args:
        votes: int (10,), in the order of `ANSWERS`.

    Returns:
        None where no answer has that many.
    """
    left = np.where(votes > 1, votes, 0)
    peak = int(left.argmax())
    return peak if 2 * left[peak] > left.sum() else None


def vote_shares(votes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the share of each expression, float32 (8,) in the order of `labels.EXPRESSIONS`.

    Single votes are dropped as in `majority`, unknown and NF do not count.

    Raises:
        Bad: no expression has two votes, or unknown or NF has more than any expression.
    """
    left = np.where(votes > 1, votes, 0)
    faces = left[:N_EXPRESSIONS]
    if left[N_EXPRESSIONS:].max() > faces.max():
        raise Bad(NO_EXPRESSION, f"most votes are for {ANSWERS[int(left.argmax())]}")
    if not faces.sum():
        raise Bad(NO_MAJORITY, "no two votes for the same expression")
    return np.asarray(faces[_TO_OURS] / faces.sum(), np.float32)


def _read_folder(folder: Path, parts: Parts, options: Options) -> None:
    collector = parts[folder.name]
    file = folder / LABELS_NAME
    there = {name for name, is_folder in entries(folder) if not is_folder and is_image(name)}
    with open_csv(file, options.progress(str(folder))) as rows:
        name_at, votes_at, width = 0, list(range(2, 12)), 12
        for number_of_row, (line, row) in enumerate(rows):
            if number_of_row == 0 and _is_header(row):
                name_at, votes_at, width = _columns(file, row)
                continue
            name = row[name_at].strip() if name_at < len(row) else ""
            try:
                if len(row) != width:
                    raise Bad(UNREADABLE, f"line {line} has {len(row)} values, not {width}")
                record = _record(folder, name, [row[i] for i in votes_at], options)
            except Bad as bad:
                collector.drop(_stem(name) or f"line {line}", *bad.fault)
            else:
                collector.add(record)
            there.discard(name)
    for name in sorted(there):
        collector.drop(_stem(name), ORPHAN_IMAGE, f"{LABELS_NAME} does not name it")


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _is_header(row: list[str]) -> bool:
    return "neutral" in map(plain_key, row)


def _columns(file: Path, header: list[str]) -> tuple[int, list[int], int]:
    """Find the columns by their names: an order that differs is then no trap."""
    keys = [plain_key(cell) for cell in header]
    names = [key for key in ("imagename", "name", "image", "filename") if key in keys]
    missing = [answer for answer in ANSWERS if keys.count(plain_key(answer)) != 1]
    if not names or missing:
        raise DataError(
            f"{file} has the columns {', '.join(header)[:200]}; needed are the image's name and "
            f"the votes for {', '.join(ANSWERS)}"
        )
    votes = [keys.index(plain_key(answer)) for answer in ANSWERS]
    return keys.index(names[0]), votes, len(header)


def _record(folder: Path, name: str, cells: Sequence[str], options: Options) -> Record:
    if not name:
        raise Bad(MISSING, "no name of an image (FER+ has rows for images that were removed)")
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise Bad(UNREADABLE_ID, "no name of a file in this folder")
    counts = [number(cell, answer) for cell, answer in zip(cells, ANSWERS, strict=True)]
    if not all(n is not None and 0 <= n <= _MOST_VOTES and n == int(n) for n in counts):
        raise Bad(UNREADABLE, f"votes are {', '.join(cells)[:100]}")
    votes = np.array(counts, np.int64)
    winner = majority(votes)
    if winner is not None and winner >= N_EXPRESSIONS:
        raise Bad(NO_EXPRESSION, f"the majority voted {ANSWERS[winner]}")
    soft = None
    if options.labels == "shares":
        soft = vote_shares(votes)
    elif winner is None:
        raise Bad(NO_MAJORITY, f"votes are {', '.join(cell.strip() for cell in cells)}")
    label = None if winner is None else EXPRESSIONS.index(ANSWERS[winner])
    return Record(_stem(name), folder / name, label, soft=soft)
