"""Read predictions and truth of any source from CSV or Parquet, and write `predictions.parquet`.

Where a file cannot be read, the error has all its faults, and proposes the names it seems to use.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from affectnet.errors import DataError, Faults, check_encoding, suggest_path
from affectnet.evaluation.column_names import Content, proposed_names
from affectnet.evaluation.columns import Columns, is_text, parse_classes, parse_columns
from affectnet.evaluation.metrics import Floats
from affectnet.evaluation.predictions import (
    PREDICTION_COLUMNS,
    TRUTH_COLUMNS,
    Faces,
    OutOfRange,
    Predictions,
    Truth,
    are_percentages,
    within_range,
)
from affectnet.labels import EXPRESSIONS
from affectnet.run import write_beside

_Names = Mapping[str, str]
_Faces = TypeVar("_Faces", bound=Faces)
_NEEDED: Final[dict[Content, tuple[Sequence[str], ...]]] = {
    "truth": (("id",), TRUTH_COLUMNS),
    "predictions": (("id",), PREDICTION_COLUMNS),
    "both": (("id",), PREDICTION_COLUMNS, TRUTH_COLUMNS),
}
_PRIOR: Final = b"affectnet.prior"
_NOTE: Final = b"affectnet.note"
_SEPARATORS: Final = {",": "','", ";": "';'", "\t": "tabs"}
_LONGEST_HEADER: Final = 1_000_000


def read_table(path: Path | str, aliases: Mapping[str, str] | None = None) -> pa.Table:
    """Read a CSV, TSV or Parquet file; ids stay text, so `007` is not `7`.

    The columns of a CSV or TSV file are separated by what its header has most of: commas,
    semicolons or tabs.

    Raises:
        DataError: no such file, an unknown kind of file, or one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}{suggest_path(path)}")
    suffix = path.suffix.lower()
    ids = {"id", (aliases or {}).get("id", "id")}
    try:
        if suffix in (".parquet", ".pq"):
            return pa.parquet.read_table(path)
        if suffix in (".csv", ".tsv"):
            with path.open("rb") as file:
                check_encoding(file.read(200), path)
            return _read_csv(path, "\t" if suffix == ".tsv" else ",", ids)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as {suffix[1:].upper()}: {reason}") from error
    raise DataError(f"{path}: expected a file that ends in .csv, .tsv or .parquet")


