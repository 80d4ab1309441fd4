"""CSV and Parquet tables of faces, exports of Hugging Face datasets among them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from affectnet.data.readers.annotations import Bad, affect, as_text, open_csv, path_below, points
from affectnet.data.readers.archive import Progress, below, with_folder
from affectnet.data.readers.classes import Classes, find_class
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.folder import SPLIT_WORDS, split_of
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.errors import DataError, suggest

EXPRESSION_NAMES: Final = ("expression", "emotion", "label")
IMAGE_NAMES: Final = ("image", "path", "pth", "image_path", "filepath", "filename", "file_name")
SUFFIXES: Final = (".parquet", ".csv")
_OTHERS: Final = ("valence", "arousal", "split", "id", "landmarks")
_ROWS_AT_ONCE = 32
_SHOWN = 200


@dataclass(frozen=True)
class _Table:
    """One file: its columns, and the names of its classes if it states them."""

    path: Path
    image: str
    expression: str | None
    others: frozenset[str]
    class_names: tuple[str, ...]
    split: str | None
    columns: tuple[str, ...]


def read_table(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read tables with one row per face.

    Columns: `image` (encoded bytes, a struct of `bytes` and `path` as Hugging Face writes it, or a
    path) or `path`; `expression` (or `emotion`, or `label`), `valence`, `arousal`, `split`, `id`
    and `landmarks`, as far as they are there, and `options.group`. `pth`, `image_path`, `filepath`,
    `filename` and `file_name` mean `path`. Paths start at the folder of the table. Words for
    expressions are understood; numbers need the names that a Hugging Face export contains, or
    `options.class_order`. The split is stated by the column, or else by the names of the files.

    Raises:
        DataError: a file cannot be read or lacks columns, or its classes or split are unknown.
    """
    files = find_tables(paths)
    if not files:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no CSV or Parquet table with a column image "
            f"or path, and {EXPRESSION_NAMES[0]}, valence or arousal"
        )
    classes = Classes(options.class_order)
    tables = [_open(file) for file in files]
    _check_splits(tables)
    group: tuple[str, ...] = () if options.group is None else (options.group,)
    for table in tables:
        if not set(group) <= set(table.columns):
            raise DataError(
                f"{table.path} has no column '{group[0]}'{suggest(group[0], table.columns)}; it "
                f"has {', '.join(table.columns)[:_SHOWN]}"
            )
    columns = pa.schema([pa.field(name, pa.string()) for name in group])
    with Engine(options, columns=columns) as engine:
        for table in tables:
            several = len(tables) > 1
            reader = _TableReader(table, classes, several, options.allow_outside, group)
            engine.read(reader.faces(options.progress(str(table.path))))
        return engine.release(
            "table", {split: split for split in engine.tables}, class_order=classes.given or None
        )


