"""CSV and Parquet tables of faces, exports of Hugging Face datasets among them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from affectnet.data.readers.affectnet import Release
from affectnet.data.readers.annotations import Bad, affect, as_text, open_csv, points
from affectnet.data.readers.archive import Progress
from affectnet.data.readers.classes import Classes, find_class
from affectnet.data.readers.collect import Record
from affectnet.data.readers.folder import SPLIT_WORDS, split_of
from affectnet.data.readers.part import MISSING, NO_EXPRESSION, ORPHAN_ANNOTATION, UNREADABLE
from affectnet.data.readers.parts import Options, Parts
from affectnet.data.readers.search import below, shown
from affectnet.errors import DataError

EXPRESSION_NAMES: Final = ("expression", "emotion", "label")
IMAGE_NAMES: Final = ("image", "path")
SUFFIXES: Final = (".parquet", ".csv")
_OTHERS: Final = ("valence", "arousal", "split", "id", "landmarks")
_ROWS_AT_ONCE = 32
_SHOWN = 200


@dataclass(frozen=True)
class _Table:
    """One file: where its columns are, and what it says of the classes."""

    path: Path
    image: str
    expression: str | None
    others: frozenset[str]
    class_names: tuple[str, ...]
    split: str | None


def read_table(paths: Sequence[Path], options: Options) -> Release:
    """Read tables with a row a face.

    Columns: `image` (encoded bytes, a struct of `bytes` and `path` as Hugging Face writes it, or a
    path) or `path`; `expression` (or `emotion`, or `label`), `valence`, `arousal`, `split`, `id`
    and `landmarks` where there are any. Paths start at the table's folder. Words for expressions
    are understood; numbers need the names that a Hugging Face export carries, or
    `options.class_order`. The split is told by the column, else by the files' names.

    Raises:
        DataError: a file cannot be read or lacks columns, or what it means is not told.
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
    splits: set[str] = set()
    with Parts(options) as parts:
        for table in tables:
            reading = _Reading(table, classes, parts)
            reading.read(options.progress(str(table.path)), len(tables) > 1)
            splits |= reading.splits
        return parts.release(
            "table", {split: split for split in splits}, class_order=classes.given or None
        )


def find_tables(paths: Sequence[Path]) -> list[Path]:
    """Return the tables at or below some paths, those that have the columns."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            for file in below(path, lambda name: name.lower().endswith(SUFFIXES)):
                try:
                    _open(file)
                except DataError:
                    continue
                found.append(file)
        else:
            found.append(path)
    return found


def is_table(path: Path) -> bool:
    """Whether a file is a table with the columns needed."""
    try:
        _open(path)
    except DataError:
        return False
    return True


def _open(path: Path) -> _Table:
    """Look at a table's columns."""
    names: tuple[str, ...] = ()
    if _is_parquet(path):
        with _parquet(path) as file:
            columns = list(file.schema_arrow.names)
            names = _class_names(file.schema_arrow)
    else:
        with open_csv(path, lambda *_: None) as rows:
            columns = [cell.strip() for cell in next(rows, (0, []))[1]]
    for name in (*IMAGE_NAMES, *EXPRESSION_NAMES, *_OTHERS):
        if columns.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}'; take one away")
    image = [name for name in IMAGE_NAMES if name in columns]
    labels = [name for name in EXPRESSION_NAMES if name in columns]
    if not image or not (labels or {"valence", "arousal"} & set(columns)):
        raise DataError(
            f"{path} has the columns {', '.join(columns)[:_SHOWN]}; needed are image or path, and "
            f"{EXPRESSION_NAMES[0]}, valence or arousal"
        )
    if len(labels) > 1:
        raise DataError(
            f"{path} has the columns {' and '.join(labels)}; keep the one with the expression"
        )
    return _Table(
        path,
        image[0],
        labels[0] if labels else None,
        frozenset(name for name in _OTHERS if name in columns)
        | ({"path"} if image[0] != "path" and "path" in columns else set()),
        names,
        split_of(path.stem),
    )


def _check_splits(tables: Sequence[_Table]) -> None:
    """Make sure that each file's split is told, where it matters."""
    untold = [table for table in tables if "split" not in table.others and table.split is None]
    if len(tables) > 1 and untold:
        raise DataError(
            f"nothing tells which split {shown(untold[0].path)} is for; add a column split, or "
            "name the files train, val and test"
        )


