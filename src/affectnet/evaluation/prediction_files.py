"""Read predictions and truth of any source from CSV or Parquet, and write `predictions.parquet`.

Nothing is guessed. A column has our name, or an alias that the user gives. A class is given by its
name, by AffectNet's index in a column of our name, or by the order that the user gives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from affectnet.errors import ConfigError, DataError, check_encoding, suggest
from affectnet.evaluation.metrics import Floats, Ints
from affectnet.evaluation.predictions import (
    PREDICTION_COLUMNS,
    SCHEMA,
    TRUTH_COLUMNS,
    OutOfRange,
    Predictions,
    Truth,
    within_range,
)
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.run import write_beside


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Read aliases such as `expression_pred=label` into {our name: the file's name}.

    `p=PREFIX` stands for all probability columns: PREFIX followed by each class.

    Raises:
        ConfigError: no `=`, or an unknown name on its left.
    """
    aliases = {}
    for alias in _split(given):
        ours, equals, theirs = alias.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"--columns {alias!r}: write OURS=THEIRS, for example id=image_name")
        if ours not in (*SCHEMA.names, "p"):
            raise ConfigError(
                f"--columns {alias!r}: {ours!r} is not one of our columns"
                f"{suggest(ours, SCHEMA.names)}: {', '.join(SCHEMA.names)}, and p=PREFIX for all "
                "probabilities"
            )
        aliases[ours] = theirs
    return aliases


def parse_classes(given: Sequence[str]) -> dict[str, str]:
    """Read a class order such as `neutral,happiness=happy` into {our name: the file's name}.

    Raises:
        ConfigError: a name that is not an expression, or a repeated one.
    """
    order: dict[str, str] = {}
    for word in _split(given):
        ours, _, theirs = word.partition("=")
        if ours not in EXPRESSIONS:
            raise ConfigError(
                f"--classes: {ours!r} is not an expression{suggest(ours, EXPRESSIONS)}; they are "
                f"{', '.join(EXPRESSIONS)}; where the file has another word, give happiness=happy"
            )
        if ours in order:
            raise ConfigError(f"--classes names {ours!r} twice")
        order[ours] = theirs or ours
    return order


def _split(given: Sequence[str]) -> list[str]:
    return [word for text in given for part in text.split(",") if (word := part.strip())]