def find_tables(paths: Sequence[Path]) -> list[Path]:
    """Return the tables at or below some paths, those that have the columns."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = below(path, lambda name: name.lower().endswith(SUFFIXES))
            found += filter(is_table, files)
        else:
            found.append(path)
    return found


def names_labels(path: Path) -> bool:
    """Whether a CSV file has a column of expressions, even if it names no images."""
    try:
        with open_csv(path) as rows:
            return any(cell.strip().lower() in EXPRESSION_NAMES for cell in next(rows, (0, []))[1])
    except DataError:
        return False


def is_table(path: Path) -> bool:
    """Whether a file is a table with the columns needed."""
    try:
        _open(path)
    except DataError:
        return False
    return True


def _open(path: Path) -> _Table:
    """Read the columns of a table.

    Raises:
        DataError: it cannot be read, or does not have the columns of a table of faces.
    """
    names: tuple[str, ...] = ()
    if _is_parquet(path):
        with _parquet(path) as file:
            columns = list(file.schema_arrow.names)
            names = _class_names(file.schema_arrow)
    else:
        with open_csv(path) as rows:
            columns = [cell.strip() for cell in next(rows, (0, []))[1]]
    for name in (*IMAGE_NAMES, *EXPRESSION_NAMES, *_OTHERS):
        if columns.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}'; remove one")
    image = [name for name in IMAGE_NAMES if name in columns]
    labels = [name for name in EXPRESSION_NAMES if name in columns]
    if not image or not (labels or {"valence", "arousal"} & set(columns)):
        raise DataError(
            f"{path} has the columns {', '.join(columns)[:_SHOWN]}; it needs image or path, and "
            f"{EXPRESSION_NAMES[0]}, valence or arousal"
        )
    if len(labels) > 1:
        raise DataError(
            f"{path} has the columns {' and '.join(labels)}; leave only the one with the expression"
        )
    return _Table(
        path,
        image[0],
        labels[0] if labels else None,
        frozenset(n for n in (*_OTHERS, "path") if n in columns and n != image[0]),
        names,
        split_of(path.stem),
        tuple(columns),
    )


def _check_splits(tables: Sequence[_Table]) -> None:
    """Raise `DataError` where there are several files and the split of one is unknown."""
    unknown = [table for table in tables if "split" not in table.others and table.split is None]
    if len(tables) > 1 and unknown:
        raise DataError(
            f"the split of {with_folder(unknown[0].path)} is unknown; add a column split, or name "
            "the files train, val and test"
        )


@dataclass(frozen=True)
class _TableReader:
    """Reads one table; ids of `several` tables have to differ; see `path_below` for the paths."""

    table: _Table
    classes: Classes
    several: bool
    allow_outside: bool
    group: tuple[str, ...] = ()

    def faces(self, progress: Progress) -> Iterator[FaceRecord | Dropped]:
        """Yield all rows."""
        table = self.table
        rows = _parquet_rows if _is_parquet(table.path) else _csv_rows
        wanted = [table.image, *sorted(table.others), *self.group]
        wanted += [table.expression] if table.expression else []
        for place, row in rows(table.path, wanted, progress):
            yield self._face(place, row)

    def _face(self, place: int, row: Mapping[str, Any] | str) -> FaceRecord | Dropped:
        split, name = self.table.split or "train", f"row {place}"
        try:
            if isinstance(row, str):
                raise Bad(Reason.UNREADABLE, row)
            if "split" in self.table.others:
                word = as_text(row["split"])
                if word is None or word.casefold() not in SPLIT_WORDS:
                    shown = str(row["split"])[:40]
                    raise Bad(Reason.MISSING, f"split is {shown!r}, not train, val, test")
                split = SPLIT_WORDS[word.casefold()]
            name = self._name(place, row)
            valence, arousal = (affect(row.get(key), key) for key in ("valence", "arousal"))
            label = self._label(row)
            if label is None and valence is None and arousal is None:
                raise Bad(Reason.MISSING, "no expression, valence or arousal")
            image, landmarks = self._image(row), points(row.get("landmarks"))
        except Bad as bad:
            return Dropped(split, name, *bad.fault)
        groups = tuple(as_text(row[name]) for name in self.group)
        return FaceRecord(split, name, image, label, valence, arousal, landmarks, extra=groups)

    def _name(self, place: int, row: Mapping[str, Any]) -> str:
        if "id" in self.table.others:
            name = as_text(row["id"])
            if name is None:
                raise Bad(Reason.MISSING, "no id")
            return name
        path = row.get("path", row[self.table.image])
        if isinstance(path, str) and path.strip():
            return path.strip()
        # Without ids the position is used; it is the same as long as the table is.
        return f"{self.table.path.stem}:{place}" if self.several else str(place)

    def _image(self, row: Mapping[str, Any]) -> Path | bytes:
        value = row[self.table.image]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        value = value or row.get("path")
        if isinstance(value, bytes) and value:
            return value
        if isinstance(value, str) and value.strip():
            return self.table.path.absolute().parent / path_below(value, self.allow_outside)
        raise Bad(Reason.ORPHAN_ANNOTATION, "no image")

    def _label(self, row: Mapping[str, Any]) -> int | None:
        name = self.table.expression
        value = row[name] if name else None
        if isinstance(value, float) and value.is_integer():  # a column with gaps
            value = int(value)
        text = as_text(value)
        if text is None:
            if value is not None and value != "" and value == value:
                raise Bad(Reason.UNREADABLE, f"{name} is a {type(value).__name__}")
            return None
        if text.endswith(".0") and text[:-2].isdecimal():
            text = text[:-2]
        names = self.table.class_names
        if names and text.isdecimal() and not self.classes.given:
            if int(text[:6]) >= len(names):
                raise Bad(Reason.UNREADABLE, f"{name} is {text}, but there are {len(names)} names")
            text = names[int(text)]
        try:
            label = self.classes.find(text)
        except KeyError:
            raise self.classes.refuse(f"{self.table.path}, column {name},", [text]) from None
        if label is None:
            raise Bad(Reason.NO_EXPRESSION, f"{name} is {text}, left out by --class-order")
        return label


def _csv_rows(
    path: Path, wanted: Sequence[str], progress: Progress
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    with open_csv(path, progress) as rows:
        header = [cell.strip() for cell in next(rows)[1]]
        for place, (line, row) in enumerate(rows):
            if len(row) == len(header):
                values = dict(zip(header, row, strict=True))
                yield place, {name: values[name] for name in wanted}
            else:
                yield place, f"line {line} has {len(row)} values, not {len(header)}"


def _parquet_rows(
    path: Path, wanted: Sequence[str], progress: Progress
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    place = 0
    with _parquet(path) as file:
        total = file.metadata.num_rows
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(wanted), use_threads=False):
            for row in batch.to_pylist():
                yield place, row
                place += 1
            progress(min(place, total), total)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; errors of pyarrow become a `DataError`."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from error


def _is_parquet(path: Path) -> bool:
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is not a regular file")
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    """Return the class names in a Hugging Face export; empty without them or a known word."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
        for name in EXPRESSION_NAMES:
            if name in features and features[name].get("_type") == "ClassLabel":
                names = tuple(map(str, features[name]["names"]))
                return names if any(find_class(word) is not None for word in names) else ()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return ()