class _Reading:
    """Reads one table into the parts."""

    def __init__(self, table: _Table, classes: Classes, parts: Parts) -> None:
        self.splits: set[str] = set()
        self._table = table
        self._classes = classes
        self._parts = parts
        self._folder = table.path.absolute().parent
        self._several = False

    def read(self, progress: Progress, several: bool) -> None:
        """Take in all rows; `several` files need ids that tell them apart."""
        self._several = several
        table = self._table
        rows = _parquet_rows if _is_parquet(table.path) else _csv_rows
        wanted = [table.image, *sorted(table.others)]
        wanted += [table.expression] if table.expression else []
        for place, row in rows(table.path, wanted, progress):
            self._take(place, row)

    def _take(self, place: int, row: Mapping[str, Any] | str) -> None:
        split, name = self._table.split or "train", f"row {place}"
        try:
            if isinstance(row, str):
                raise Bad(UNREADABLE, row)
            if "split" in self._table.others:
                word = as_text(row["split"])
                if word is None or word.casefold() not in SPLIT_WORDS:
                    raise Bad(MISSING, f"split is {str(row['split'])[:40]!r}, not train, val, test")
                split = SPLIT_WORDS[word.casefold()]
            name = self._name(place, row)
            record = self._record(name, row)
        except Bad as bad:
            self._parts[split].drop(name, *bad.fault)
        else:
            self._parts[split].add(record)
        self.splits.add(split)

    def _name(self, place: int, row: Mapping[str, Any]) -> str:
        if "id" in self._table.others:
            name = as_text(row["id"])
            if name is None:
                raise Bad(MISSING, "no id")
            return name
        path = row["path"] if "path" in row else row[self._table.image]
        if isinstance(path, str) and path.strip():
            return path.strip()
        # Without ids the place must do; it is the same whenever the table is.
        return f"{self._table.path.stem}:{place}" if self._several else str(place)

    def _record(self, name: str, row: Mapping[str, Any]) -> Record:
        valence, arousal = (affect(row.get(key), key) for key in ("valence", "arousal"))
        label = self._label(row)
        if label is None and valence is None and arousal is None:
            raise Bad(MISSING, "no expression, valence or arousal")
        return Record(
            name, self._image(row), label, valence, arousal, landmarks=points(row.get("landmarks"))
        )

    def _image(self, row: Mapping[str, Any]) -> Path | bytes:
        value = row[self._table.image]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if not value and "path" in row:
            value = row["path"]
        if isinstance(value, bytes) and value:
            return value
        if isinstance(value, str) and value.strip():
            return self._folder / value.strip()
        raise Bad(ORPHAN_ANNOTATION, "no image")

    def _label(self, row: Mapping[str, Any]) -> int | None:
        name = self._table.expression
        value = row[name] if name else None
        if isinstance(value, float) and value.is_integer():  # a column with gaps
            value = int(value)
        text = as_text(value)
        if text is None:
            if value is not None and value != "" and value == value:
                raise Bad(UNREADABLE, f"{name} is a {type(value).__name__}")
            return None
        if text.endswith(".0") and text[:-2].isdigit():
            text = text[:-2]
        names = self._table.class_names
        if names and text.isdigit() and not self._classes.given:
            if int(text[:6]) >= len(names):
                raise Bad(UNREADABLE, f"{name} is {text}, and there are {len(names)} names")
            text = names[int(text)]
        try:
            label = self._classes.find(text)
        except KeyError:
            raise self._classes.refuse(f"{self._table.path}, column {name},", [text]) from None
        if label is None:
            raise Bad(NO_EXPRESSION, f"{name} is {text}, left out by --class-order")
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
                yield place, f"line {line} has {len(row)} values under {len(header)} columns"


def _parquet_rows(
    path: Path, wanted: Sequence[str], progress: Progress
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    place = 0
    with _parquet(path) as file:
        whole = file.metadata.num_rows
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(wanted), use_threads=False):
            for row in batch.to_pylist():
                yield place, row
                place += 1
            progress(min(place, whole), whole)


class _parquet:
    """Open a Parquet file; whatever pyarrow finds wrong with it becomes a `DataError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._file = pq.ParquetFile(self._path, pre_buffer=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, OSError | ValueError | pa.ArrowException):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> DataError:
        reason = " ".join(str(error).split())[:_SHOWN]
        return DataError(f"{self._path} cannot be read as Parquet: {reason}")


def _is_parquet(path: Path) -> bool:
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is no regular file")
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    """Return the names of the classes that a Hugging Face export carries, where all are known."""
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
