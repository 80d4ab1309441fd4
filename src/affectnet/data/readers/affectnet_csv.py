"""AffectNet's manual release (2017): CSV files of boxes and labels, and pictures of any size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from affectnet.data.readers.affectnet import Release
from affectnet.data.readers.annotations import Bad, affect, number, open_csv, plain_key, points
from affectnet.data.readers.collect import Record
from affectnet.data.readers.part import (
    BAD_BOX,
    BAD_LABEL,
    MISSING,
    NO_EXPRESSION,
    UNREADABLE,
    UNREADABLE_ID,
)
from affectnet.data.readers.parts import Options, Parts
from affectnet.data.readers.search import below, shown
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS

COLUMNS: Final = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
FILES: Final = {
    "training.csv": "training",
    "validation.csv": "validation",
    "automatically_annotated.csv": "automatically_annotated",
}
_NO_FACE = {8: "none", 9: "uncertain", 10: "no face"}
_KEYS = [plain_key(name) for name in COLUMNS]
_SAMPLES = 20


def read_affectnet_csv(paths: Sequence[Path], options: Options) -> Release:
    """Read training.csv, validation.csv or automatically_annotated.csv and crop their faces.

    A face is cropped square around its box, `margin` of the longer side added on each side; what
    lies outside the picture repeats its last pixels, so boxes may be negative or reach out of it.
    Dropped are rows of class 8, 9 and 10, values of -2 or outside [-1, 1], boxes without area or
    wholly outside, pictures that are missing or broken. Landmarks move with the crop.

    Args:
        paths: CSV files, folders that hold them, and folders that hold the pictures.
        options: see `Options`; with `align` the eyes decide in place of the box.

    Raises:
        DataError: there is no such CSV file, or two for one split; its columns are others; or the
            pictures are found nowhere, or in two places.
    """
    files = find_csv_files(paths)
    splits = {}
    for _, part in files:
        split = "test" if part == "validation" else "train"
        if split in splits:
            named = " and ".join(shown(csv) for csv, _ in files)
            raise DataError(
                f"there is more than one CSV file for the {split} split ({named}); give the one "
                "you want, and the folder of its pictures (two datasets can be trained on together)"
            )
        splits[split] = part
    with Parts(options, cropped=False) as parts:
        for file, part in files:
            roots = _Roots(file, [path for path in paths if path.is_dir()])
            _read_file(file, parts, part, roots, options)
        return parts.release("affectnet_csv", splits)


def find_csv_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the release's CSV files at or below some paths, and the part that each one is.

    Raises:
        DataError: there is none, or a CSV file has a name that tells no part.
    """
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            for file in below(path, lambda name: name.lower() in FILES):
                if is_affectnet_csv(file):
                    found[file] = FILES[file.name.lower()]
        else:
            part = FILES.get(path.name.lower())
            if part is None:
                raise DataError(
                    f"{path} is named neither {', '.join(FILES)}, so it is not known whether it is "
                    "for training; rename it"
                )
            found[path] = part
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: no {', '.join(FILES)} with AffectNet's columns "
            f"({', '.join(COLUMNS[:3])}, ...) is there; give the folder that holds them"
        )
    return sorted(found.items())


def is_affectnet_csv(path: Path) -> bool:
    """Whether a CSV file has the release's columns; copies without a header line count."""
    try:
        with open_csv(path, lambda *_: None) as rows:
            _, first = next(rows, (0, []))
            return _columns(first)[0] is not None
    except DataError:
        return False


def _columns(first: list[str]) -> tuple[list[int] | None, bool]:
    """Return where each of `COLUMNS` stands, and whether the first row names them."""
    keys = [plain_key(cell) for cell in first]
    if all(keys.count(key) == 1 for key in _KEYS):
        return [keys.index(key) for key in _KEYS], True
    # Some copies have no header; nine columns that begin with a picture are the published ones.
    if len(first) == len(COLUMNS) and "." in first[0] and first[1].strip().lstrip("-").isdigit():
        return list(range(len(COLUMNS))), False
    return None, False


