"""Numbers and points in annotation files, or the sentence that tells why there are none."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.part import MINUS_TWO, OUTSIDE, UNREADABLE
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS

Fault = tuple[str, str]
"""Reason and detail of a drop."""

_SHOWN = 40


class Bad(Exception):
    """A row that cannot be used, with the reason and the detail for `dropped.csv`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.fault: Fault = (reason, detail)


def number(value: object, name: str) -> float | None:
    """Read a number that may be text; None where there is none (None, an empty text, NaN).

    Raises:
        Bad: it is something else.
    """
    if value is None or isinstance(value, bool):
        if value is None:
            return None
        raise Bad(UNREADABLE, f"{name}: {value} is no number")
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        if "_" in value:  # Python takes 1_0 for 10; no release writes that
            raise Bad(UNREADABLE, f"{name}: {value[:_SHOWN]!r} is no number")
    if not isinstance(value, str | int | float | np.number):
        raise Bad(UNREADABLE, f"{name}: {type(value).__name__} where a number was due")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise Bad(UNREADABLE, f"{name}: {str(value)[:_SHOWN]!r} is no number") from None
    return None if math.isnan(found) else found


def affect(value: object, name: str) -> float | None:
    """Read valence or arousal.

    Raises:
        Bad: it is no number, -2, or outside [-1, 1].
    """
    found = number(value, name)
    if found is None or -1 <= found <= 1:
        return found
    raise Bad(MINUS_TWO if found == -2 else OUTSIDE, f"{name} is {found:g}")


def points(value: object) -> NDArray[np.float32] | None:
    """Read 68 landmarks: 136 numbers, flat, in pairs, or as text joined by `;`, `,` or spaces.

    Returns:
        float32 (68, 2), or None where there are none.

    Raises:
        Bad: another count, or no finite numbers.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    flat = _flat(value, "landmarks", 2 * N_LANDMARKS)
    if not flat:
        return None
    if len(flat) != 2 * N_LANDMARKS:
        raise Bad(UNREADABLE, f"landmarks: {len(flat)} numbers where {2 * N_LANDMARKS} were due")
    found = np.array(flat, np.float64)
    if not (np.abs(found) < 1e9).all():
        raise Bad(UNREADABLE, "landmarks: coordinates that are no finite numbers")
    return found.astype(np.float32).reshape(N_LANDMARKS, 2)


def shares(value: object, name: str) -> NDArray[np.float32] | None:
    """Read eight shares in AffectNet's order and divide them by their sum.

    Returns:
        float32 (8,), or None where there are none.

    Raises:
        Bad: another count, a negative share, or nothing but zeros.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    flat = _flat(value, name, N_EXPRESSIONS)
    if len(flat) != N_EXPRESSIONS:
        raise Bad(UNREADABLE, f"{name}: {len(flat)} numbers where {N_EXPRESSIONS} were due")
    total = math.fsum(flat) if all(0 <= share < 1e30 for share in flat) else math.nan
    if not total > 0:
        raise Bad(UNREADABLE, f"{name}: shares must be 0 or more, and not all 0")
    return (np.array(flat, np.float64) / total).astype(np.float32)


def numbers(value: object, name: str, most: int) -> list[float]:
    """Read any list of at most `most` finite numbers; empty where there is none.

    Raises:
        Bad: it holds something else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    flat = _flat(value, name, most)
    if not all(map(math.isfinite, flat)):
        raise Bad(UNREADABLE, f"{name}: no finite numbers")
    return flat


def _flat(value: object, name: str, most: int) -> list[float]:
    """Return the numbers of nested lists or of a text; no more than `most` + 1."""
    if isinstance(value, str):
        text = value[: 64 * most].strip("[]() \t")
        value = [piece for piece in text.replace(";", " ").replace(",", " ").split() if piece]
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence):
        value = [value]
    flat: list[float] = []
    for item in value:
        pair = item if isinstance(item, list | tuple) else [item]
        for piece in pair:
            found = number(piece, name)
            if found is None:
                raise Bad(UNREADABLE, f"{name}: a number is missing")
            flat.append(found)
        if len(flat) > most:
            break
    return flat


@contextmanager
def open_csv(
    path: Path, progress: Callable[[int, int], None]
) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open a CSV file; gives (line number, row) for each row that is not empty.

    Bytes that are no UTF-8 come as lone surrogates, for the row alone to be dropped.

    Raises:
        DataError: inside the context too: the file cannot be read, or is no CSV.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is no regular file")
        whole = path.stat().st_size
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with raw:
        text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        yield _rows(path, text, lambda: progress(min(raw.tell(), whole), whole))
        progress(whole, whole)


def _rows(
    path: Path, text: io.TextIOWrapper, tick: Callable[[], None]
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text)
    line = 1
    try:
        for count, row in enumerate(reader):
            if any("\n" in cell or "\r" in cell for cell in row):
                # A stray quote would swallow all rows up to the next one.
                raise DataError(
                    f"{path}, line {line}: a quote opens there and spans lines; mend it"
                )
            line = reader.line_num + 1
            if count % 256 == 0:
                tick()
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: no CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def whole_text(text: str) -> bool:
    """Whether a text can be written as UTF-8, and has no control characters."""
    # Most is printable; narrow spaces and joiners are not, and are text all the same.
    return text.isprintable() or not any(category(char) in ("Cc", "Cs") for char in text)


def as_unicode(text: str) -> str:
    """Write what is no Unicode, bytes that came as lone surrogates, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_text(value: object) -> str | None:
    """Turn a plain value into text for an extra column; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return value.strip() if value.strip() and whole_text(value) else None
    return None


def find_key(table: Mapping[str, Any], name: str) -> Any:
    """Look a key up whatever its case and whatever joins its words; None where it is missing."""
    wanted = plain_key(name)
    for key, value in table.items():
        if plain_key(key) == wanted:
            return value
    return None


def plain_key(name: str) -> str:
    """Reduce a key to its letters and digits, lower case."""
    return "".join(char for char in name.casefold() if char.isalnum())
