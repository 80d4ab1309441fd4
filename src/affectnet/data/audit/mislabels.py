"""Likely wrong labels, by confident learning from a model's probabilities for a split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from affectnet.data.audit.scan import DatasetRows
from affectnet.errors import DataError
from affectnet.labels import PROBABILITY_COLUMNS
from affectnet.seven import CONTEMPT, seven_probabilities

FLAT = 1e-6
"""Tolerance for rounding in comparisons with a class's threshold."""


@dataclass(frozen=True, slots=True)
class WrongLabels:
    """Result of confident learning on n labelled rows and K classes.

    Args:
        rows: positions of the likely wrong labels, the likeliest first.
        suggested: the more likely class of each.
        margin: probability of the given class minus that of the likeliest other, in [-1, 1]; `rows`
            are in ascending order of it.
        confident_joint: int (K, K), number of rows by given class and confident class.
        joint: float (K, K), estimated joint distribution of given and true class, sum 1.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    margin: NDArray[np.float64]
    confident_joint: NDArray[np.int64]
    joint: NDArray[np.float64]

    @property
    def estimated_fraction(self) -> float:
        """Estimated fraction of wrong labels, in [0, 1]: the joint off its diagonal."""
        return float(self.joint.sum() - np.trace(self.joint))


def find_wrong_labels(labels: NDArray[np.int64], probs: NDArray[np.float64]) -> WrongLabels:
    """Find labels that a model's out-of-sample probabilities confidently contradict.

    These 40 lines are cleanlab's rule; calling cleanlab would take about as many, and the package.

    A class's threshold is the mean probability of the class over the rows with its label. A row
    counts for the class that reaches its threshold, the most probable where several do (Northcutt,
    Jiang and Chuang 2021, "Confident learning", equation 1); rows off the diagonal of that
    confident joint are the candidates, ranked by normalised margin. The joint is the
    confident joint with each row scaled to the number of its labels (equation 3).

    Args:
        labels: int (n,), 0 to K - 1.
        probs: float (n, K), rows summing to 1.

    Raises:
        DataError: shapes differ, a label is out of range, or a probability is not finite.
    """
    labels = np.asarray(labels, np.int64)
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or len(probs) != len(labels):
        raise DataError(
            f"labels are {labels.shape} and probabilities {probs.shape}; one row of probabilities "
            "is needed per label"
        )
    k = probs.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < k):
        raise DataError(f"labels lie in {labels.min()} to {labels.max()}, not in 0 to {k - 1}")
    if not np.isfinite(probs).all():
        raise DataError("some probabilities are not finite numbers; predict these faces again")
    every = np.arange(len(labels))
    own = probs[every, labels]
    count = np.bincount(labels, minlength=k)
    total = np.bincount(labels, weights=own, minlength=k)
    # Nothing reaches the threshold of a class without labels.
    threshold = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    reached = probs >= threshold - FLAT
    confident = reached.any(axis=1)
    true = np.where(reached, probs, -1.0).argmax(axis=1)
    joint = np.zeros((k, k), np.int64)
    np.add.at(joint, (labels[confident], true[confident]), 1)

    rows = np.flatnonzero(confident & (true != labels))
    others = probs.copy()
    others[every, labels] = -np.inf
    margin = own - (others.max(axis=1) if k > 1 else 0)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return WrongLabels(rows, true[rows], margin[rows], joint, _calibrated(joint, count))


def _calibrated(joint: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    known = joint.astype(np.float64)
    # A label without confident rows is assumed to be correct.
    empty = known.sum(axis=1) == 0
    known[empty, empty] = 1.0
    scaled: NDArray[np.float64] = known / known.sum(axis=1, keepdims=True) * count[:, None]
    result: NDArray[np.float64] = scaled / max(count.sum(), 1)
    return result


@dataclass(frozen=True, slots=True)
class Suspects:
    """The likely wrong labels of one split; `rows` are numbered as in `DatasetRows`."""

    split: str
    n: int
    rows: NDArray[np.int64]
    found: WrongLabels


def suspect_labels(
    file: Path | str, rows: DatasetRows, split: str | None = None, without_contempt: bool = False
) -> Suspects:
    """Find the labels that predictions in a file confidently contradict.

    Args:
        file: Parquet or CSV with `id` and `p_neutral` ... `p_contempt`; other columns are ignored
            except `expression`, which distinguishes splits with the same ids. Without `p_contempt`
            the model has seven classes, and faces of contempt are left out.
        rows: all rows of the dataset.
        split: the split that was predicted; determined by the ids where None.
        without_contempt: leave out faces of contempt, and its probability.

    Raises:
        DataError: the file cannot be read, lacks a column, or its faces are not in the dataset.
    """
    file = Path(file)
    ids, probs, expression = _read(file)
    place, name = _rows_of(file, ids, expression, rows, split)
    labels = rows.expression[place].astype(np.int64)
    valid = labels >= 0
    if without_contempt or not probs[:, -1].any():
        valid &= labels != CONTEMPT
        probs = seven_probabilities(probs)
    found = find_wrong_labels(labels[valid], probs[valid])
    return Suspects(name, int(valid.sum()), place[valid][found.rows], found)


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
        raise DataError(f"--predictions {file} is not a Parquet or CSV file: {reason}") from error
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
            # A model with seven classes leaves p_contempt empty.
            empty = name in names and table.column(name).null_count == table.num_rows
            if name in names and not (empty and name == PROBABILITY_COLUMNS[-1]):
                column = table.column(name).cast(pa.float64())
                probs[:, i] = column.to_numpy(zero_copy_only=False)
        expression = None
        if "expression" in names:
            # Other codings of the truth, such as text, are ignored.
            column = table.column("expression")
            if pa.types.is_integer(column.type):
                filled = column.fill_null(-1).cast(pa.int64())
                expression = filled.to_numpy(zero_copy_only=False)
        ids: list[str] = table.column("id").cast(pa.string()).to_pylist()
    except (pa.ArrowException, KeyError) as error:  # KeyError: a duplicate column
        reason = " ".join(str(error).split())
        raise DataError(f"--predictions {file} cannot be parsed: {reason}") from error
    return ids, probs, expression


def _rows_of(
    file: Path,
    ids: list[str],
    expression: NDArray[np.int64] | None,
    rows: DatasetRows,
    split: str | None,
) -> tuple[NDArray[np.int64], str]:
    """Return the row of each prediction, and the split that contains them all."""
    if len(set(ids)) < len(ids):
        raise DataError(f"--predictions {file} has an id twice; one row per face is needed")
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
            f"{' and '.join(name for _, name, _ in fitting)} equally; give its --split"
        )
    return fitting[0][2], fitting[0][1]
