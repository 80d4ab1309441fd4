"""A model's probabilities for the faces of a dataset, from `predictions.parquet` or a CSV file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from affectnet.data.audit.scan import Rows
from affectnet.data.audit.wrong_labels import WrongLabels, find_wrong_labels
from affectnet.errors import DataError
from affectnet.labels import PROBABILITY_COLUMNS


@dataclass(frozen=True, slots=True)
class Suspects:
    """The likely wrong labels of one split; `rows` counts over all splits, as in `Rows`."""

    split: str
    n: int
    rows: NDArray[np.int64]
    found: WrongLabels


def suspect_labels(
    file: Path, rows: Rows, split: str | None = None, without_contempt: bool = False
) -> Suspects:
    """Find the labels that the predictions in a file confidently contradict.

    Args:
        file: Parquet or CSV with `id` and `p_neutral` ... `p_contempt`; other columns are ignored,
            but for `expression`, which tells splits with the same ids apart. Without `p_contempt`
            the model knows seven classes, and faces of contempt are left out.
        rows: the dataset.
        split: the split that was predicted; found by the ids where not given.
        without_contempt: leave out faces of contempt, and its probability.

    Raises:
        DataError: the file cannot be read, lacks a column, or its faces are not in the dataset.
    """
    ids, probs, expression = _read(file)
    place, name = _rows_of(file, ids, expression, rows, split)
    labels = rows.expression[place].astype(np.int64)
    kept = labels >= 0
    if without_contempt or not probs[:, -1].any():
        kept &= labels < probs.shape[1] - 1
        probs = probs[:, :-1] / np.maximum(probs[:, :-1].sum(axis=1, keepdims=True), 1e-12)
    found = find_wrong_labels(labels[kept], probs[kept])
    return Suspects(name, int(kept.sum()), place[kept][found.rows], found)


def _read(file: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64] | None]:
    if not file.is_file():
        raise DataError(f"--predictions {file}: there is no such file")
    try:
        if file.suffix.lower() == ".csv":
            # Ids are text, also where they look like numbers: '007' is not '7'.
            as_text = pa.csv.ConvertOptions(column_types={"id": pa.string()})
            table = pa.csv.read_csv(file, convert_options=as_text)
        else:
            table = pa.parquet.read_table(file)
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"--predictions {file} is no Parquet or CSV file: {reason}") from error
    missing = [name for name in ("id", *PROBABILITY_COLUMNS[:-1]) if name not in names]
    if missing:
        raise DataError(
            f"--predictions {file} has no column {', '.join(missing)}; it needs id and "
            f"{PROBABILITY_COLUMNS[0]} ... {PROBABILITY_COLUMNS[-1]}, as `affectnet evaluate` "
            "writes them"
        )
    if table.num_rows == 0:
        raise DataError(f"--predictions {file} has no rows")
    probs = np.zeros((table.num_rows, len(PROBABILITY_COLUMNS)))
    try:
        for i, name in enumerate(PROBABILITY_COLUMNS):
            # A model of seven classes leaves p_contempt empty.
            empty = name in names and table.column(name).null_count == table.num_rows
            if name in names and not (empty and name == PROBABILITY_COLUMNS[-1]):
                column = table.column(name).cast(pa.float64())
                probs[:, i] = column.to_numpy(zero_copy_only=False)
        expression = None
        if "expression" in names:
            # Text and other codings of the truth are not needed here.
            column = table.column("expression")
            if pa.types.is_integer(column.type):
                filled = column.fill_null(-1).cast(pa.int64())
                expression = filled.to_numpy(zero_copy_only=False)
        ids: list[str] = table.column("id").cast(pa.string()).to_pylist()
    except (pa.ArrowException, KeyError) as error:  # KeyError: a column comes twice
        reason = " ".join(str(error).split())
        raise DataError(f"--predictions {file} cannot be understood: {reason}") from error
    return ids, probs, expression


def _rows_of(
    file: Path,
    ids: list[str],
    expression: NDArray[np.int64] | None,
    rows: Rows,
    split: str | None,
) -> tuple[NDArray[np.int64], str]:
    """The row of each prediction, and the split that holds them all."""
    if len(set(ids)) < len(ids):
        raise DataError(f"--predictions {file} has an id twice; one row a face is needed")
    fitting = []
    most = 0
    for name in rows.splits if split is None else (split,):
        of_split = np.flatnonzero(rows.split == rows.splits.index(name))
        where = {rows.ids[row]: row for row in of_split.tolist()}
        known = [where.get(one, -1) for one in ids]
        most = max(most, sum(row >= 0 for row in known))
        if min(known) >= 0:
            place = np.array(known, np.int64)
            agree = 1.0
            if expression is not None:
                agree = float((rows.expression[place] == expression).mean())
            fitting.append((agree, name, place))
    if not fitting:
        raise DataError(
            f"--predictions {file}: of its {len(ids):,} faces {most:,} are in "
            f"{'any one split' if split is None else f'split {split}'} of this dataset; "
            "predict with this dataset, and give its --split"
        )
    fitting.sort(key=lambda fit: -fit[0])
    if len(fitting) > 1 and fitting[0][0] - fitting[1][0] < 0.1:
        raise DataError(
            f"--predictions {file} fits the splits "
            f"{' and '.join(name for _, name, _ in fitting)} alike; give its --split"
        )
    return fitting[0][2], fitting[0][1]
