"""Values in annotation files (text, CSV, JSON, NumPy), or the reason why there are none."""

import csv
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.archive import Progress
from affectnet.data.readers.release_part import Fault, Reason, affect_fault, plain_number
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError, check_encoding
from affectnet.labels import N_EXPRESSIONS

NO_FACE: Final = {8: "none", 9: "uncertain", 10: "no face"}
"""AffectNet's further labels, which stand for no expression."""

_SHOWN = 40
_NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY = 64 << 10
_LONGEST_NAME = 255

# NumPy's hint about files of Python 2 is nothing that the user of a release can act on.
warnings.filterwarnings("ignore", message="Reading `.npy` or `.npz`", category=UserWarning)


class Bad(Exception):
    """A row that cannot be used, with the reason and the detail for `dropped.csv`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.fault: Fault = (reason, detail)


def number(value: object, name: str) -> float | None:
    """Read a number that may be text; None where there is none (None, an empty text, NaN).

    Raises:
        Bad: it is something else.
    """
    if _is_empty(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.number):
        raise Bad(Reason.UNREADABLE, f"{name}: {type(value).__name__} instead of a number")
    found = parse_number(value)
    if found is None:
        raise Bad(Reason.UNREADABLE, f"{name}: {str(value)[:_SHOWN]!r} is not a number")
    return None if math.isnan(found) else found


def parse_number(value: str | float | np.number[Any]) -> float | None:
    """Convert to float; None for text that is not a number, or too large."""
    try:
        # Python reads 1_0 as 10; no release writes that.
        return None if isinstance(value, str) and "_" in value else float(value)
    except (ValueError, OverflowError):
        return None


def affect(value: object, name: str) -> float | None:
    """Read valence or arousal.

    Raises:
        Bad: it is not a number, -2, or outside [-1, 1].
    """
    found = number(value, name)
    if found is None or -1 <= found <= 1:
        return found
    raise Bad(*affect_fault(found, name))


def both_affects(valence: object, arousal: object) -> tuple[float, float]:
    """Read valence and arousal, which must both be there.

    Raises:
        Bad: as `affect`, or one of them is missing.
    """
    found = affect(valence, "valence"), affect(arousal, "arousal")
    if found[0] is None or found[1] is None:
        raise Bad(Reason.MISSING, "no valence or arousal")
    return found[0], found[1]


def expression(value: object, name: str) -> int:
    """Read an expression by AffectNet's numbers, 0-7.

    Raises:
        Bad: it is missing, not a number, of no expression (8-10), or another number.
    """
    label = number(value, name)
    if label is None:
        raise Bad(Reason.MISSING, f"no {name}")
    if label in NO_FACE:
        raise Bad(Reason.NO_EXPRESSION, f"class {label:g}, {NO_FACE[int(label)]}")
    if not 0 <= label < N_EXPRESSIONS or label != int(label):
        raise Bad(Reason.BAD_LABEL, f"{name} is {plain_number(label)}")
    return int(label)


def points(value: object) -> NDArray[np.float32] | None:
    """Read 68 landmarks: 136 numbers, flat, in pairs, or as text joined by `;`, `,` or spaces.

    Returns:
        float32 (68, 2), or None where there are none.

    Raises:
        Bad: there is another count, or a number is not finite.
    """
    flat = _flat(value, "landmarks", 2 * N_LANDMARKS)
    if not flat:
        return None
    if len(flat) != 2 * N_LANDMARKS:
        raise Bad(Reason.UNREADABLE, f"landmarks: {len(flat)} numbers instead of {2 * N_LANDMARKS}")
    found = np.array(flat, np.float64)
    if not (np.abs(found) < 1e9).all():
        raise Bad(Reason.UNREADABLE, "landmarks: coordinates that are not finite numbers")
    return found.astype(np.float32).reshape(N_LANDMARKS, 2)


def shares(value: object, name: str) -> NDArray[np.float32] | None:
    """Read eight vote shares in AffectNet's order and divide them by their sum.

    Returns:
        float32 (8,), or None where there are none.

    Raises:
        Bad: there is another count, a negative share, or nothing but zeros.
    """
    if _is_empty(value):
        return None
    flat = _flat(value, name, N_EXPRESSIONS)
    if len(flat) != N_EXPRESSIONS:
        raise Bad(Reason.UNREADABLE, f"{name}: {len(flat)} numbers instead of {N_EXPRESSIONS}")
    total = math.fsum(flat) if all(0 <= share < 1e30 for share in flat) else math.nan
    if not total > 0:
        raise Bad(Reason.UNREADABLE, f"{name}: shares must be 0 or more, and not all 0")
    return (np.array(flat, np.float64) / total).astype(np.float32)


def numbers(value: object, name: str, most: int) -> list[float]:
    """Read any list of at most `most` finite numbers; empty where there is none.

    Raises:
        Bad: it contains something else.
    """
    flat = _flat(value, name, most)
    if not all(map(math.isfinite, flat)):
        raise Bad(Reason.UNREADABLE, f"{name}: not all numbers are finite")
    return flat


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _flat(value: object, name: str, most: int) -> list[float]:
    """Return the numbers of nested lists or of a text, at most `most` + 1; empty for no value."""
    if _is_empty(value):
        return []
    if isinstance(value, str):
        text = value[: 64 * most].strip("[]() \t")
        value = text.replace(";", " ").replace(",", " ").split()
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence):
        value = [value]
    flat: list[float] = []
    for item in value:
        for piece in item if isinstance(item, list | tuple) else [item]:
            found = number(piece, name)
            if found is None:
                raise Bad(Reason.UNREADABLE, f"{name}: a number is missing")
            flat.append(found)
        if len(flat) > most:
            break
    return flat


@contextmanager
def open_csv(
    path: Path, progress: Progress = lambda *_: None
) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open a CSV file; yields (line number, row) for each row that is not empty.

    Bytes that are not UTF-8 become lone surrogates, so that only their row is dropped.

    Raises:
        DataError: also inside the context: the file cannot be read, or is not CSV.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is not a regular file")
        total = path.stat().st_size
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with raw:
        check_encoding(raw.peek(200)[:200], path)
        text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        yield _rows(path, text, lambda: progress(min(raw.tell(), total), total))
        progress(total, total)


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
                    f"{path}, line {line}: a quote opens there and spans lines; fix the line"
                )
            line = reader.line_num + 1
            if count % 256 == 0:
                tick()
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def path_below(name: str, allow_outside: bool) -> str:
    """Return a path from an annotation file, to be read from a folder on, with `/` between parts.

    Raises:
        Bad: it is empty or contains NUL, or it leads out of that folder and `allow_outside` is off.
    """
    path = name.strip().replace("\\", "/").removeprefix("./")
    names = path.split("/")
    if not path or "\0" in path or max(len(os.fsencode(name)) for name in names) > _LONGEST_NAME:
        raise Bad(Reason.UNREADABLE_ID, "not a path")
    absolute = path.startswith("/") or path[1:3] == ":/"
    if (absolute or ".." in names) and not allow_outside:
        detail = "a path out of the folder of the images; --allow-outside accepts it"
        raise Bad(Reason.UNREADABLE_ID, detail)
    return path


def is_plain_text(text: str) -> bool:
    """Whether a text can be written as UTF-8, and has no control characters."""
    # Most is printable; narrow spaces and joiners are not, and are text all the same.
    return text.isprintable() or not any(category(char) in ("Cc", "Cs") for char in text)


def as_unicode(text: str) -> str:
    """Write bytes that are not Unicode, which are lone surrogates in the text, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_text(value: object) -> str | None:
    """Turn a plain value into text for an extra column; None where there is none."""
    if isinstance(value, float):
        return None if math.isnan(value) else f"{value:g}"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, str) and is_plain_text(value):
        return value.strip() or None
    return None