class Columns:
    """One table, read by our names.

    Args:
        data: an Arrow table, a data frame, or a mapping of arrays.
        source: name of the table in messages.
        aliases: {our name: the table's}, from `parse_columns`.
        classes: {our class: the table's word}, in the table's order, from `parse_classes`.
    """

    def __init__(
        self,
        data: Any,
        source: str,
        aliases: Mapping[str, str] | None,
        classes: Mapping[str, str] | None = None,
    ) -> None:
        self.table, self.source = _as_table(data), source
        self._aliases, self._classes = aliases or {}, classes or {}

    def name(self, ours: str) -> str | None:
        """The table's name of our column, or None where it has none."""
        both = (self._aliases.get(ours), ours)
        return next((name for name in both if name in self.table.column_names), None)

    def need(self, any_of: Sequence[str]) -> None:
        """Raise `DataError` unless the table has one of our columns `any_of`."""
        if all(self.name(ours) is None for ours in any_of):
            one_of = any_of[0] if len(any_of) == 1 else f"any of {', '.join(any_of)}"
            raise DataError(
                f"{self.source} has no column {one_of}; it has {self._has()}; give its name "
                f"with --columns {any_of[-1]}=NAME"
            )

    def _has(self) -> str:
        return ", ".join(self.table.column_names) or "no columns"

    def ids(self) -> list[str]:
        """The ids as text; row numbers where there are none.

        Raises:
            DataError: no rows at all, or rows without an id.
        """
        if self.table.num_rows == 0:
            raise DataError(f"{self.source} has no rows; it needs one row per face")
        name = self.name("id")
        if name is None:
            return [str(row) for row in range(self.table.num_rows)]
        column = self.table.column(name)
        if column.null_count:
            raise DataError(
                f"{self.source}: {column.null_count:,} rows have an empty {name!r}; "
                "each face needs an id"
            )
        ids: list[str] = column.cast(pa.string()).to_pylist()
        return ids

    def numbers(self, ours: str) -> Floats:
        """One of our columns as float64, NaN where null or where there is no such column."""
        name = self.name(ours)
        return np.full(self.table.num_rows, np.nan) if name is None else self._floats(name)

    def _floats(self, name: str) -> Floats:
        try:
            column = self.table.column(name).cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.source}: column {name!r} must hold numbers: {reason}") from None
        return np.array(column.to_numpy(), dtype=np.float64)

    def labels(self, ours: str) -> Ints:
        """A column of class names or indices as AffectNet's indices, -1 where null."""
        name = self.name(ours)
        if name is None:
            return np.full(self.table.num_rows, -1, dtype=np.int64)
        column = self.table.column(name)
        if _is_text(column.type):
            return self._words(name, column.to_pylist())
        values = self._floats(name)
        missing = np.isnan(values)
        if name != ours and not self._classes and not missing.all():
            raise DataError(
                f"{self.source}: column {name!r} holds numbers; give their classes, in order, "
                f"with --classes {','.join(EXPRESSIONS[:2])},..."
            )
        classes = tuple(self._classes or EXPRESSIONS)
        with np.errstate(invalid="ignore"):
            wrong = ~missing & ~((values >= 0) & (values < len(classes)) & (values % 1 == 0))
        if wrong.any():
            raise DataError(
                f"{self.source}: label {values[wrong][0]:g} in column {name!r} "
                f"({wrong.sum():,} rows) is not one of the classes 0 to {len(classes) - 1} "
                f"({', '.join(classes)}); leave such faces out"
            )
        order = np.array([EXPRESSIONS.index(c) for c in classes])
        return np.where(missing, -1, order[np.where(missing, 0, values).astype(np.int64)])

    def _words(self, name: str, words: list[str | None]) -> Ints:
        # The words of the file, and ours where they do not conflict with them.
        index = {word: c for c, word in enumerate(EXPRESSIONS)}
        index |= {theirs: EXPRESSIONS.index(ours) for ours, theirs in self._classes.items()}
        for word in sorted({word for word in words if word is not None} - index.keys()):
            raise DataError(
                f"{self.source}: label {word!r} in column {name!r} is not an expression"
                f"{suggest(word, index)}; allowed are {', '.join(index)}; where the file has "
                "other words, give --classes neutral,happiness=happy,..."
            )
        return np.array([-1 if word is None else index[word] for word in words], dtype=np.int64)

    def probabilities(self) -> tuple[Floats | None, tuple[str, ...]]:
        """The class probabilities (n, 8), or None, and the classes without a column.

        Raises:
            DataError: a prefix that matches no column, or a `p_` column that names no expression.
        """
        found = self._probability_columns()
        if not found:
            return None, ()
        values = np.zeros((self.table.num_rows, N_EXPRESSIONS))
        for c, name in found.items():
            values[:, c] = self._floats(name)
        # A face without any probability is missing, also for the classes that have no column.
        values[np.isnan(values[:, list(found)]).all(axis=1)] = np.nan
        return values, tuple(n for c, n in enumerate(EXPRESSIONS) if c not in found)

    def _probability_columns(self) -> dict[int, str]:
        """The table's column of each class index that has one."""
        prefix = self._aliases.get("p", "p_")
        # A column without any value counts as missing.
        filled = {
            name
            for name, column in zip(self.table.column_names, self.table.columns, strict=True)
            if column.null_count < len(column)
        }
        found: dict[int, str] = {}
        for c, ours in enumerate(EXPRESSIONS):
            names = [self.name(PROBABILITY_COLUMNS[c]), prefix + self._classes.get(ours, ours)]
            if ours in self._classes:
                names.append(f"{prefix}{list(self._classes).index(ours)}")
            if name := next((name for name in names if name in filled), None):
                found[c] = name
        left = [name for name in filled - set(found.values()) if name.startswith(prefix)]
        if left and len(found) < N_EXPRESSIONS and len(found) < (len(self._classes) or 8):
            stray = min(left)
            raise DataError(
                f"{self.source}: column {stray!r} names no expression"
                f"{suggest(stray, [prefix + name for name in EXPRESSIONS])}; give the classes of "
                f"the {prefix} columns, in their order, with --classes neutral,happiness=happy,..."
            )
        if "p" in self._aliases and not found:
            raise DataError(
                f"{self.source} has no column that starts with {prefix!r}; it has {self._has()}"
            )
        return found

    def extra(self) -> dict[str, npt.NDArray[Any]]:
        """Every further flat column, for slices."""
        used = {*SCHEMA.names, *self._aliases.values()}
        return {
            field.name: self.table.column(field.name).to_numpy()
            for field in self.table.schema
            if field.name not in used
            and not pa.types.is_nested(field.type)
            and field.type not in (pa.binary(), pa.large_binary())
        }


