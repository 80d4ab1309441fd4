"""Read predictions and truth of any source from CSV or Parquet, and write `predictions.parquet`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from affectnet.errors import DataError
from affectnet.evaluation.prediction_columns import (
    PREDICTION_COLUMNS,
    TRUTH_COLUMNS,
    Columns,
    parse_classes,
    parse_columns,
)
from affectnet.evaluation.predictions import Joined, OutOfRange, Predictions, Truth, within_range
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.run import write_beside

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("expression", pa.int8()),
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        *((name, pa.float32()) for name in PROBABILITY_COLUMNS),
        ("expression_pred", pa.int8()),
        ("valence_pred", pa.float32()),
        ("arousal_pred", pa.float32()),
    ]
)
"""The columns of `predictions.parquet`; null marks what is missing."""


def read_table(path: Path, aliases: Mapping[str, str] | None = None) -> pa.Table:
    """Read a CSV, TSV or Parquet file; ids stay text, so `007` is not `7`.

    Raises:
        DataError: no such file, an unknown kind of file, or one that cannot be read.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    suffix = path.suffix.lower()
    ids = {"id", (aliases or {}).get("id", "id")}
    try:
        if suffix in (".parquet", ".pq"):
            return pa.parquet.read_table(path)
        if suffix in (".csv", ".tsv"):
            return pa.csv.read_csv(
                path,
                parse_options=pa.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ","),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in ids},
                    strings_can_be_null=True,
                ),
            )
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as {suffix[1:].upper()}: {reason}") from error
    raise DataError(f"{path}: expected a file that ends in .csv, .tsv or .parquet")


def read_predictions(
    path: Path,
    columns: Sequence[str] = (),
    classes: Sequence[str] = (),
    out_of_range: OutOfRange = "error",
) -> Predictions:
    """Read predictions of any source.

    Args:
        path: CSV, TSV or Parquet with `id` and any of `expression_pred`, `p_neutral` to
            `p_contempt`, `valence_pred`, `arousal_pred`.
        columns: other names for these, as `expression_pred=label`.
        classes: the order of numeric labels, and the words of the file for the classes.
        out_of_range: how to treat valence or arousal outside [-1, 1].

    Raises:
        ConfigError: `columns` or `classes` are not valid.
        DataError: the file cannot be scored; the message states why.
    """
    aliases = parse_columns(columns)
    table = read_table(path, aliases)
    _need_ids(table, path.name, aliases)
    return predictions_of(table, path.name, aliases, parse_classes(classes), out_of_range)


def read_truth(path: Path, columns: Sequence[str] = (), classes: Sequence[str] = ()) -> Truth:
    """Read truth from a CSV, TSV or Parquet file with `id`, `expression`, `valence`, `arousal`.

    At least one of the last three is needed; every further column can be used for slices. Numbers
    in a column `expression` are in AffectNet's order; `classes` gives the order for a column of
    another name, and translates words.

    Raises:
        ConfigError, DataError: as `read_predictions`.
    """
    aliases = parse_columns(columns)
    table = read_table(path, aliases)
    _need_ids(table, path.name, aliases)
    numbers = "expression" in table.column_names and not _is_text(table.column("expression").type)
    order = () if numbers and "expression" not in aliases else classes
    return truth_of(table, path.name, aliases, parse_classes(order))


def truth_of(
    data: Any,
    source: str = "truth",
    aliases: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
) -> Truth:
    """Make `Truth` from an Arrow table, a data frame or a mapping of arrays; see `read_truth`.

    Without a column `id`, row numbers are the ids.
    """
    columns = Columns(_as_table(data), source, aliases or {}, classes or {})
    columns.need(TRUTH_COLUMNS)
    return Truth(
        ids=columns.ids(),
        expression=columns.labels("expression"),
        valence=columns.numbers("valence"),
        arousal=columns.numbers("arousal"),
        extra=_extra(columns, aliases or {}),
        source=source,
    )


def predictions_of(
    data: Any,
    source: str = "predictions",
    aliases: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
    out_of_range: OutOfRange = "error",
) -> Predictions:
    """Make `Predictions` from an Arrow table, a data frame or a mapping of arrays.

    A mapping may hold `probabilities` (n, 8) instead of eight columns. Without a column `id`, row
    numbers are the ids. See `read_predictions`.
    """
    columns = Columns(_as_table(data), source, aliases or {}, classes or {})
    probabilities, uncovered = columns.probabilities()
    if probabilities is None:
        columns.need(PREDICTION_COLUMNS)
    ids = columns.ids()
    valence, arousal = (
        within_range(columns.numbers(name), ids, name, source, out_of_range)
        for name in ("valence_pred", "arousal_pred")
    )
    return Predictions(
        ids=ids,
        expression=columns.labels("expression_pred"),
        valence=valence,
        arousal=arousal,
        probabilities=probabilities,
        uncovered=uncovered,
        extra=_extra(columns, aliases or {}),
        source=source,
    )


