"""Tables written row by row hold what was written, whole, after an interruption too."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from affectnet.data.crop import Box
from affectnet.errors import ConfigError, DataError
from affectnet.inference.result_files import ResultWriter, plain
from affectnet.inference.results import FaceResult, PictureResult, columns
from affectnet.labels import EXPRESSIONS

COLUMNS = columns(film=True)
POINTS = tuple((float(i), i + 0.5) for i in range(5))
FACE = FaceResult(
    Box(1.25, -2.0, 30.0, 40.0), POINTS, 0.9, EXPRESSIONS, (0.3,) + (0.1,) * 7, -0.123456789, 1.0
)
RESULTS = [
    PictureResult('a, "b"\n.jpg', 10, 20, (FACE, FACE)),
    PictureResult("ünï.jpg", 10, 20),
    PictureResult("broken.jpg", None, None, reason="the file is empty"),
    PictureResult("bad\udcff.mp4", 10, 20, (FACE,), frame=3, time=0.12),
    PictureResult("bad\udcff.mp4", 10, 20, (FACE,), frame=4, time=0.16),
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
    assert list(frame["status"]) == ["ok", "ok", "no face", "unreadable", "ok", "ok"]
    assert frame["source"][0] == 'a, "b"\n.jpg'
    assert frame["source"][4] == "bad\\udcff.mp4"
    assert frame["reason"][3] == "the file is empty"
    assert frame["valence"][0] == pytest.approx(-0.123456789, abs=1e-6)
    assert frame["p_neutral"][1] == 0.3
    assert frame["mouth_left_y"][0] == 4.5
    assert frame["frame"].tolist()[4] == 3
    assert frame["valence"].isna().tolist() == [False, False, True, True, False, False]


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
        types = {str: "string", int: "int64", float: "double", bool: "bool"}
        found = [(field.name, str(field.type)) for field in pq.read_schema(path)]
        assert found == [(name, types[kind]) for name, kind in COLUMNS.items()]
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


KINDS = ("csv", "json", "jsonl", "parquet")


def same(path: Path, whole: Path) -> bool:
    if path.suffix == ".parquet":
        return pq.read_table(path).equals(pq.read_table(whole))
    return path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_results_cut_off_anywhere_are_resumed_to_the_same_file(kind: str, tmp_path: Path) -> None:
    """What `kill -9` and a torn write leave: a beginning of the file in which results are kept."""
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"r.{kind}"
    in_place = kind in ("csv", "jsonl")
    kept = path if in_place else path.with_name(f".{path.name}.part")
    writer = ResultWriter(whole)
    for result in RESULTS:
        writer.write(result)
    writer.flush()
    content = (whole if in_place else whole.with_name(f".{whole.name}.part")).read_bytes()
    writer.complete()
    with writer:
        pass
    names = [plain(str(result.source)) for result in RESULTS]
    order = list(dict.fromkeys(names))
    most = 0
    for size in [*range(0, len(content), 13), len(content)]:
        path.unlink(missing_ok=True)
        kept.write_bytes(content[:size])
        with ResultWriter(path, resume=True) as writer:
            assert sorted(writer.finished) == sorted(order[: len(writer.finished)])
            most = max(most, len(writer.finished))
            for name, result in zip(names, RESULTS, strict=True):
                if name not in writer.finished:
                    writer.write(result)
            writer.complete()
        assert same(path, whole), size
        assert {file.name for file in tmp_path.iterdir()} == {whole.name, path.name}
    assert most == len(order) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_results_after_an_interruption_are_resumed(kind: str, tmp_path: Path) -> None:
    whole, path = write(tmp_path / f"whole.{kind}"), tmp_path / f"r.{kind}"
    with pytest.raises(KeyboardInterrupt), ResultWriter(path) as writer:
        writer.write(RESULTS[0])
        writer.write(RESULTS[1])
        raise KeyboardInterrupt
    assert "--resume continues" in writer.where
    with ResultWriter(path, resume=True) as writer:
        assert writer.finished == {plain(str(RESULTS[0].source))}
        for result in RESULTS[1:]:
            writer.write(result)
        writer.complete()
    assert same(path, whole)
    assert writer.where == str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_file_stays_until_the_new_one_is_complete(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{kind}"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), ResultWriter(path) as writer:
        writer.write(RESULTS[0])
        writer.write(RESULTS[1])
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert "unchanged" in writer.where
    with ResultWriter(path, resume=True) as writer:
        assert len(writer.finished) == 1
        for result in RESULTS[1:]:
            writer.write(result)
        writer.complete()
    assert same(path, write(tmp_path / f"whole.{kind}"))
    path.write_text("old")
    with ResultWriter(path) as writer:
        assert writer.finished == set()
        writer.complete()
    assert same(path, write_none(tmp_path / f"none.{kind}"))
    assert len(list(tmp_path.iterdir())) == 3


def write_none(path: Path) -> Path:
    with ResultWriter(path):
        pass
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_file_is_not_resumed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{kind}"
    for text in ("years of work\n", '{"a": 1}\n{"b": 2}\n', "[1, 2]\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="cannot be resumed"):
            ResultWriter(path, resume=True)
        assert path.read_text() == text
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are Unix's")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_only_whole_results_count(kind: str, tmp_path: Path) -> None:
    """In a process of its own, since its files may have no more than 4,000 bytes."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_result_files import FACE, PictureResult, ResultWriter, Path
path, saved = Path(sys.argv[1]), []
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
writer = ResultWriter(path, on_saved=saved.append)
try:
    with writer:
        for number in range(60):
            writer.write(PictureResult(f"{number}.jpg", 10, 20, (FACE,)))
            writer.flush()
except OSError:
    print(len(saved), writer.where)
"""
    path = tmp_path / f"r.{kind}"
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    saved, where = done.stdout.split(maxsplit=1)
    assert 3 < int(saved) < 60
    assert "--resume continues" in where
    with ResultWriter(path, resume=True) as writer:
        assert len(writer.finished) == int(saved) - 1
        for number in range(int(saved) - 1, 60):
            writer.write(PictureResult(f"{number}.jpg", 10, 20, (FACE,)))
        writer.complete()
    with ResultWriter(tmp_path / f"whole.{kind}") as writer:
        for number in range(60):
            writer.write(PictureResult(f"{number}.jpg", 10, 20, (FACE,)))
    assert same(path, tmp_path / f"whole.{kind}")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.csv, \.json"):
        ResultWriter(tmp_path / "r.xlsx")


def test_formulas_are_escaped_on_request_and_resumed(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0.jpg", "+1.jpg", "-1.jpg", "@a.jpg", "'b.jpg", "plain=1.jpg"]
    results = [PictureResult(name, 1, 1) for name in names]
    for escape in (False, True):
        path = tmp_path / f"{escape}.csv"
        with ResultWriter(path, escape_formulas=escape) as writer:
            for result in results:
                writer.write(result)
            writer.complete()
        with path.open(newline="") as file:
            written = [row[0] for row in csv.reader(file)][1:]
        assert written == [f"'{n}" if escape and n[0] != "p" else n for n in names]
        with ResultWriter(path, resume=True, escape_formulas=escape) as writer:
            assert writer.finished == set(names[:-1])