def read_table(path: Path | str, aliases: Mapping[str, str] | None = None) -> pa.Table:
    """Read a CSV, TSV or Parquet file; ids stay text, so `007` is not `7`.

    Raises:
        DataError: no such file, an unknown kind of file, or one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    suffix = path.suffix.lower()
    ids = {"id", (aliases or {}).get("id", "id")}
    try:
        if suffix in (".parquet", ".pq"):
            return pa.parquet.read_table(path)
        if suffix in (".csv", ".tsv"):
            with path.open("rb") as file:
                check_encoding(file.read(200), path)
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
    path: Path | str,
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
    path = Path(path)
    table, aliases = _read(path, columns)
    return predictions_of(table, path.name, aliases, parse_classes(classes), out_of_range)


def read_truth(path: Path | str, columns: Sequence[str] = (), classes: Sequence[str] = ()) -> Truth:
    """Read truth from a CSV, TSV or Parquet file with `id`, `expression`, `valence`, `arousal`.

    At least one of the last three is needed; every further column can be used for slices. Numbers
    in a column `expression` are in AffectNet's order; `classes` gives the order for a column of
    another name, and translates words.

    Raises:
        ConfigError, DataError: as `read_predictions`.
    """
    path = Path(path)
    table, aliases = _read(path, columns)
    numbers = "expression" in table.column_names and not _is_text(table.column("expression").type)
    order = () if numbers and "expression" not in aliases else classes
    return truth_of(table, path.name, aliases, parse_classes(order))


def _read(path: Path, columns: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    aliases = parse_columns(columns)
    table = read_table(path, aliases)
    Columns(table, path.name, aliases).need(("id",))
    return table, aliases


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
    columns.need(TRUTH_COLUMNS)
    return Truth(
        ids=columns.ids(),
        expression=columns.labels("expression"),
        valence=columns.numbers("valence"),
        arousal=columns.numbers("arousal"),
        extra=columns.extra(),
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
    columns = Columns(data, source, aliases, classes)
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
        extra=columns.extra(),
        prior=(columns.table.schema.metadata or {}).get(_PRIOR, b"").decode() or None,
        source=source,
    )


_PRIOR: Final = b"affectnet.prior"


def write_predictions(table: pa.Table, path: Path | str, prior: str | None = None) -> None:
    """Write `predictions.parquet`; class order and `prior` go into the file's metadata.

    `prior` names the class fractions that the probabilities were corrected for, if any. The file is
    written completely or not at all.
    """
    metadata = {b"affectnet.classes": ",".join(EXPRESSIONS).encode()}
    if prior is not None:
        metadata[_PRIOR] = prior.encode()
    with write_beside(path) as new:
        pa.parquet.write_table(table.replace_schema_metadata(metadata), new)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
