"""Tables written row by row hold what was written, whole, after an interruption too."""

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.result_files import SCHEMA, ResultWriter
from affectnet.inference.results import COLUMNS, FaceResult, PictureResult
from affectnet.labels import EXPRESSIONS

POINTS = tuple((float(i), i + 0.5) for i in range(5))
FACE = FaceResult(
    Box(1.25, -2.0, 30.0, 40.0), POINTS, 0.9, EXPRESSIONS, (0.3,) + (0.1,) * 7, -0.123456789, 1.0
)
RESULTS = [
    PictureResult('a, "b"\n.jpg', 10, 20, (FACE, FACE)),
    PictureResult("ünï.jpg", 10, 20),
    PictureResult("broken.jpg", None, None, reason="the file is empty"),
    PictureResult("bad\udcff.mp4", 10, 20, (FACE,), frame=3, time=0.12),
]


def write(path: Path) -> Path:
    with ResultWriter(path) as writer:
        for result in RESULTS:
            writer.write(result)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_have_one_row_per_face_and_one_per_image_without(kind: str, tmp_path) -> None:
    path = write(tmp_path / "sub" / f"r.{kind}")
    frame = pd.read_csv(path) if kind == "csv" else pq.read_table(path).to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["status"]) == ["ok", "ok", "no face", "unreadable", "ok"]
    assert frame["source"][0] == 'a, "b"\n.jpg'
    assert frame["source"][4] == "bad\\udcff.mp4"
    assert frame["reason"][3] == "the file is empty"
    assert frame["valence"][0] == pytest.approx(-0.123456789, abs=1e-6)
    assert frame["p_neutral"][1] == 0.3
    assert frame["mouth_left_y"][0] == 4.5
    assert frame["frame"].tolist()[4] == 3
    assert frame["valence"].isna().tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_holds_the_results(kind: str, tmp_path: Path) -> None:
    text = write(tmp_path / f"r.{kind}").read_text()
    output = json.loads(text) if kind == "json" else [json.loads(x) for x in text.splitlines()]
    assert output == [json.loads(json.dumps(result.to_dict())) for result in RESULTS]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_what_was_written_survives_an_interruption(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{kind}"
    with pytest.raises(KeyboardInterrupt), ResultWriter(path) as writer:
        writer.write(RESULTS[0])
        raise KeyboardInterrupt
    if kind == "csv":
        assert len(list(csv.reader(path.open()))) == 3
    elif kind == "parquet":
        assert pq.read_table(path).num_rows == 2
    else:
        assert len(json.loads(path.read_text())) in (1, len(RESULTS[0].to_dict()))


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_no_results_are_a_valid_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{kind}"
    with ResultWriter(path):
        pass
    if kind == "parquet":
        assert pq.read_table(path).schema.equals(SCHEMA)
    elif kind == "csv":
        assert path.read_text().strip() == ",".join(COLUMNS)
    else:
        assert path.read_text() in ("[]\n", "")


def test_parquet_is_written_in_groups(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "r.parquet") as writer:
        for _ in range(6000):
            writer.write(RESULTS[0])
    file = pq.ParquetFile(tmp_path / "r.parquet")
    assert file.metadata.num_rows == 12_000
    assert file.num_row_groups >= 2


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.csv, \.json"):
        ResultWriter(tmp_path / "r.xlsx")
