"""Soft labels from a side file: CSV with a column `id` and one column an expression."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.part import Part
from affectnet.errors import DataError, suggest
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS


@dataclass(frozen=True)
class SoftMatch:
    """Where a file went: the part, how many of its rows met a face, and how many met none."""

    name: str
    part: str
    matched: int
    unmatched: int


def read_soft(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read a file of soft labels.

    The columns may stand in any order, further columns are passed over. Each row is divided by its
    sum, so counts of votes serve as well as shares.

    Returns:
        n ids and float32 (n, 8) in the order of `labels.EXPRESSIONS`, each row summing to 1.

    Raises:
        DataError: the file is missing, lacks a column, or has a bad row (told with its line).
    """
    ids: list[str] = []
    values: list[list[float]] = []
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            at, columns = _find_columns(path, header)
            for row in reader:
                if not row:
                    continue
                line = reader.line_num
                if len(row) != len(header):
                    raise _bad(path, line, f"{len(row)} values under {len(header)} columns")
                name = row[at].strip()
                if name in lines:
                    raise _bad(path, line, f"the id '{name}' stands on line {lines[name]} too")
                lines[name] = line
                ids.append(name)
                values.append(_shares(path, line, [row[c] for c in columns]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not ids:
        raise DataError(f"{path} has no rows under its header")
    return ids, np.array(values, np.float32)


def _find_columns(path: Path, header: list[str]) -> tuple[int, list[int]]:
    for name in ("id", *EXPRESSIONS):
        if header.count(name) != 1:
            fault = "more than one column" if name in header else "no column"
            raise DataError(
                f"{path} has {fault} '{name}'{suggest(name, set(header) - {name})}; the first "
                f"line must name id, {', '.join(EXPRESSIONS)}, in any order"
            )
    return header.index("id"), [header.index(name) for name in EXPRESSIONS]


def _shares(path: Path, line: int, texts: list[str]) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        wrong = next(text for text in texts if not _is_number(text))
        raise _bad(path, line, f"'{wrong}' is no number") from None
    total = math.fsum(numbers)
    if not all(0 <= number < math.inf for number in numbers) or not 0 < total < math.inf:
        shown = ", ".join(texts)
        raise _bad(path, line, f"{shown}: shares must be 0 or more, and not all 0")
    return [number / total for number in numbers]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bad(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}; mend or remove the line")


def apply_soft(
    files: Sequence[str], parts: Mapping[str, Part], names: Mapping[str, str]
) -> list[SoftMatch]:
    """Give the faces their soft labels, `Part.soft`.

    Ids of AffectNet's two parts collide, so a file must belong to one part. `PART=FILE` says which;
    a bare `FILE` goes to the part that alone holds any of its ids, and is asked about when both do.
    A part may have several files.

    Args:
        files: paths, or `PART=path`.
        parts: the parts as read.
        names: what a user calls a part -> its name in `parts`, as {'train': 'train_set'}.

    Raises:
        DataError: a file cannot be read, fits no part, or may fit two; or two give the same id.
    """
    matches = []
    rows = {name: {face: i for i, face in enumerate(part.ids)} for name, part in parts.items()}
    known = {name: {line.id for line in part.dropped} for name, part in parts.items()}
    for given in files:
        chosen, path = _split_given(given, names)
        if chosen is not None and names[chosen] not in parts:
            raise DataError(
                f"--soft {given}: {names[chosen]} was not read, only {', '.join(parts)}"
            )
        ids, values = read_soft(path)
        found = {
            name: sum(i in rows[name] or i in known[name] for i in ids)
            for name in parts
            if chosen is None or name == names[chosen]
        }
        part_name = _choose(path, len(ids), found, names, chosen)
        part = parts[part_name]
        if part.soft is None:
            part.soft = np.full((len(part), N_EXPRESSIONS), np.nan, np.float32)
        matched = 0
        for name, shares in zip(ids, values, strict=True):
            row = rows[part_name].get(name)
            if row is None:
                continue
            if not np.isnan(part.soft[row, 0]):
                raise DataError(
                    f"{path} gives soft labels of '{name}' ({part_name}) once more; give one file"
                )
            part.soft[row] = shares
            matched += 1
        unmatched = len(ids) - sum(i in rows[part_name] or i in known[part_name] for i in ids)
        matches.append(SoftMatch(str(path), part_name, matched, unmatched))
    return matches


def _split_given(given: str, names: Mapping[str, str]) -> tuple[str | None, Path]:
    start, equals, rest = given.partition("=")
    return (start, Path(rest)) if equals and start in names else (None, Path(given))


def _choose(
    path: Path, total: int, found: dict[str, int], names: Mapping[str, str], chosen: str | None
) -> str:
    """Return the one part in which a file's ids are found."""
    holding = [name for name, count in found.items() if count]
    ask = " or ".join(f"--soft {name}={path.name}" for name in names)
    if len(holding) > 1:
        counted = " and ".join(f"{found[name]:,} of them in {name}" for name in holding)
        raise DataError(f"{path}: its {total:,} ids are found in both parts, {counted}; say {ask}")
    if not holding:
        where = f"{names[chosen]}" if chosen else "what was read"
        raise DataError(f"{path}: not one of its {total:,} ids is an id of {where}")
    if chosen is None and 2 * found[holding[0]] < total:
        raise DataError(
            f"{path}: only {found[holding[0]]:,} of its {total:,} ids are found in {holding[0]}; "
            f"perhaps it belongs to a part that was not read; if it does not, say {ask}"
        )
    return holding[0]
