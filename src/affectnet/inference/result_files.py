"""Result files, written row by row: CSV, JSON, JSON lines or Parquet."""

import csv
import json
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from affectnet.errors import ConfigError
from affectnet.inference.results import COLUMNS, PictureResult

_FLUSH_SECONDS = 1.0
_ROW_GROUP = 5000
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
SCHEMA: Final = pa.schema([(name, _TYPES[kind]) for name, kind in COLUMNS.items()])


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, result: PictureResult) -> None:
        self._file.write(json.dumps(result.to_dict()) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Csv(_JsonLines):
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="", errors="backslashreplace")
        self._rows = csv.writer(self._file)
        self._rows.writerow(COLUMNS)

    def write(self, result: PictureResult) -> None:
        for row in result.to_rows():
            self._rows.writerow([_short(row.get(name)) for name in COLUMNS])


class _Json(_JsonLines):
    _before = "[\n"

    def write(self, result: PictureResult) -> None:
        self._file.write(self._before + json.dumps(result.to_dict()))
        self._before = ",\n"

    def close(self) -> None:
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def write(self, result: PictureResult) -> None:
        self._rows += result.to_rows()
        if len(self._rows) >= _ROW_GROUP:
            self._write_group()

    def flush(self) -> None:
        """Do nothing: one row group per second would make very small row groups."""

    def close(self) -> None:
        self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        for row in self._rows:
            for name in ("source", "reason"):  # a path may hold bytes that are not text
                if row.get(name) is not None:
                    row[name] = row[name].encode("utf-8", "backslashreplace").decode()
        columns = {name: [row.get(name) for row in self._rows] for name in COLUMNS}
        self._file.write_table(pa.table(columns, schema=SCHEMA))
        self._rows = []


def _short(value: Any) -> Any:
    """Format a float with seven digits: float32 has no more; a full float64 is twice as long."""
    return f"{value:.7g}" if isinstance(value, float) else value


FORMATS: Final[dict[str, type[_JsonLines] | type[_Parquet]]] = {
    ".csv": _Csv,
    ".json": _Json,
    ".jsonl": _JsonLines,
    ".parquet": _Parquet,
}


class ResultWriter:
    """Writes results into a file that is valid after an interruption too; a context manager.

    CSV and JSON lines are flushed every second; JSON and Parquet are closed properly on leaving,
    also after an error or Ctrl-C.

    Args:
        path: ends in `.csv`, `.json`, `.jsonl` or `.parquet`; an existing file is replaced.

    Raises `ConfigError` for another extension.
    """

    def __init__(self, path: Path) -> None:
        check_format(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = FORMATS[path.suffix.lower()](path)
        self._flushed = time.monotonic()

    def write(self, result: PictureResult) -> None:
        """Write the rows of one image."""
        self._file.write(result)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def check_format(path: Path) -> None:
    """Raise `ConfigError` where the path's extension is not one of `FORMATS`."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {path}: give a name that ends in {', '.join(FORMATS)}")
