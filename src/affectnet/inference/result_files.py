"""Result files, written while predicting: CSV, JSON, JSON lines or Parquet; resumable.

CSV and JSON lines grow in place, by whole rows. JSON and Parquet have an end, so their results are
first collected as JSON lines in `.NAME.part`, as are all results while an older file is replaced.
"""

import base64
import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from affectnet.errors import ConfigError, DataError, RunError
from affectnet.inference.results import PictureResult, columns
from affectnet.run import changed_settings, write_beside

Columns = Mapping[str, type]
FILM_COLUMNS: Final = columns(film=True)

_FLUSH_SECONDS = 1.0
_ROW_GROUP = 5000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")
"""Of texts that spreadsheets may run as formulas; a text with the escape is escaped too."""


class _JsonLines:
    """JSON lines, and the form in which the results of JSON are collected."""

    in_place = True
    head = b""

    def __init__(self, columns: Columns, escape_formulas: bool = False) -> None:
        """The arguments are for tables; `escape_formulas` for CSV alone."""
        self.columns = columns

    def encode(self, result: PictureResult) -> bytes:
        """Return the lines of one image."""
        return _line(result.to_dict())

    def records(self, file: BinaryIO) -> Iterator[tuple[int, str]]:
        """Yield the end of each record in bytes, and its source; the last line may be torn."""
        for line in file:
            if line.endswith(b"\n"):
                yield file.tell(), plain(json.loads(line)["source"])

    def convert(self, part: Path, new: Path) -> None:
        """Make the complete file `new` of the collected results; `part` may be moved."""
        part.rename(new)

    def collect(self, out: Path) -> Iterator[bytes]:
        """Yield the results in a complete file in the form in which they are collected."""
        with out.open("rb") as file:
            yield from file


class _Csv(_JsonLines):
    def __init__(self, columns: Columns, escape_formulas: bool = False) -> None:
        super().__init__(columns)
        self.head = csv_row(columns)
        self._escape = escape_formulas

    def encode(self, result: PictureResult) -> bytes:
        rows = ([row.get(name) for name in self.columns] for row in result.to_rows())
        return b"".join(csv_row(row, self._escape) for row in rows)

    def records(self, file: BinaryIO) -> Iterator[tuple[int, str]]:
        raw = b""

        def lines() -> Iterator[str]:
            nonlocal raw
            for raw in file:
                yield raw.decode("utf-8", "replace")

        for row in islice(csv.reader(lines()), 1, None):
            if len(row) != len(self.columns) or not raw.endswith(b"\r\n"):
                if file.read(1):
                    raise ValueError
                return
            escaped = self._escape and row[0][:1] == "'"
            yield file.tell(), row[0][1:] if escaped else row[0]


class _Json(_JsonLines):
    in_place = False

    def convert(self, part: Path, new: Path) -> None:
        with part.open("rb") as lines, new.open("wb") as file:
            before = b"[\n"
            for line in lines:
                file.write(before + line.rstrip(b"\n"))
                before = b",\n"
            file.write(b"[]\n" if before == b"[\n" else b"\n]\n")

    def collect(self, out: Path) -> Iterator[bytes]:
        return map(_line, json.loads(out.read_bytes()))


