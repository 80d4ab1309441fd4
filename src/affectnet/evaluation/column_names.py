"""The names of columns and classes that a file of predictions or truth seems to use, as flags.

They are proposed to the user and never applied: a column `label` may be truth or prediction.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from affectnet.labels import EXPRESSIONS, WORDS

Content = Literal["truth", "predictions", "both"]

_ID: Final = frozenset({"id", "image", "img", "file", "filename", "path", "name", "face", "source"})
_KINDS: Final = {
    "expression": {"expression", "expr", "exp", "emotion", "emo", "label", "class", "category"},
    "valence": {"valence", "val", "v"},
    "arousal": {"arousal", "aro", "a"},
}
_PREDICTED: Final = frozenset(
    {"pred", "preds", "predicted", "prediction", "predictions", "estimated", "model", "output"}
)
_TRUE: Final = frozenset(
    {"true", "truth", "gt", "ground", "target", "actual", "annotated", "annotation", "human"}
)
_PART: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_FEWEST_PROBABILITIES: Final = 5


@dataclass(frozen=True)
class ProposedNames:
    """Aliases and classes, as `--columns` and `--classes` are read; the user's own among them.

    Attributes:
        in_order: whether `classes` is the order of numbers in the file, which no name tells:
            AffectNet's is proposed.
    """

    aliases: dict[str, str]
    classes: dict[str, str]
    in_order: bool

    def __str__(self) -> str:
        flags = []
        for flag, names in (("--columns", self.aliases), ("--classes", self.classes)):
            if names:
                pairs = (a if a == b else f"{a}={b}" for a, b in names.items())
                flags.append(f"{flag} {shlex.quote(','.join(pairs))}")
        order = " (if its numbers are in this order)" if self.in_order else ""
        return " ".join(flags) + order


def proposed_names(
    table: pa.Table, aliases: Mapping[str, str], classes: Mapping[str, str], content: Content
) -> ProposedNames | None:
    """The names that `table` seems to use, or None if they are those that were given.

    Args:
        aliases, classes: what the user gave, which is kept.
        content: what the file holds, which says what a column such as `label` is.
    """
    known = {*aliases, *table.column_names}
    free = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in aliases.values() and "," not in name and column.null_count < len(table)
    ]
    found, words, numbered = dict(aliases), dict[str, str](), False
    if content != "truth" and "p" not in aliases and (group := _probabilities(table, free)):
        found |= group.aliases
        words, numbered = group.words, group.numbered
        free = [name for name in free if name not in group.columns]
    if "id" not in known and (name := id_column(table, free)):
        found["id"] = name
        free.remove(name)
    targets = _targets(table, free, content)
    found |= {ours: theirs for ours, theirs in targets.items() if ours not in known}
    for ours in ("expression", "expression_pred"):
        name = found.get(ours, ours)
        if name in table.column_names and table.column(name).null_count < len(table):
            if _is_number(table.column(name)):
                numbered |= name != ours
            else:
                labels = _meanings(pc.unique(table.column(name)).to_pylist())
                words |= {c: word for c, word in labels.items() if word.casefold() not in WORDS}
    words = {ours: words[ours] for ours in EXPRESSIONS if ours in words}
    if classes:
        words, numbered = dict(classes), False
    elif numbered:
        words = {ours: words.get(ours, ours) for ours in EXPRESSIONS}
    if found == dict(aliases) and words == dict(classes):
        return None
    return ProposedNames(found, words, numbered)


def _parts(name: str) -> set[str]:
    return {part.casefold() for part in _PART.findall(name)}


def _is_number(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type) or pa.types.is_integer(column.type))


def _meanings(words: Iterable[str | None]) -> dict[str, str]:
    """The words, by the expression that each means, as itself or as its first letters."""
    found: dict[str, str] = {}
    for word in words:
        small = (word or "").strip().casefold()
        meant = {ours for known, ours in WORDS.items() if small[1:] and known.startswith(small)}
        if word and len(meant) == 1:
            found.setdefault(meant.pop(), word)
    return found


def id_column(table: pa.Table, names: Sequence[str]) -> str | None:
    """The first column that has the name of an id or a file, and another value in each row."""
    for name in names:
        column = table.column(name)
        flat = not pa.types.is_floating(column.type) and not pa.types.is_nested(column.type)
        if flat and _parts(name) & _ID and pc.count_distinct(column).as_py() == len(table):
            return name
    return None


def _targets(table: pa.Table, names: Sequence[str], content: Content) -> dict[str, str]:
    """The columns of truth and prediction; where two may be the same one, neither is."""
    found = {}
    for kind, known in _KINDS.items():
        predicted: list[str] = []
        true: list[str] = []
        plain: list[str] = []
        for name in names:
            parts = _parts(name)
            marked = parts & (_PREDICTED | _TRUE)
            alone = kind == "expression" and marked and parts <= _PREDICTED | _TRUE | {"y"}
            if (parts & known or alone) and (
                kind == "expression" or _is_number(table.column(name))
            ):
                (predicted if parts & _PREDICTED else true if marked else plain).append(name)
        if content == "truth":
            predicted = []
        elif not predicted and content == "predictions":
            # A column of our name is the truth if another one can be the prediction.
            predicted, plain = [name for name in plain if name != kind] or plain, []
        for ours, columns in ((f"{kind}_pred", predicted), (kind, true or plain)):
            if len(columns) == 1:
                found[ours] = columns[0]
    return found


class _Probabilities(NamedTuple):
    """Columns of probabilities whose names differ in one word or number.

    `aliases` name them, `words` are those of the file that are not known, and `numbered` says
    whether they have numbers instead.
    """

    columns: list[str]
    aliases: dict[str, str]
    words: dict[str, str]
    numbered: bool


def _probabilities(table: pa.Table, names: Sequence[str]) -> _Probabilities | None:
    """The columns of probabilities, or None if there are none or they have our names."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for part in _PART.finditer(name) if _is_number(table.column(name)) else ():
            groups.setdefault((name[: part.start()], name[part.end() :]), {})[part[0]] = name
    counts = {where: len(_meanings(columns)) for where, columns in groups.items()}
    where = max(groups, key=lambda where: counts[where], default=("", ""))
    if counts.get(where, 0) < _FEWEST_PROBABILITIES:
        for (before, after), columns in groups.items():
            if before and not after and sorted(columns) in (list("0123456"), list("01234567")):
                return _Probabilities([*columns.values()], {"p": before}, {}, True)
        return None
    columns, words = groups[where], _meanings(groups[where])
    aliases, left = {f"p_{ours}": columns[word] for ours, word in words.items()}, dict[str, str]()
    if where[0] and not where[1]:
        aliases = {} if where[0] == "p_" else {"p": where[0]}
        left = {ours: word for ours, word in words.items() if word.casefold() not in WORDS}
    return _Probabilities([columns[word] for word in words.values()], aliases, left, False)
