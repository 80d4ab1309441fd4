"""One table of truth or predictions, read by our names of columns and classes.

Nothing is guessed. A column has our name, or an alias that the user gives. A class is given by a
word that can mean only this one, by AffectNet's index in a column of our name, or by the order that
the user gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from affectnet.errors import ConfigError, DataError, Faults, counted, shown, suggest
from affectnet.evaluation.column_names import id_column
from affectnet.evaluation.metrics import Floats, Ints
from affectnet.evaluation.predictions import SCHEMA
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, PROBABILITY_COLUMNS, WORDS


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
    faults = Faults()
    for word in _split(given):
        name, _, theirs = word.partition("=")
        ours = WORDS.get(name.strip().casefold())
        if ours is None:
            faults.append(
                f"--classes: {name!r} is not an expression{suggest(name, WORDS)}; they are "
                f"{', '.join(EXPRESSIONS)}; where the file has another word, give happiness=glad"
            )
        elif ours in order:
            faults.append(f"--classes names {ours!r} twice; give each class once")
        else:
            order[ours] = theirs.strip() or name
    faults.raise_all()
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

    Raises `DataError` where two columns have the same name.
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
        names = self.table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{source} has several columns {', '.join(map(shown, twice[:5]))}; rename or "
                "remove all but one of the same name"
            )

    def name(self, ours: str) -> str | None:
        """The table's name of our column, or None where it has none."""
        both = (self._aliases.get(ours), ours)
        return next((name for name in both if name in self.table.column_names), None)

    def need(self, *groups: Sequence[str]) -> None:
        """Raise `DataError` unless the table has at least one of our columns of each group."""
        missing = [group for group in groups if not any(map(self._is_there, group))]
        if missing:
            texts = (
                f"no column {group[0]}"
                if len(group) == 1
                else f"none of the columns {_listed(group)}"
                for group in missing
            )
            ours = missing[0][-1]
            free = [name for name in self.table.column_names if name not in self._aliases.values()]
            raise DataError(
                f"{self.source} has {' and '.join(texts)}; it has {self._has()}; "
                + (
                    "add a column of ids, the same in truth and predictions, or name it with "
                    if ours == "id" and id_column(self.table, free) is None
                    else "name them with "
                )
                + f"--columns {ours}=NAME"
            )

    def _is_there(self, ours: str) -> bool:
        if self.name(ours) is not None:
            return True
        prefix = self._aliases.get("p", "p_")
        names = self.table.column_names
        return ours in PROBABILITY_COLUMNS and any(name.startswith(prefix) for name in names)

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
            return self.row_numbers()
        column = self.table.column(name)
        if column.null_count:
            raise DataError(
                f"{self.source}: {counted(column.null_count, 'row')} with an empty {name!r}; "
                "each face needs an id"
            )
        ids: list[str] = column.cast(pa.string()).to_pylist()
        return ids

    def row_numbers(self) -> list[str]:
        """The rows, counted from 0, as ids."""
        return [str(row) for row in range(self.table.num_rows)]

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
        if is_text(column.type):
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
                f"({counted(int(wrong.sum()), 'row')}) is not one of the classes 0 to "
                f"{len(classes) - 1} ({', '.join(classes)}); leave such faces out"
            )
        order = np.array([EXPRESSIONS.index(c) for c in classes])
        return np.where(missing, -1, order[np.where(missing, 0, values).astype(np.int64)])

    def _words(self, name: str, words: list[str | None]) -> Ints:
        # The words of the file, and the known ones where they do not conflict with them.
        index = {word: EXPRESSIONS.index(ours) for word, ours in WORDS.items()}
        index |= {_key(theirs): EXPRESSIONS.index(ours) for ours, theirs in self._classes.items()}
        unknown = sorted({word for word in words if word is not None and _key(word) not in index})
        if unknown:
            first, *_ = own = [word.strip() for word in unknown[:8]]
            raise DataError(
                f"{self.source}: label {', '.join(map(repr, unknown[:8]))} in column {name!r} is "
                f"not an expression{suggest(unknown[0], index)}; allowed are {', '.join(index)}; "
                f"give the class that it means, --classes {','.join(f'CLASS={w}' for w in own)} "
                f"(such as {EXPRESSIONS[0]}={first}), or leave such faces out"
            )
        return np.array([-1 if word is None else index[_key(word)] for word in words], np.int64)

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
        by_word = {_key(name[len(prefix) :]): name for name in filled if name.startswith(prefix)}
        found: dict[int, str] = {}
        for c, ours in enumerate(EXPRESSIONS):
            words = [word for word, meant in WORDS.items() if meant == ours]
            if ours in self._classes:
                words = [_key(self._classes[ours]), *words, f"{list(self._classes).index(ours)}"]
            names = [self.name(PROBABILITY_COLUMNS[c]), *map(by_word.get, words)]
            if name := next((name for name in names if name in filled), None):
                found[c] = name
        left = [name for name in filled - set(found.values()) if name.startswith(prefix)]
        if left and len(found) < N_EXPRESSIONS and len(found) < (len(self._classes) or 8):
            stray = min(left)
            raise DataError(
                f"{self.source}: column {stray!r} names no expression"
                f"{suggest(stray, [prefix + name for name in EXPRESSIONS])}; give the classes of "
                f"the {prefix} columns, in their order, with --classes neutral,happiness=glad,..."
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


def _listed(names: Sequence[str]) -> str:
    first, last = PROBABILITY_COLUMNS[0], PROBABILITY_COLUMNS[-1]
    return ", ".join(names).replace(", ".join(PROBABILITY_COLUMNS), f"{first} to {last}")


def _key(word: str) -> str:
    """The form in which words of the file are compared."""
    return word.strip().casefold()


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, dictionaries of texts among them."""
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