def predictions_table(
    ids: Sequence[str],
    expression: npt.ArrayLike,
    valence: npt.ArrayLike,
    arousal: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    valence_pred: npt.ArrayLike,
    arousal_pred: npt.ArrayLike,
) -> pa.Table:
    """The table of `predictions.parquet` from arrays over n faces.

    Args:
        ids: n unique names.
        expression: true classes, -1 where missing.
        valence, arousal: annotations, NaN where missing.
        probabilities: (n, 8), a column of NaN for a class that the model does not have;
            `expression_pred` is the most probable class.
        valence_pred, arousal_pred: predictions.
    """
    known = np.asarray(probabilities)
    preds = np.nan_to_num(known, nan=-1.0).argmax(axis=1)
    return _table(ids, expression, valence, arousal, known, preds, valence_pred, arousal_pred)


def joined_table(joined: Joined) -> pa.Table:
    """The table of `predictions.parquet` from predictions joined to their truth."""
    truth, preds = joined.truth, joined.preds
    probabilities = preds.probabilities
    if probabilities is None:
        probabilities = np.full((len(truth), N_EXPRESSIONS), np.nan)
    elif preds.uncovered:
        covered = np.array([name not in preds.uncovered for name in EXPRESSIONS])
        probabilities = np.where(covered, probabilities, np.nan)
    return _table(
        truth.ids,
        truth.expression,
        truth.valence,
        truth.arousal,
        probabilities,
        preds.expression,
        preds.valence,
        preds.arousal,
    )


def _table(
    ids: Sequence[str],
    expression: npt.ArrayLike,
    valence: npt.ArrayLike,
    arousal: npt.ArrayLike,
    probabilities: npt.NDArray[Any],
    expression_pred: npt.ArrayLike,
    valence_pred: npt.ArrayLike,
    arousal_pred: npt.ArrayLike,
) -> pa.Table:
    arrays = [
        pa.array(list(ids), pa.string()),
        _classes(expression),
        *(_nullable(column) for column in (valence, arousal)),
        *(_nullable(probabilities[:, c]) for c in range(N_EXPRESSIONS)),
        _classes(expression_pred),
        *(_nullable(column) for column in (valence_pred, arousal_pred)),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_predictions(table: pa.Table, path: Path) -> None:
    """Write `predictions.parquet`; the class order goes into the file's metadata.

    The file is written completely or not at all.
    """
    order = {b"affectnet.classes": ",".join(EXPRESSIONS).encode()}
    with write_beside(path) as new:
        pa.parquet.write_table(table.replace_schema_metadata(order), new)


def _classes(values: npt.ArrayLike) -> pa.Array:
    column = np.asarray(values, dtype=np.int8)
    return pa.array(column, mask=column < 0)


def _nullable(values: npt.ArrayLike) -> pa.Array:
    column = np.asarray(values, dtype=np.float32)
    return pa.array(column, mask=np.isnan(column))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _need_ids(table: pa.Table, source: str, aliases: Mapping[str, str]) -> None:
    Columns(table, source, aliases, {}).need(("id",))


def _extra(columns: Columns, aliases: Mapping[str, str]) -> dict[str, npt.NDArray[Any]]:
    """Every further flat column, for slices."""
    used = {"id", *TRUTH_COLUMNS, *PREDICTION_COLUMNS, *aliases.values()}
    return {
        field.name: columns.table.column(field.name).to_numpy()
        for field in columns.table.schema
        if field.name not in used
        and not pa.types.is_nested(field.type)
        and not pa.types.is_large_binary(field.type)
        and not pa.types.is_binary(field.type)
    }


def _as_table(data: Any) -> pa.Table:
    """An Arrow table from a table, a data frame, or a mapping of arrays of one length."""
    if isinstance(data, pa.Table):
        return data
    if not isinstance(data, Mapping):
        if not hasattr(data, "columns"):
            raise DataError(
                f"cannot read {type(data).__name__}; give an Arrow table, a data frame or a "
                "mapping of column names to arrays"
            )
        return pa.Table.from_pandas(data, preserve_index=False)
    columns = {name: np.asarray(values) for name, values in data.items() if values is not None}
    together = columns.pop("probabilities", None)
    if together is not None:
        if together.ndim != 2 or together.shape[1] != N_EXPRESSIONS:
            raise DataError(
                f"probabilities must be (n, {N_EXPRESSIONS}), not {together.shape}, in the order "
                f"{', '.join(EXPRESSIONS)}"
            )
        columns |= {name: together[:, c] for c, name in enumerate(PROBABILITY_COLUMNS)}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"the columns differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}"
        )
    return pa.table({name: pa.array(values) for name, values in columns.items()})
