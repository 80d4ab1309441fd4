"""Words, numbers and class orders that other releases use for the eight expressions."""

import re
from collections.abc import Sequence
from typing import Final

from affectnet.errors import ConfigError, DataError, suggest
from affectnet.labels import EXPRESSIONS, WORDS

FERPLUS: Final = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
"""The order of votes in FER+."""

RAFDB: Final = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""The labels of RAF-DB, the first of which is 1."""

ALPHABETICAL: Final = tuple(sorted(EXPRESSIONS))
"""How folders sort: the order in which copies of the releases are often numbered."""

OTHER_ORDERS: Final[dict[str, tuple[str, ...]]] = {
    "alphabetical": ALPHABETICAL,
    "FER+": FERPLUS,
    "RAF-DB": RAFDB,
}
"""Class orders that are mistaken for AffectNet's: number -> what it means there."""

ORDERS: Final[dict[str, dict[str, str]]] = {
    "affectnet": {str(i): name for i, name in enumerate(EXPRESSIONS)},
    "ferplus": {str(i): name for i, name in enumerate(FERPLUS)},
    "rafdb": {str(i): name for i, name in enumerate(RAFDB, 1)},
}
"""Orders that --class-order accepts by name."""

DROP: Final = "drop"
_NUMBER = re.compile(r"(?:class|label|emotion|expression)?[\s._-]*(\d{1,4})", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[\s._-]+(?=\D)")


def find_class(word: str) -> int | None:
    """Return the expression that a word means, 0-7, or None if this is not certain.

    Case does not matter, nor does a number in front, as in `3_surprise`.
    """
    name = WORDS.get(_NUMBERED.sub("", word.strip().casefold(), count=1))
    return None if name is None else EXPRESSIONS.index(name)


class Classes:
    """What labels mean in one source: words by themselves, numbers only by the user's order.

    Args:
        order: `--class-order`: the name of a known order; names of expressions, the first for 0; or
            `LABEL=NAME` pairs. Words may be joined by commas. `drop` instead of a name leaves
            those rows out.

    Raises:
        ConfigError: a word of the order is not an expression, or a label or expression comes twice.
    """

    def __init__(self, order: Sequence[str] = ()) -> None:
        words = [word.strip() for text in order for word in text.split(",") if word.strip()]
        self.counted = bool(words) and all("=" not in word for word in words)
        """Whether the order is a plain list, counted from 0."""
        if len(words) == 1 and words[0].casefold() in ORDERS:
            self.counted = False
            words = [f"{key}={name}" for key, name in ORDERS[words[0].casefold()].items()]
        elif self.counted:
            words = [f"{i}={word}" for i, word in enumerate(words)]
        self.given: dict[str, str] = {}
        for word in words:
            label, equals, name = (piece.strip() for piece in word.partition("="))
            if not equals or not label:
                raise ConfigError(
                    f"--class-order has '{word}' among LABEL=NAME pairs; give pairs only, or "
                    "plain names only, counted from 0"
                )
            index = find_class(name)
            if index is None and name.casefold() != DROP:
                raise ConfigError(
                    f"--class-order names '{name}'{suggest(name, (*WORDS, *ORDERS))}; it may be "
                    f"{', '.join((*EXPRESSIONS, DROP))}, or one word for all: {', '.join(ORDERS)}"
                )
            key = _key(label)
            meant = DROP if index is None else EXPRESSIONS[index]
            if key in self.given:
                raise ConfigError(f"--class-order gives the label '{label}' twice; give it once")
            if self.counted and meant != DROP and meant in self.given.values():
                raise ConfigError(f"--class-order names {meant} twice; name each class once")
            self.given[key] = meant

    def find(self, label: str) -> int | None:
        """Return the expression of a label, 0-7, or None if rows with it are left out.

        Raises:
            KeyError: the meaning of the label is unknown.
        """
        given = self.given.get(_key(label))
        if given is not None:
            return None if given == DROP else EXPRESSIONS.index(given)
        found = find_class(label)
        if found is None:
            raise KeyError(label)
        return found

    def named(self, label: str) -> bool:
        """Whether the order itself names a label."""
        return _key(label) in self.given

    def refuse(self, where: str, unknown: Sequence[str]) -> DataError:
        """Make the error that asks for the meaning of labels."""
        shown = ", ".join(f"'{label}'" for label in list(unknown)[:6])
        example = f"{unknown[0]}=happiness"
        if self.given:
            return DataError(
                f"{where} has {shown}, which --class-order does not name; add {example}, or "
                f"{unknown[0]}={DROP} to leave such rows out"
            )
        if all(is_number(label) for label in unknown):
            return DataError(
                f"{where} numbers its classes ({shown}), and orders differ; state what they mean: "
                f"--class-order neutral,happiness,... counted from 0, --class-order {example},... "
                f"or the name of an order ({', '.join(ORDERS)})"
            )
        return DataError(
            f"{where} has the label {shown}, whose meaning is not certain; state it with "
            f"--class-order {example},... or {unknown[0]}={DROP}"
        )


def number_of(label: str) -> int | None:
    """The number of a label such as `3`, `class003` or `label_3`; None for other labels."""
    found = _NUMBER.fullmatch(label.strip())
    return None if found is None else int(found[1])


def is_number(label: str) -> bool:
    """Whether a label is a whole number; see `number_of`."""
    return number_of(label) is not None


def _key(label: str) -> str:
    number = number_of(label)
    return label.strip().casefold() if number is None else str(number)
