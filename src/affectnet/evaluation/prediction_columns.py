"""Read the columns of a table by the names in `predictions.parquet`, and classes in our order.

Nothing is guessed. A column has our name, or an alias that the user gives. A class is given by its
name, by AffectNet's index in a column of our name, or by the order that the user gives.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from affectnet.errors import ConfigError, DataError, suggest
from affectnet.evaluation.metrics import Bools, Floats, Ints
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, PROBABILITY_COLUMNS

TRUTH_COLUMNS: Final = ("expression", "valence", "arousal")
PREDICTION_COLUMNS: Final = (
    *PROBABILITY_COLUMNS,
    "expression_pred",
    "valence_pred",
    "arousal_pred",
)
_KNOWN: Final = ("id", *TRUTH_COLUMNS, *PREDICTION_COLUMNS)


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Read aliases such as `expression_pred=label` into {our name: the file's name}.

    `p=PREFIX` stands for all probability columns: PREFIX followed by each class.

    Raises:
        ConfigError: no `=`, or an unknown name on its left.
    """
    aliases = {}
    for alias in (part.strip() for one in given for part in one.split(",") if part.strip()):
        ours, equals, theirs = alias.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"--columns {alias!r}: write OURS=THEIRS, for example id=image_name")
        if ours not in (*_KNOWN, "p"):
            raise ConfigError(
                f"--columns {alias!r}: {ours!r} is not one of our columns{suggest(ours, _KNOWN)}: "
                f"{', '.join(_KNOWN)}, and p=PREFIX for all probabilities"
            )
        aliases[ours] = theirs
    return aliases


def parse_classes(given: Sequence[str]) -> dict[str, str]:
    """Read a class order such as `neutral,happiness=happy` into {our name: the file's name}.

    Raises:
        ConfigError: a name that is not an expression, or a repeated one.
    """
    order: dict[str, str] = {}
    for word in (part.strip() for one in given for part in one.split(",") if part.strip()):
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


class Columns:
    """One table, read by our names.

    Args:
        table: any columns.
        source: name of the table in messages.
        aliases: {our name: the table's}, from `parse_columns`.
        classes: {our class: the table's word}, in the table's order, from `parse_classes`.
    """

    def __init__(
        self,
        table: pa.Table,
        source: str,
        aliases: Mapping[str, str],
        classes: Mapping[str, str],
    ) -> None:
        self.table, self.source = table, source
        self._aliases, self._classes = aliases, classes

    def name(self, ours: str) -> str | None:
        """The table's name of our column, or None where it has none."""
        theirs = self._aliases.get(ours)
        if theirs in self.table.column_names:
            return theirs
        return ours if ours in self.table.column_names else None

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
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return self._words(name, column.to_pylist())
        values = self._floats(name)
        missing = np.isnan(values)
        if name != ours and not self._classes and not missing.all():
            raise DataError(
                f"{self.source}: column {name!r} holds numbers; give their classes, in order, "
                f"with --classes {','.join(EXPRESSIONS[:2])},..."
            )
        order = np.array([EXPRESSIONS.index(c) for c in self._classes or EXPRESSIONS])
        self._check_indices(name, values, missing, len(order))
        return np.where(missing, -1, order[np.where(missing, 0, values).astype(np.int64)])

    def _check_indices(self, name: str, values: Floats, missing: Bools, count: int) -> None:
        with np.errstate(invalid="ignore"):
            wrong = ~missing & ~((values >= 0) & (values < count) & (values % 1 == 0))
        if wrong.any():
            raise DataError(
                f"{self.source}: label {values[wrong][0]:g} in column {name!r} "
                f"({wrong.sum():,} rows) is not one of the classes 0 to {count - 1} "
                f"({', '.join(self._classes or EXPRESSIONS)}); leave such faces out"
            )

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
