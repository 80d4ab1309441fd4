"""Soft labels from a separate file: CSV with a column `id` and one column per expression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.annotations import Bad, as_unicode, open_csv, shares
from affectnet.data.readers.release_part import ReleasePart
from affectnet.errors import DataError, suggest
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS


@dataclass(frozen=True)
class SoftMatch:
    """The part that a file belongs to, and how many of its ids are faces of it or are unknown."""

    name: str
    part: str
    matched: int
    unmatched: int


def read_soft(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read a file of soft labels.

    The columns may be in any order, further columns are ignored. Each row is divided by its sum, so
    counts of votes can be given as well as shares.

    Returns:
        n ids and float32 (n, 8) in the order of `labels.EXPRESSIONS`, each row summing to 1.

    Raises:
        DataError: the file is missing, lacks a column, or has a bad row, whose line is named.
    """
    values = []
    lines: dict[str, int] = {}
    with open_csv(path) as rows:
        header = [name.strip() for name in next(rows, (0, []))[1]]
        at, columns = _find_columns(path, header)
        for line, row in rows:
            if len(row) != len(header):
                detail = f"{len(row)} values, but there are {len(header)} columns"
                raise _bad(path, line, detail)
            name = row[at].strip()
            if name != as_unicode(name):
                raise _bad(path, line, f"the id '{as_unicode(name)}' is not text in UTF-8")
            if name in lines:
                raise _bad(path, line, f"the id '{name}' is on line {lines[name]} too")
            lines[name] = line
            try:
                values.append(shares([row[column] for column in columns], "shares"))
            except Bad as bad:
                raise _bad(path, line, bad.fault[1]) from None
    if not values:
        raise DataError(f"{path} has no rows below its header")
    return list(lines), np.array(values, np.float32)


def _find_columns(path: Path, header: list[str]) -> tuple[int, list[int]]:
    if any(name != as_unicode(name) for name in header):
        raise DataError(f"{path} is not a CSV file in UTF-8")
    for name in ("id", *EXPRESSIONS):
        if header.count(name) != 1:
            fault = "more than one column" if name in header else "no column"
            raise DataError(
                f"{path} has {fault} '{name}'{suggest(name, set(header) - {name})}; the first "
                f"line must name id, {', '.join(EXPRESSIONS)}, in any order"
            )
    return header.index("id"), [header.index(name) for name in EXPRESSIONS]


def _bad(path: Path, line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}; fix or remove the line")


def apply_soft(
    files: Sequence[str], parts: Mapping[str, ReleasePart], names: Mapping[str, str]
) -> list[SoftMatch]:
    """Give the faces their soft labels, `ReleasePart.soft`.

    Ids of AffectNet's two parts collide, so a file must belong to one part. `PART=FILE` names it;
    a bare `FILE` belongs to the only part that has any of its ids. A part may have several files.

    Args:
        files: paths, or `PART=path`.
        parts: the parts as read.
        names: the user's name of a part -> its name in `parts`, as {'train': 'train_set'}.

    Raises:
        DataError: a file cannot be read, fits no part, or may fit two; or two have the same id.
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
        for name, label in zip(ids, values, strict=True):
            row = rows[part_name].get(name)
            if row is None:
                continue
            if not np.isnan(part.soft[row, 0]):
                raise DataError(
                    f"{path} gives soft labels of '{name}' ({part_name}) again; give one file"
                )
            part.soft[row] = label
            matched += 1
        matches.append(SoftMatch(str(path), part_name, matched, len(ids) - found[part_name]))
    return matches


def _split_given(given: str, names: Mapping[str, str]) -> tuple[str | None, Path]:
    start, equals, rest = given.partition("=")
    return (start, Path(rest)) if equals and start in names else (None, Path(given))


def _choose(
    path: Path, total: int, found: dict[str, int], names: Mapping[str, str], chosen: str | None
) -> str:
    """Return the only part that has ids of a file."""
    matching = [name for name, count in found.items() if count]
    ask = " or ".join(f"--soft {name}={path.name}" for name in names)
    if len(matching) > 1:
        counted = " and ".join(f"{found[name]:,} of them in {name}" for name in matching)
        raise DataError(f"{path}: its {total:,} ids are in both parts, {counted}; give {ask}")
    if not matching:
        where = names[chosen] if chosen else "what was read"
        raise DataError(f"{path}: none of its {total:,} ids is an id of {where}")
    if chosen is None and 2 * found[matching[0]] < total:
        raise DataError(
            f"{path}: only {found[matching[0]]:,} of its {total:,} ids are in {matching[0]}; "
            f"it may belong to a part that was not read; if not, give {ask}"
        )
    return matching[0]
