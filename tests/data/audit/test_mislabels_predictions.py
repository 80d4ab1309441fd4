"""Predictions are matched with the split that they are for, or refused with the reason."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from affectnet.data.audit.mislabels import suspect_labels
from affectnet.data.audit.scan import DatasetRows
from affectnet.errors import DataError
from affectnet.labels import PROBABILITY_COLUMNS


@pytest.fixture
def rows() -> DatasetRows:
    """Two splits of 80 faces with the same ids; eight faces of `test` have no expression."""
    expression = np.concatenate([np.arange(80) % 8, (np.arange(80) + 3) % 8]).astype(np.int8)
    expression[152:] = -1
    ids = [f"{i:03}" for i in range(80)] * 2
    split = np.repeat(np.array([0, 1], np.int8), 80)
    nothing = np.full(160, np.nan, np.float32)
    return DatasetRows(("train", "test"), ids, split, expression, nothing, nothing)


def predictions(rows: DatasetRows, split: str) -> pd.DataFrame:
    """A sure and right model's predictions of a split, in another order, wrong on two faces."""
    start = rows.start(split)
    truth = rows.expression[start : start + 80].astype(int)
    guess = np.where(truth < 0, 0, truth)
    guess[[5, 6]] = (guess[[5, 6]] + 1) % 8
    probs = np.full((80, 8), 0.01)
    probs[np.arange(80), guess] = 0.93
    table = pd.DataFrame(probs, columns=list(PROBABILITY_COLUMNS))
    table.insert(0, "id", rows.ids[start : start + 80])
    table["expression"] = pd.array(np.where(truth < 0, None, truth), dtype="Int8")
    return table.sample(frac=1, random_state=0)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_split_is_told_by_the_truth(
    kind: str, split: str, rows: DatasetRows, tmp_path: Path
) -> None:
    file = tmp_path / f"p.{kind}"
    table = predictions(rows, split)
    if kind == "csv":
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file)
    found = suspect_labels(file, rows)
    assert found.split == split
    assert found.n == (80 if split == "train" else 72)
    assert sorted(found.rows.tolist()) == [rows.start(split) + 5, rows.start(split) + 6]
    given = rows.expression[found.rows]
    assert found.found.suggested.tolist() == [(label + 1) % 8 for label in given]


def test_without_the_truth_the_split_is_asked_for(rows: DatasetRows, tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    predictions(rows, "test").drop(columns="expression").to_parquet(file)
    with pytest.raises(DataError, match="fits the splits train and test equally; give its --split"):
        suspect_labels(file, rows)
    assert suspect_labels(file, rows, "test").split == "test"


def test_a_model_of_seven_classes_is_not_asked_about_contempt(
    rows: DatasetRows, tmp_path: Path
) -> None:
    file = tmp_path / "p.parquet"
    predictions(rows, "train").drop(columns="p_contempt").to_parquet(file)
    found = suspect_labels(file, rows, "train")
    assert found.n == 70
    assert 6 not in rows.expression[found.rows] or found.found.suggested.max() < 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="p_fear"), "has no column p_fear"),
        (lambda t: t.drop(columns="id"), "has no column id"),
        (lambda t: t.iloc[:0], "has no rows"),
        (lambda t: pd.concat([t, t]), "an id twice"),
        (lambda t: t.assign(id="x" + t["id"]), "of its 80 faces 0 are in any one split"),
        (lambda t: t.assign(p_fear=np.nan), "not finite"),
        (lambda t: t.assign(p_fear="much"), "cannot be parsed"),
    ],
)
def test_mistakes_are_named(change, says: str, rows: DatasetRows, tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    change(predictions(rows, "train")).to_parquet(file)
    with pytest.raises(DataError, match=says):
        suspect_labels(file, rows)


def test_a_column_that_comes_twice_is_named(rows: DatasetRows, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    table = predictions(rows, "train")
    pd.concat([table, table["p_fear"]], axis=1).to_csv(file, index=False)
    with pytest.raises(DataError, match=r"cannot be parsed: .*p_fear"):
        suspect_labels(file, rows)


def test_what_is_no_table_is_named(rows: DatasetRows, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        suspect_labels(tmp_path / "none.parquet", rows)
    for name in ("p.parquet", "p.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00 no table\n\x00\x01")
        with pytest.raises(DataError, match="--predictions"):
            suspect_labels(tmp_path / name, rows)
