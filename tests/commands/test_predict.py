"""`affectnet predict` from the outside: inputs of all kinds, tables, annotated copies, mistakes."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from affectnet import cli
from affectnet.commands.predict import predict
from affectnet.config import PredictConfig
from affectnet.errors import ConfigError, RunError
from affectnet.inference.predictor import load
from affectnet.models.affect_model import AffectModel

PHOTO = Path(__file__).parents[1] / "files" / "astronaut.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("m") / "run" / "model"
    AffectModel("cvnet", image_size=48).save_pretrained(folder)
    return str(folder.parent)


def encode(path: Path, frames: int, fps: float = 10) -> Path:
    photo = cv2.resize(cv2.imread(str(PHOTO)), (200, 236), interpolation=cv2.INTER_AREA)
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, (320, 240)
    )
    for i in range(frames):
        frame = np.full((240, 320, 3), 110, np.uint8)
        if i % 10 < 8:
            frame[2:238, 40 + i % 10 : 240 + i % 10] = photo
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(PHOTO, folder / "one.jpg")
    Image.open(PHOTO).resize((560, 660)).save(folder / "sub" / "one.png")
    Image.new("RGB", (64, 64), "gray").save(folder / "sub" / "wall.bmp")
    (folder / "empty.jpg").touch()
    (folder / "wrong.png").write_text("this is no image")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    encode(folder / "film.avi", 10)
    return folder


def test_a_folder_becomes_a_table_and_annotated_copies(model, album, tmp_path, capsys) -> None:
    out, drawn = tmp_path / "r.csv", tmp_path / "drawn"
    config = PredictConfig((str(album),), model=model, out=out, annotate=drawn)
    assert predict(config) == 0
    frame = pd.read_csv(out)
    by_source = {Path(str(k)).name: rows for k, rows in frame.groupby("source")}
    assert set(by_source) == {path.name for path in album.rglob("*.*")}
    assert by_source["one.jpg"]["status"].tolist() == ["ok"]
    assert by_source["wall.bmp"]["status"].tolist() == ["no face"]
    assert by_source["film.avi"]["status"].tolist() == ["ok"] * 8 + ["no face"] * 2
    assert by_source["film.avi"]["track"].dropna().unique().tolist() == [1]
    for name, message in (
        ("empty.jpg", "empty"),
        ("wrong.png", "not a JPEG"),
        ("broken.mp4", "cannot be opened"),
    ):
        assert by_source[name]["status"].tolist() == ["unreadable"]
        assert message in by_source[name]["reason"].iloc[0]
    output = capsys.readouterr().out
    assert "3 images and 10 frames: 10 faces, 3 without a face; 3 unreadable" in output
    assert "empty.jpg: the file is empty" in " ".join(output.split())
    assert sorted(str(path.relative_to(drawn)) for path in drawn.rglob("*.*")) == [
        "film.mp4",
        "film_over_time.png",
        "one.jpg",
        "sub/one.jpg",
        "sub/wall.jpg",
    ]
    plain = np.asarray(Image.open(PHOTO).convert("RGB")).astype(int)
    assert np.abs(np.asarray(Image.open(drawn / "one.jpg")) - plain).mean() > 3
    film = cv2.VideoCapture(str(drawn / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    (face,) = load(model).predict(PHOTO).faces
    row = by_source["one.jpg"].iloc[0]
    assert row["valence"] == pytest.approx(face.valence, abs=1e-5)
    assert row["expression"] == face.expression


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_every_kind_of_table(model: str, kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"r.{kind}"
    assert predict(PredictConfig((str(PHOTO),), model=model, out=out, faces="none")) == 0
    if kind == "parquet":
        assert pd.read_parquet(out)["width"].tolist() == [280.0]
    else:
        output = json.loads(out.read_text())
        (result,) = output if isinstance(output, list) else [output]
        assert result["faces"][0]["box"] == {"x": 0, "y": 0, "width": 280, "height": 330}


def test_without_out_the_terminal_shows_the_faces(model: str, capsys) -> None:
    assert cli.main(["predict", str(PHOTO), "--model", model]) == 0
    output = capsys.readouterr().out
    assert "astronaut.jpg" in output
    assert "1 image: 1 face" in output


def test_the_status_is_1_where_nothing_can_be_read(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert cli.main(["predict", str(tmp_path / "a.jpg"), "--model", model]) == 1
    assert cli.main(["predict", "99", "--model", model]) == 1  # no such camera


def test_all_mistakes_are_reported_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    config = PredictConfig(
        (str(PHOTO),), out=tmp_path / "r.xls", stride=0, min_score=7, annotate=PHOTO
    )
    with pytest.raises(ConfigError) as output:
        predict(config)
    for part in ("stride", "min_score is 7", ".parquet", "is a file"):
        assert part in str(output.value)
    assert list(tmp_path.iterdir()) == []


def test_earlier_results_are_replaced_only_with_overwrite(model: str, tmp_path: Path) -> None:
    config = PredictConfig(
        (str(PHOTO),), model=model, out=tmp_path / "r.csv", annotate=tmp_path / "drawn"
    )
    assert predict(config) == 0
    with pytest.raises(RunError, match="--overwrite"):
        predict(config)
    with pytest.raises(RunError, match=r"astronaut\.jpg already exists"):
        predict(PredictConfig((str(PHOTO),), model=model, annotate=tmp_path / "drawn"))
    again = PredictConfig(
        (str(PHOTO),),
        model=model,
        out=tmp_path / "r.csv",
        annotate=tmp_path / "drawn",
        overwrite=True,
    )
    assert predict(again) == 0
    with pytest.raises(RunError, match="no model at"):
        predict(PredictConfig((str(PHOTO),), model=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"no file, folder or camera 'x\.jpg'"):
        predict(PredictConfig(("x.jpg",), model=model))


def test_results_so_far_survive_an_interruption(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = encode(tmp_path / "long.avi", 200)
    out, drawn = tmp_path / "r.csv", tmp_path / "drawn"
    command = [sys.executable, "-m", "affectnet", "predict", str(film), "--model", model]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--annotate", str(drawn), "--video", "mp4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (out.exists() and out.stat().st_size > 5000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, complaint = process.communicate(timeout=120)
    assert process.returncode == 130, complaint
    assert "interrupted" in complaint
    assert "Traceback" not in complaint
    rows = pd.read_csv(out)
    assert f"{len(rows)} frames" in output.replace(",", "")
    assert 10 < len(rows) < 200
    assert (drawn / "long_over_time.png").is_file()
    video = cv2.VideoCapture(str(drawn / "long.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 10
    # The same command with --resume ends as if it had never been stopped.
    assert "incomplete; --resume continues" in output
    again = [*command[3:], "--out", str(out), "--resume"]
    assert cli.main([*again, "--seconds", "6", "--flip"]) == 2
    differ = "these differ: flip (was False, now True), seconds (was None, now 6.0); give the same"
    assert differ in capsys.readouterr().err
    assert len(pd.read_csv(out)) == len(rows)
    assert cli.main([*again, "--batch-size", "8"]) == 0
    assert len(pd.read_csv(out)) == 200
    assert {file.name for file in tmp_path.iterdir()} == {"long.avi", "r.csv", "drawn"}


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a film and something unreadable, and complete results in all forms."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("a.jpg", "b.jpg", "d.jpg", "e.jpg"):
        (folder / "in" / name).parent.mkdir(exist_ok=True)
        shutil.copy(PHOTO, folder / "in" / name)
    encode(folder / "in" / "c.avi", 10)
    (folder / "in" / "broken.jpg").touch()
    for kind in ("csv", "json", "jsonl", "parquet"):
        drawn = folder / "drawn" if kind == "csv" else None
        config = PredictConfig((str(folder / "in"),), model=model, out=folder / f"r.{kind}")
        assert predict(dataclasses.replace(config, annotate=drawn, video="mp4")) == 0
    return folder


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_a_killed_prediction_is_resumed_to_the_same_results(
    model: str, whole: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was killed within the film: the film is predicted again, what was before it is not."""
    out = tmp_path / f"r.{kind}"
    command = ["predict", str(whole / "in"), "--model", model, "--out", str(out)]
    assert cli.main(command) == 0
    in_place = kind in ("csv", "jsonl")
    if in_place:
        content, kept = out.read_bytes(), out
    else:
        lines = json.loads(out.read_text()) if kind == "json" else rows_of(out)
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        kept = out.with_name(f".{out.name}.part")
        out.unlink()
    middle = content.index(b"c.avi", content.index(b"c.avi") + 2000)
    kept.write_bytes(content[:middle])
    capsys.readouterr()
    assert cli.main([*command, "--resume"]) == 0
    output = capsys.readouterr().out
    assert "2 images and 10 frames" in output
    assert "3 inputs finished before" in output
    if kind == "parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(whole / "r.parquet"))
    else:
        assert out.read_bytes() == (whole / f"r.{kind}").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_resuming_completes_the_annotated_copies(model: str, whole: Path, tmp_path: Path) -> None:
    out, drawn = tmp_path / "r.csv", tmp_path / "drawn"
    shutil.copytree(whole / "drawn", drawn)
    content = (whole / "r.csv").read_bytes()
    out.write_bytes(content[: content.index(b"d.jpg") + 100])
    (drawn / "a.jpg").unlink()  # its row was written, its copy was not
    (drawn / "d.jpg").unlink()
    before = (drawn / "b.jpg").stat().st_mtime_ns
    config = PredictConfig((str(whole / "in"),), model=model, out=out, annotate=drawn, video="mp4")
    with pytest.raises(RunError, match="continue it with --resume"):
        predict(config)
    assert predict(dataclasses.replace(config, resume=True)) == 0
    assert out.read_bytes() == content
    files = {file.name for file in drawn.iterdir()}
    assert files == {"a.jpg", "b.jpg", "c.mp4", "c_over_time.png", "d.jpg", "e.jpg"}
    assert (drawn / "b.jpg").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="leave one out"):
        predict(dataclasses.replace(config, resume=True, overwrite=True))
    with pytest.raises(ConfigError, match="give --out"):
        predict(dataclasses.replace(config, resume=True, out=None))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are Unix's")
def test_the_summary_is_true_on_a_full_disk(model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    code = (
        "import resource, sys; from affectnet.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); sys.exit(main(sys.argv[1:]))"
    )
    command = ["predict", str(whole / "in"), "--model", model, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the disk is full; free some space, then continue with --resume" in done.stderr
    shown = re.search(r"(\d+) faces?.* -> .*--resume continues", done.stdout)
    assert shown, done.stdout
    assert int(shown[1]) == (pd.read_csv(out)["status"] == "ok").sum() < 14
    assert cli.main([*command, "--resume"]) == 0
    assert out.read_bytes() == (whole / "r.csv").read_bytes()


def test_two_outputs_are_never_one_file(tmp_path: Path) -> None:
    """The second would replace the first, which has just been written."""
    config = PredictConfig(
        (str(PHOTO),), out=tmp_path / "r.csv", summary=tmp_path / "sub" / ".." / "r.csv"
    )
    with pytest.raises(ConfigError, match="--out and --summary are the same file"):
        predict(config)
    episodes = dataclasses.replace(
        config, out=tmp_path / "s_episodes.csv", summary=tmp_path / "s.csv"
    )
    with pytest.raises(ConfigError, match="--out and the episodes of --summary are the same"):
        predict(episodes)