class _Parquet(_JsonLines):
    in_place = False

    def encode(self, result: PictureResult) -> bytes:
        return b"".join(_line(_row(row)) for row in result.to_rows())

    def convert(self, part: Path, new: Path) -> None:
        import pyarrow as pa  # only for this format: it is slow to import
        import pyarrow.parquet as pq

        types: dict[type, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        types |= {bool: pa.bool_(), list: pa.list_(pa.float16())}
        schema = pa.schema([(name, types[kind]) for name, kind in self.columns.items()])
        with part.open("rb") as lines, pq.ParquetWriter(new, schema) as file:
            while rows := [json.loads(line) for line in islice(lines, _ROW_GROUP)]:
                columns = {name: [row.get(name) for row in rows] for name in self.columns}
                if "embedding" in columns:
                    columns["embedding"] = [_unpacked(text) for text in columns["embedding"]]
                file.write_table(pa.table(columns, schema=schema))

    def collect(self, out: Path) -> Iterator[bytes]:
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(out).iter_batches():
            yield from (_line(_row(row)) for row in batch.to_pylist())


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its empty columns, its texts as Parquet can store them, ready for JSON."""
    row = {name: value for name, value in row.items() if value is not None}
    row |= {name: plain(row[name]) for name in ("source", "reason") if name in row}
    if "embedding" in row:
        packed = np.asarray(row["embedding"], np.float16).tobytes()
        row["embedding"] = base64.b64encode(packed).decode()
    return row


def _unpacked(text: str | None) -> Any:
    return None if text is None else np.frombuffer(base64.b64decode(text), np.float16)


def plain(text: str) -> str:
    """Return a path as result files name it: it may hold bytes that are not text."""
    return text.encode("utf-8", "backslashreplace").decode()


def csv_row(values: Iterable[Any], escape_formulas: bool = False) -> bytes:
    """A line of CSV; with an apostrophe before texts that spreadsheets may run, where asked for."""

    def cell(value: Any) -> Any:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):  # float32 has no more than seven digits
            return f"{value:.7g}"
        escaped = escape_formulas and isinstance(value, str) and value[:1] in _FORMULA_STARTS
        return f"'{value}" if value and escaped else value

    text = io.StringIO()
    csv.writer(text).writerow(map(cell, values))
    return text.getvalue().encode("utf-8", "backslashreplace")


FORMATS: Final[dict[str, type[_JsonLines]]] = {
    ".csv": _Csv,
    ".json": _Json,
    ".jsonl": _JsonLines,
    ".parquet": _Parquet,
}


class ResultWriter:
    """Writes results; a context manager.

    CSV and JSON lines consist of whole rows at every moment. When the context ends by an exception,
    Ctrl-C included, JSON and Parquet are completed with the results so far. An older file is only
    replaced when `complete` has been called; until then the results wait in `.NAME.part`.

    Args:
        path: ends in `.csv`, `.json`, `.jsonl` or `.parquet`.
        resume: keep the results of a writer that was stopped or killed, except those of its last
            input; otherwise an existing file is replaced.
        on_saved: called with each result when it is in a file.
        escape_formulas: in CSV, put an apostrophe before texts that could be formulas.
        columns: of a table, as `results.columns` gives them; those of films by default.
        settings: on which the results depend, as plain values. They are kept in `.NAME.settings`
            until the results are complete, and compared when they are resumed.

    Attributes:
        finished: inputs that were kept, as `plain` text.
        where: sentence on the file after the end: whether it is complete.

    Raises `ConfigError` for another extension and for settings that differ from those of the
    results to resume, `DataError` if `path` cannot be resumed.
    """

    def __init__(
        self,
        path: Path | str,
        resume: bool = False,
        on_saved: Callable[[PictureResult], object] = lambda _: None,
        escape_formulas: bool = False,
        columns: Columns = FILM_COLUMNS,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        path = Path(path)
        check_format(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._on_saved = path, on_saved
        self._format = FORMATS[path.suffix.lower()](columns, escape_formulas)
        self._part = path.with_name(f".{path.name}.part")
        self._settings = path.with_name(f".{path.name}.settings")
        self.finished: set[str] = set()
        self._replaces = path.exists()
        if not resume:
            self._part.unlink(missing_ok=True)
            self._settings.unlink(missing_ok=True)
        elif (collected := self._part.exists()) or path.exists():
            try:
                self._check_same(settings or {})
                self._resume()
            except (ValueError, LookupError, TypeError):
                if not collected:
                    self._part.unlink(missing_ok=True)
                raise DataError(
                    f"{path} has not been written by `affectnet predict` with these inputs and "
                    "settings, so it cannot be resumed; choose another --out, or replace it with "
                    "--overwrite"
                ) from None
        in_place = self._format.in_place and not self._part.exists()
        in_place = in_place and (resume or not path.exists())
        self._at = path if in_place else self._part
        self._file = self._at.open("ab" if resume else "xb", buffering=0)
        self._size = self._at.stat().st_size
        self._waiting: list[PictureResult] = []
        self._complete = False
        self._flushed = time.monotonic()
        self.where = str(path)
        if settings is not None:
            with write_beside(self._settings) as new:
                new.write_text(json.dumps(dict(settings)), encoding="utf-8")
        if not self._size:
            self._write(self._format.head)

    def write(self, result: PictureResult) -> None:
        """Write the rows of one image, at the latest with the next one after a second."""
        self._waiting.append(result)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        self._write(b"".join(map(self._format.encode, waiting)))
        for result in waiting:
            self._on_saved(result)
        self._flushed = time.monotonic()

    def complete(self) -> None:
        """All inputs are finished: the results may replace an older file."""
        self.flush()
        self._complete = True

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.where = f"{self.path} (incomplete; --resume continues)"
        try:
            self.flush()
        finally:
            self._file.close()
            if self._at == self._part:
                self._finish()
        if self._complete:
            self._settings.unlink(missing_ok=True)
            self.where = str(self.path)

    def _finish(self) -> None:
        if self.path.exists() and not self._complete:
            self.where = f"{self.path} is unchanged (--resume continues)"
            return
        try:
            with write_beside(self.path, self._replaces) as new:
                self._format.convert(self._part, new)
        except (OSError, RunError):
            self.where = f"{self._part} ({self.path} could not be written; --resume continues)"
            raise
        self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        """Append whole rows, or nothing where the disk is full."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(data)

    def _check_same(self, now: Mapping[str, Any]) -> None:
        if not self._settings.exists():
            return
        before = dict(json.loads(self._settings.read_bytes()))
        known = {name: value for name, value in now.items() if name in before}
        if changed := changed_settings(object, before, known, ()):
            raise ConfigError(
                f"--resume continues {self.path} with the settings with which it was begun, but "
                f"these differ: {changed}; give the same settings, or choose another --out"
            )

    def _resume(self) -> None:
        """Drop the results of the last input, which may be incomplete."""
        if not self._part.exists() and not self._format.in_place:
            with write_beside(self._part) as new, new.open("wb") as file:
                file.writelines(self._format.collect(self.path))
        head = self._format.head
        with (self._part if self._part.exists() else self.path).open("r+b") as file:
            start = file.read(len(head))
            if start != head:
                if not head.startswith(start):
                    raise ValueError
                file.truncate(0)  # killed before the first line was complete
                return
            kept, end, last = len(head), len(head), None
            file.seek(0)
            for after, source in self._format.records(file):
                if source != last:
                    kept = end
                    if last is not None:
                        self.finished.add(last)
                    last = source
                end = after
            file.truncate(kept)


def check_format(path: Path) -> None:
    """Raise `ConfigError` where the path's extension is not one of `FORMATS`."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {path}: give a name that ends in {', '.join(FORMATS)}")