class _Roots:
    """The folder that the pictures' paths start from: found by looking for the first ones."""

    def __init__(self, csv: Path, folders: Sequence[Path]) -> None:
        self._csv = csv
        self._folders = list(dict.fromkeys([*folders, csv.absolute().parent]))
        self._samples: list[str] = []
        self._root: Path | None = None

    def find(self, name: str) -> Path:
        """Return the file of a picture.

        Raises:
            DataError: there are two folders that hold it.
        """
        if self._root is None and len(self._samples) < _SAMPLES:
            self._samples.append(name)
            self._root = self._search(name)
        return (self._root or self._folders[0]) / name

    def _search(self, name: str) -> Path | None:
        first = name.partition("/")[0]
        found: list[Path] = []
        for folder in self._folders:
            # The numbered folders of the pictures themselves need no looking into.
            for child in below(folder, lambda entry: entry == first, folders="/" in name):
                if (child.parent / name).is_file():
                    found.append(child.parent.resolve())
            if found:
                break
        found = list(dict.fromkeys(found))
        if len(found) > 1:
            raise DataError(
                f"{shown(self._csv)}: its picture {name} is in {found[0]} and in {found[1]}; give "
                "the CSV file and the one folder of pictures that you want as sources"
            )
        return found[0] if found else None

    def missing(self) -> str | None:
        """Return the first picture asked for, where none has been found."""
        return self._samples[0] if self._samples and self._root is None else None


def _read_file(file: Path, parts: Parts, part: str, roots: _Roots, options: Options) -> None:
    collector = parts[part]
    with open_csv(file, options.progress(str(file))) as rows:
        columns: list[int] | None = None
        header = False
        for line, row in rows:
            if columns is None:
                columns, header = _columns(row)
                if columns is None:
                    raise DataError(
                        f"{file} has the columns {', '.join(row)[:200]}; AffectNet's are "
                        f"{', '.join(COLUMNS)}"
                    )
                width = len(row)
                if header:
                    continue
            if len(row) != width:
                detail = f"line {line} has {len(row)} values under {width} columns"
                collector.drop(row[columns[0]] if columns[0] < len(row) else "", UNREADABLE, detail)
                continue
            values = dict(zip(COLUMNS, (row[column] for column in columns), strict=True))
            name = values[COLUMNS[0]].strip().replace("\\", "/").removeprefix("./")
            try:
                record = _record(name, values)
            except Bad as bad:
                collector.drop(name, *bad.fault)
                continue
            record.image = roots.find(name)
            collector.add(record)
    if columns is None:
        raise DataError(f"{file} is empty; download it again")
    if roots.missing() is not None:
        raise DataError(
            f"the pictures of {file} are not found, {roots.missing()} for example; give the folder "
            "that they are below as a further source"
        )


def _record(name: str, values: dict[str, str]) -> Record:
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise Bad(UNREADABLE_ID, "no path below the folder of the pictures")
    label = number(values["expression"], "expression")
    if label is None:
        raise Bad(MISSING, "no expression")
    if label in _NO_FACE:
        raise Bad(NO_EXPRESSION, f"class {label:g}, {_NO_FACE[int(label)]}")
    if not 0 <= label < N_EXPRESSIONS or label != int(label):
        raise Bad(BAD_LABEL, f"expression is {label:g}")
    valence, arousal = (affect(values[key], key) for key in ("valence", "arousal"))
    if valence is None or arousal is None:
        raise Bad(MISSING, "no valence or arousal")
    box = [number(values[key], key) for key in COLUMNS[1:5]]
    if any(side is None or not np.isfinite(side) for side in box):
        raise Bad(BAD_BOX, "a side of the box is missing")
    x, y, width, height = (float(side or 0) for side in box)
    landmarks = points(values["facial_landmarks"])
    return Record(
        name,
        Path(),
        int(label),
        valence,
        arousal,
        landmarks=landmarks,
        box=(x, y, width, height),
    )