def _read_csv(path: Path, usual: str, ids: Collection[str]) -> pa.Table:
    """Read text with any separator; a note in the metadata says what is not `usual`.

    Columns of numbers with decimal commas are read as numbers, except `ids`.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        header = re.sub(r'"[^"]*"', "", file.readline(_LONGEST_HEADER))
    separator = max((usual, ",", ";", "\t"), key=header.count)
    table = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=separator),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in ids}, strings_can_be_null=True
        ),
    )
    notes = []
    if separator != usual:
        notes.append(f"its columns are separated by {_SEPARATORS[separator]}")
    for i, name in enumerate(table.column_names):
        if separator == "," or name in ids or not is_text(table.column(i).type):
            continue
        try:
            numbers = pc.replace_substring(table.column(i), ",", ".").cast(pa.float64())
        except pa.ArrowInvalid:
            continue  # words
        table = table.set_column(i, name, numbers)
        notes.append("its decimal commas are read as points")
    if not notes:
        return table
    note = f"{path.name}: {' and '.join(dict.fromkeys(notes))}"
    return table.replace_schema_metadata({_NOTE: note.encode()})


def read_predictions(
    path: Path | str,
    columns: Sequence[str] = (),
    classes: Sequence[str] = (),
    out_of_range: OutOfRange = "error",
    *,
    with_truth: bool = False,
) -> Predictions:
    """Read predictions of any source.

    Args:
        path: CSV, TSV or Parquet with `id` and any of `expression_pred`, `p_neutral` to
            `p_contempt`, `valence_pred`, `arousal_pred`.
        columns: other names for these, as `expression_pred=label`.
        classes: the order of numeric labels, and the words of the file for the classes.
        out_of_range: how to treat valence or arousal outside [-1, 1].
        with_truth: the file has to hold the truth as well, see `read_truth`.

    Raises:
        ConfigError: `columns` or `classes` are not valid.
        DataError: the file cannot be scored; the message states why.
    """
    make = partial(predictions_of, out_of_range=out_of_range)
    return _read(Path(path), columns, classes, make, "both" if with_truth else "predictions")


def read_truth(
    path: Path | str,
    columns: Sequence[str] = (),
    classes: Sequence[str] = (),
    *,
    with_predictions: bool = False,
) -> Truth:
    """Read truth from a CSV, TSV or Parquet file with `id`, `expression`, `valence`, `arousal`.

    At least one of the last three is needed; every further column can be used for slices. Numbers
    in a column `expression` are in AffectNet's order; `classes` gives the order for a column of
    another name, and translates words.

    Args:
        path, columns, classes: as `read_predictions`.
        with_predictions: the file also holds the predictions, and `classes` is the order of both.

    Raises:
        ConfigError, DataError: as `read_predictions`.
    """

    def make(table: pa.Table, source: str, aliases: _Names, order: _Names) -> Truth:
        if (
            not with_predictions
            and "expression" not in aliases
            and "expression" in table.column_names
        ):
            order = order if is_text(table.column("expression").type) else {}
        return truth_of(table, source, aliases, order)

    return _read(Path(path), columns, classes, make, "both" if with_predictions else "truth")


def _read(
    path: Path,
    columns: Sequence[str],
    classes: Sequence[str],
    make: Callable[[pa.Table, str, _Names, _Names], _Faces],
    content: Content,
) -> _Faces:
    """`make` the faces of a file with ids; where that fails, the error proposes other names."""
    faults = Faults()
    with faults.caught():
        aliases = parse_columns(columns)
    with faults.caught():
        order = parse_classes(classes)
    faults.raise_all()

    def made(table: pa.Table, aliases: _Names, order: _Names) -> _Faces:
        Columns(table, path.name, aliases).need(*_NEEDED[content])
        return make(table, path.name, aliases, order)

    table = read_table(path, aliases)
    Columns(table, path.name, aliases)  # no names are proposed where one is there twice
    try:
        return made(table, aliases, order)
    except DataError as error:
        proposed = proposed_names(table, aliases, order, content)
        if proposed is None:
            raise
        reason, left = str(error), ""
        try:
            made(read_table(path, proposed.aliases), proposed.aliases, proposed.classes)
        except DataError as other:
            left = f", and then correct this: {other}"
        raise DataError(f"{reason}; probably {proposed}{left}") from None


def truth_of(
    data: Any,
    source: str = "truth",
    aliases: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
) -> Truth:
    """Make `Truth` from an Arrow table, a data frame or a mapping of arrays; see `read_truth`.

    Without a column `id`, row numbers are the ids.
    """
    columns = Columns(data, source, aliases, classes)
    faults, rows = Faults(), columns.row_numbers()
    blank = np.full(len(rows), np.nan)
    note = _metadata(columns.table, _NOTE)
    faults.attempt(columns.need, TRUTH_COLUMNS)
    ids = faults.attempt(columns.ids, default=rows)
    labels = faults.attempt(columns.labels, "expression", default=np.full(len(rows), -1))
    valence = faults.attempt(columns.numbers, "valence", default=blank)
    arousal = faults.attempt(columns.numbers, "arousal", default=blank)
    with faults.caught():
        truth = Truth(
            ids,
            labels,
            valence,
            arousal,
            extra=columns.extra(),
            source=source,
            notes=(note,) if note else (),
        )
    faults.raise_all(DataError)
    return truth


def predictions_of(
    data: Any,
    source: str = "predictions",
    aliases: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
    out_of_range: OutOfRange = "error",
) -> Predictions:
    """Make `Predictions` from an Arrow table, a data frame or a mapping of arrays.

    A mapping may hold `probabilities` (n, 8) instead of eight columns. Without a column `id`, row
    numbers are the ids. Probabilities in percent are divided by 100. See `read_predictions`.
    """
    columns = Columns(data, source, aliases, classes)
    faults, rows = Faults(), columns.row_numbers()
    blank = np.full(len(rows), np.nan)
    notes = [note] if (note := _metadata(columns.table, _NOTE)) else []
    probabilities, uncovered = faults.attempt(columns.probabilities, default=(None, None))
    if probabilities is not None and are_percentages(probabilities):
        probabilities = probabilities / 100
        notes.append(f"{source}: its probabilities are in percent and are divided by 100")
    if probabilities is None and uncovered is not None:
        faults.attempt(columns.need, PREDICTION_COLUMNS)
    ids = faults.attempt(columns.ids, default=rows)
    labels = faults.attempt(columns.labels, "expression_pred", default=np.full(len(rows), -1))

    def affect(name: str) -> Floats:
        return within_range(columns.numbers(name), ids, name, source, out_of_range)

    valence = faults.attempt(affect, "valence_pred", default=blank)
    arousal = faults.attempt(affect, "arousal_pred", default=blank)
    with faults.caught():
        predictions = Predictions(
            ids=ids,
            expression=labels,
            valence=valence,
            arousal=arousal,
            probabilities=probabilities,
            uncovered=uncovered or (),
            extra=columns.extra(),
            prior=_metadata(columns.table, _PRIOR),
            source=source,
            notes=tuple(notes),
        )
    faults.raise_all(DataError)
    return predictions


def _metadata(table: pa.Table, key: bytes) -> str | None:
    return (table.schema.metadata or {}).get(key, b"").decode() or None


def with_notes(table: pa.Table, prior: str | None = None) -> pa.Table:
    """Add the class order and `prior` to the metadata of a table of predictions.

    `prior` names the class fractions that the probabilities were corrected for; None keeps the
    table's note.
    """
    notes = {b"affectnet.classes": ",".join(EXPRESSIONS).encode()}
    if prior is not None:
        notes[_PRIOR] = prior.encode()
    return table.replace_schema_metadata((table.schema.metadata or {}) | notes)


def write_predictions(table: pa.Table, path: Path | str, prior: str | None = None) -> None:
    """Write `predictions.parquet` completely or not at all; see `with_notes` for `prior`."""
    with write_beside(path) as new:
        pa.parquet.write_table(with_notes(table, prior), new)