def find_key(table: Mapping[str, Any], name: str) -> Any:
    """Look up a key by letters and digits alone, without case; None where it is missing."""
    wanted = plain_key(name)
    return next((value for key, value in table.items() if plain_key(key) == wanted), None)


def plain_key(name: str) -> str:
    """Reduce a key to its letters and digits, lower case."""
    return "".join(char for char in name.casefold() if char.isalnum())


def read_npy_number(data: bytes) -> float | str:
    """Return the number in a `.npy` file, or a sentence that states why there is none.

    Strings, bytes, floats and integers of shape () or (1,) are read; NaN and infinities too.
    """
    # Labels repeat, and NumPy takes 60 microseconds per file.
    return _remembered_number(data) if len(data) <= 1024 else _npy_number(data)


def _npy_number(data: bytes) -> float | str:
    array = _load_array(data)
    if isinstance(array, str):
        return array
    if array.shape not in ((), (1,)):
        return f"an array of shape {array.shape} instead of one number"
    if array.dtype.kind not in "UTSfiu":
        return f"an array of type {array.dtype} instead of a number"
    value = array.reshape(-1)[0]
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    found = parse_number(text)
    return f"{text[:_SHOWN]!r} is not a number" if found is None else found


_remembered_number = lru_cache(1 << 15)(_npy_number)


def read_npy_points(data: bytes, count: int) -> bytes | str:
    """Return `count` (x, y) points as float32 bytes, or a sentence that states why there are none.

    The array may have any shape of 2 * `count` elements, x and y interleaved.
    """
    loaded = _load_array(data)
    if isinstance(loaded, str):
        return loaded
    if loaded.size != 2 * count:
        return f"{loaded.size} numbers instead of {2 * count}"
    if loaded.dtype.kind not in "UTSfiu":
        return f"an array of type {loaded.dtype} instead of numbers"
    try:
        found = loaded.astype(np.float64).reshape(1, -1)
    except (ValueError, OverflowError):
        return "text that is not numbers"
    single, finite = to_single(found)
    return single.tobytes() if finite.all() else "coordinates that are not finite numbers"


def _load_array(data: bytes) -> NDArray[np.generic] | str:
    """Load an array of numbers or text, or return a sentence that states why this fails."""
    if not data:
        return "an empty file"
    if len(data) > _MAX_NPY:
        return f"{len(data):,} bytes instead of a few numbers"
    if not data.startswith(_NPY_MAGIC):
        return "not a .npy file"
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header makes NumPy raise almost anything
        if "allow_pickle" in str(error):
            return "pickled objects, which can run code and are not read; save it as plain numbers"
        return " ".join(str(error).split())[:200] or type(error).__name__
    if not isinstance(loaded, np.ndarray):
        return "not a .npy file"
    if loaded.dtype.kind == "U":
        # NumPy does not check whether these are characters, and fails when one is taken out.
        try:
            loaded.astype(loaded.dtype.newbyteorder("<")).tobytes().decode("utf-32-le")
        except UnicodeDecodeError:
            return "text that is not Unicode"
    return loaded


def to_single(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Convert rows of coordinates to float32; also return which rows are finite, bool (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = points.astype("<f4")
    return single, np.isfinite(single).all(axis=1)
