"""AffectNet's manual release (2017): CSV files of boxes and labels, and images of any size."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from affectnet.data.readers.annotations import (
    Bad,
    both_affects,
    expression,
    number,
    open_csv,
    path_below,
    plain_key,
    points,
)
from affectnet.data.readers.archive import below, with_folder
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.errors import DataError

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
_KEYS = [plain_key(name) for name in COLUMNS]
_SAMPLES = 20


def read_affectnet_csv(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read training.csv, validation.csv or automatically_annotated.csv and crop their faces.

    A face is cropped square around its box, with `margin` of the longer side added on each side;
    the border of the image is repeated outside of it, so boxes may be negative or exceed the image.
    Rows of class 8, 9 and 10, values of -2 or outside [-1, 1], boxes without area or entirely
    outside, and missing or broken images are dropped. Landmarks move with the crop.

    Args:
        paths: CSV files, folders that contain them, and folders that contain the images.
        options: see `ReadOptions`; with `align` the eyes are used instead of the box.

    Raises:
        DataError: there is no such CSV file, or two for one split; it has other columns; or the
            images are not found, or found in two places.
    """
    files = find_csv_files(paths)
    splits = {}
    for _, part in files:
        split = "test" if part == "validation" else "train"
        if split in splits:
            named = " and ".join(with_folder(csv) for csv, _ in files)
            raise DataError(
                f"there is more than one CSV file for the {split} split ({named}); give one of "
                "them, and the folder of its images (a model can be trained on two datasets)"
            )
        splits[split] = part
    with Engine(options, cropped=False) as engine:
        for file, part in files:
            roots = _Roots(file, [path for path in paths if path.is_dir()])
            engine.read(_faces(file, part, roots, options))
        return engine.release("affectnet_csv", splits)


def find_csv_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the release's CSV files at or below some paths, and the part that each one is.

    Raises:
        DataError: there is none, or the name of a CSV file does not state its part.
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
                    f"{path} is not named {' or '.join(FILES)}, so it is unknown whether it is for "
                    "training; rename it"
                )
            found[path] = part
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no {', '.join(FILES)} with AffectNet's "
            f"columns ({', '.join(COLUMNS[:3])}, ...); give the folder that contains them"
        )
    return sorted(found.items())


def is_affectnet_csv(path: Path) -> bool:
    """Whether a CSV file has the columns of the release; it may lack the header line."""
    try:
        with open_csv(path) as rows:
            _, first = next(rows, (0, []))
            return _columns(first)[0] is not None
    except DataError:
        return False


def _columns(first: list[str]) -> tuple[list[int] | None, bool]:
    """Return the place of each of `COLUMNS`, and whether the first row names them."""
    keys = [plain_key(cell) for cell in first]
    if all(keys.count(key) == 1 for key in _KEYS):
        return [keys.index(key) for key in _KEYS], True
    # Some copies have no header; nine columns that begin with an image are the published ones.
    if len(first) == len(COLUMNS) and "." in first[0] and first[1].strip().lstrip("-").isdigit():
        return list(range(len(COLUMNS))), False
    return None, False


class _Roots:
    """The folder that the paths of the images start from: found by searching for the first ones."""

    def __init__(self, csv: Path, folders: Sequence[Path]) -> None:
        self._csv = csv
        self._folders = list(dict.fromkeys([*folders, csv.absolute().parent]))
        self._samples: list[str] = []
        self._root: Path | None = None

    def find(self, name: str) -> Path:
        """Return the file of an image.

        Raises:
            DataError: two folders contain it.
        """
        if self._root is None and len(self._samples) < _SAMPLES:
            self._samples.append(name)
            self._root = self._search(name)
        return (self._root or self._folders[0]) / name

    def _search(self, name: str) -> Path | None:
        first = name.partition("/")[0]
        found: list[Path] = []
        for folder in self._folders:
            # The numbered folders of the images themselves need not be searched.
            for child in below(folder, lambda entry: entry == first, folders="/" in name):
                if (child.parent / name).is_file():
                    found.append(child.parent.resolve())
            if found:
                break
        found = list(dict.fromkeys(found))
        if len(found) > 1:
            raise DataError(
                f"{with_folder(self._csv)}: its image {name} is in {found[0]} and in {found[1]}; "
                "give the CSV file and one of the two folders as sources"
            )
        return found[0] if found else None

    def missing(self) -> str | None:
        """Return the first image searched for, if no image has been found."""
        return self._samples[0] if self._samples and self._root is None else None


def _faces(
    file: Path, part: str, roots: _Roots, options: ReadOptions
) -> Iterator[FaceRecord | Dropped]:
    columns: list[int] | None = None
    with open_csv(file, options.progress(str(file))) as rows:
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
                detail = f"line {line} has {len(row)} values, but there are {width} columns"
                name = row[columns[0]] if columns[0] < len(row) else ""
                yield Dropped(part, name, Reason.UNREADABLE, detail)
                continue
            values = dict(zip(COLUMNS, (row[column] for column in columns), strict=True))
            name = values[COLUMNS[0]]
            try:
                name = path_below(name, options.allow_outside)
                face = _face(part, name, values)
            except Bad as bad:
                yield Dropped(part, name, *bad.fault)
                continue
            face.image = roots.find(name)
            yield face
    if columns is None:
        raise DataError(f"{file} is empty; download it again")
    if roots.missing() is not None:
        raise DataError(
            f"the images of {file} are not found, {roots.missing()} for example; give the folder "
            "that contains them as a further source"
        )


def _face(part: str, name: str, values: dict[str, str]) -> FaceRecord:
    label = expression(values["expression"], "expression")
    valence, arousal = both_affects(values["valence"], values["arousal"])
    sides = [number(values[key], key) for key in COLUMNS[1:5]]
    if any(side is None or not np.isfinite(side) for side in sides):
        raise Bad(Reason.BAD_BOX, "a side of the box is missing")
    x, y, width, height = (float(side or 0) for side in sides)
    landmarks, box = points(values["facial_landmarks"]), (x, y, width, height)
    return FaceRecord(part, name, Path(), label, valence, arousal, landmarks, box=box)
