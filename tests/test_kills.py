"""SIGKILL and Ctrl-C at random moments of every command.

An output is the old one or the new one, complete; the next start leaves no temporary file; a
resumed command ends as an uninterrupted one. `pytest -m slow tests/test_kills.py` takes each
command 20 times with each signal; without `-m slow` two commands are stopped twice.
"""

import contextlib
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from affectnet.run import RunFolder

COMMON = [
    *("--backbone", "test_convnext", "--image-size", "32", "--no-pretrained", "--epochs", "6"),
    *("--batch-size", "32", "--workers", "0", "--accelerator", "cpu", "--precision", "32"),
]


def run_with_kills(command: list[str], kills: int, longest: float, seed: int) -> list[float]:
    """Run an `affectnet` command, kill it up to `kills` times at random times, then let it finish.

    A command that ends before its kill is not counted. Returns the seconds after which it was
    killed.
    """
    draw = random.Random(seed)
    times: list[float] = []
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        delay = draw.uniform(0, longest)
        process = subprocess.Popen(
            [sys.executable, "-m", "affectnet", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
        )
        try:
            _, stderr = process.communicate(timeout=delay)
            assert process.returncode == 0, stderr.decode()
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            times.append(delay)
    done = subprocess.run(
        [sys.executable, "-m", "affectnet", *command],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return times


def uninterrupted(command: list[str]) -> float:
    started = time.monotonic()
    assert run_with_kills(command, 0, 0, 0) == []
    return time.monotonic() - started


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    states = torch.load(run.last, weights_only=True)
    return states["state_dict"]


def rows(run: RunFolder) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the times."""
    with run.metrics.open(newline="") as file:
        return [{n: v for n, v in row.items() if n != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a: RunFolder, b: RunFolder) -> None:
    assert rows(a) == rows(b)
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def train_command(data: Path, runs: Path, *flags: str) -> list[str]:
    return ["train", "--data", str(data), "--runs", str(runs), "--name", "r", *COMMON, *flags]


KILLS = int(os.environ.get("AFFECTNET_KILLS", "20"))
"""Stops of each command with each signal."""
SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])

SERVER = """
import contextlib, importlib, json, os, signal, sys
from affectnet.cli import main
signal.signal(signal.SIGINT, signal.SIG_IGN)  # until a command runs
for line in sys.stdin:
    command, log = json.loads(line)
    pid = os.fork()
    if pid == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = main(command)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        with open(log + ".modules", "w") as file:
            file.write(" ".join(sys.modules))
        os._exit(status)
    print(pid, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        with open(log + ".modules") as file:
            for name in file.read().split():
                if name not in sys.modules:
                    with contextlib.suppress(Exception):
                        importlib.import_module(name)
    print(status, flush=True)
"""


class Server:
    """Runs each command in a fork of a process that has imported all that the last one needed.

    Imports take most of the time of a short command; a signal is to meet its work.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def _start(self, command: list[str]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, str(self.log)]) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run(self, command: list[str]) -> float:
        """Run a command to its end; return the seconds."""
        self._start(command)
        started = time.monotonic()
        assert int(self._line()) == 0, self.log.read_text()
        return time.monotonic() - started

    def stop(self, command: list[str], number: int, delay: float) -> bool:
        """Run a command and send it a signal; return whether that was before its end."""
        pid = self._start(command)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        status, output = int(self._line()), self.log.read_text()
        assert status in (0, -number if number == signal.SIGKILL else 130), output
        assert "Traceback" not in output, output
        assert status != 130 or "error: interrupted; nothing" in output.splitlines()[-1], output
        return status != 0

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server") / "log")
    yield one
    one.close()


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    runs = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "affectnet", *train_command(drawn, runs)]
    subprocess.run(command, check=True, capture_output=True)
    return runs / "r"


@pytest.fixture(scope="session")
def album(photo_file: Path, walk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images and a film."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(12):
        shutil.copy(photo_file, folder / f"{number:02}.jpg")
    shutil.copy(walk, folder / "05.avi")
    return folder


def content(path: Path) -> dict[str, str]:
    """Hashes of a file, or of all files in a folder, by their names."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        str(file.relative_to(path.parent)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


VICTIMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # name: command, one variant, another variant, outputs
    "ingest": ("ingest {tars} --out {out}/ds", ("--seed", "1"), ("--seed", "2"), ("ds",)),
    **{
        f"predict {kind}": (
            "predict {album} --smoothing none --out {out}/r." + kind,
            (),
            ("--flip",),
            (f"r.{kind}",),
        )
        for kind in ("csv", "json", "jsonl", "parquet")
    },
    "predict annotated": (
        "predict {album} --video mp4 --annotate {out}/drawn",
        (),
        ("--faces", "none"),
        ("drawn/00.jpg", "drawn/11.jpg", "drawn/05.mp4"),
    ),
    "evaluate": (
        "evaluate {trained} --data {data} --accelerator cpu --workers 0 --resamples 50 --no-explain"
        " --out {out}/e",
        (),
        ("--flip",),
        ("e/evaluation/test/predictions.parquet", "e/evaluation/test/metrics.json"),
    ),
    **{
        f"report {kind}": (
            "report {evaluated} --no-explain --out {out}/r." + kind,
            ("--data", "{data}"),
            ("--split", "val"),
            (f"r.{kind}", *(["r_figures"] if kind == "md" else [])),
        )
        for kind in ("html", "pdf", "md")
    },
    "export": (
        "export {trained} --faces 8 --out {out}/m.onnx",
        (),
        ("--preprocess",),
        ("m.onnx",),
    ),
}


def stop_at_random(
    server: Server,
    name: str,
    words: dict[str, str],
    out: Path,
    number: int,
    kills: int,
    per_start: int = 4,
) -> None:
    """Stop a command that replaces its own earlier output; see the module's docstring."""
    base, *variants, outputs = VICTIMS[name]
    commands = [
        [part.format(**words, out=out) for part in (*base.split(), *variant, "--overwrite")]
        for variant in variants
    ]
    whole = []
    server.run(commands[0])  # everything is imported now
    for command in commands:
        seconds = server.run(command)
        whole.append({path: content(out / path) for path in outputs})
    files = names(out)
    assert whole[0] != whole[1]
    draw = random.Random()
    turn = old = new = 0
    state = 1
    while old + new < kills:
        turn += 1
        wanted = turn // per_start % 2
        if server.stop(commands[wanted], number, draw.uniform(0, seconds)):
            found = {path: content(out / path) for path in outputs}
            for path, one in found.items():
                assert one in (whole[0][path], whole[1][path]), path
            assert found in whole or name in ("predict annotated", "report md")
            new += found == whole[wanted] != whole[state]
            old += not found == whole[wanted] != whole[state]
        if turn % per_start == 0:
            server.run(commands[wanted])
            state = wanted
            assert {path: content(out / path) for path in outputs} == whole[wanted]
            assert names(out) == files
    print(f"| {name} | {signal.Signals(number).name} | {old + new} | {old} | {new} | 0 |")


@pytest.fixture
def words(
    drawn_tars: tuple[Path, Path], drawn: Path, request: pytest.FixtureRequest
) -> dict[str, str]:
    name = request.getfixturevalue("name")
    found = {"tars": str(drawn_tars[0]), "data": str(drawn)}
    if name.startswith("predict"):
        found["album"] = str(request.getfixturevalue("album"))
    if name.startswith(("evaluate", "export", "report")):
        found["trained"] = str(request.getfixturevalue("trained"))
    if name.startswith("report"):
        found["evaluated"] = str(request.getfixturevalue("evaluated"))
    return found


@pytest.fixture(scope="session")
def evaluated(trained: Path, drawn: Path) -> Path:
    """The run with predictions of two splits."""
    from affectnet.commands.evaluate import evaluate
    from affectnet.config import EvaluateConfig

    for split in ("test", "val"):
        config = EvaluateConfig((trained,), data=drawn, split=split, figures=False, card=False)
        evaluate(config)
    return trained


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SIGNALS
@pytest.mark.parametrize("name", VICTIMS)
def test_the_old_or_the_new_output_is_complete(
    server: Server, name: str, words: dict[str, str], number: int, tmp_path: Path
) -> None:
    stop_at_random(server, name, words, tmp_path, number, KILLS)


@pytest.mark.parametrize("name", ["ingest", "predict parquet"])
def test_the_old_or_the_new_output_is_complete_after_two_kills(
    server: Server, name: str, words: dict[str, str], tmp_path: Path
) -> None:
    stop_at_random(server, name, words, tmp_path, signal.SIGKILL, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SIGNALS
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_a_resumed_prediction_ends_as_an_uninterrupted_one(
    server: Server, album: Path, kind: str, number: int, tmp_path: Path
) -> None:
    command = ["predict", str(album), "--smoothing", "none", "--resume", "--out"]
    server.run([*command, str(tmp_path / f"first.{kind}")])
    seconds = server.run([*command, str(tmp_path / f"whole.{kind}")])
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    draw = random.Random()
    stopped = resumed = 0
    while stopped < KILLS:
        out = tmp_path / "turn" / f"r.{kind}"
        for _ in range(4):
            if not server.stop([*command, str(out)], number, draw.uniform(0, seconds)):
                break
            stopped += 1
            kept = out.read_bytes() if out.exists() else b""
            if kind in ("csv", "jsonl"):
                assert whole.startswith(kept)
                assert kept == b"" or kept.endswith(b"\n")
            elif kept:
                json.loads(kept) if kind == "json" else pq.read_table(out)
            kept += next(iter(out.parent.glob(".*.part")), Path(os.devnull)).read_bytes()
            resumed += b".jpg" in kept
        server.run([*command, str(out)])
        assert out.read_bytes() == whole or kind == "parquet"
        if kind == "parquet":
            assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
        assert [file.name for file in out.parent.iterdir()] == [out.name]
        out.unlink()
    print(f"| predict {kind}, resumed | {signal.Signals(number).name} | {stopped} | {resumed} |")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SIGNALS
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    server: Server, drawn: Path, number: int, tmp_path: Path
) -> None:
    server.run(train_command(drawn, tmp_path / "first"))
    command = [*train_command(drawn, tmp_path / "whole"), "--resume"]
    seconds = server.run(command)
    whole = RunFolder(tmp_path / "whole" / "r")
    files = {name for name in names(whole.path) if "tfevents" not in name}
    draw = random.Random()
    stopped = resumed = 0
    while stopped < KILLS:
        run = RunFolder(tmp_path / "turn" / "r")
        command = [*train_command(drawn, tmp_path / "turn"), "--resume"]
        for _ in range(4):
            if not server.stop(command, number, draw.uniform(0, seconds)):
                break
            stopped += 1
            if run.last.exists():
                resumed += 1
                weights(run)
            if run.metrics.exists():
                rows(run)
        server.run(command)
        assert_same_run(run, whole)
        assert {name for name in names(run.path) if "tfevents" not in name} == files
        assert [path.name for path in (tmp_path / "turn").iterdir()] == ["r"]
        shutil.rmtree(tmp_path / "turn")
    print(f"| train, resumed | {signal.Signals(number).name} | {stopped} | {resumed} |")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_feature_pass_survives_twenty_kills(drawn: Path, tmp_path: Path) -> None:
    frozen = ("--freeze", "backbone", "--views", "6", "--resume")
    seconds = uninterrupted(train_command(drawn, tmp_path / "whole", *frozen))
    whole = RunFolder(tmp_path / "whole" / "r")
    killed = 0
    for turn in range(100):
        runs = tmp_path / f"turn{turn}"
        command = train_command(drawn, runs, *frozen)
        killed += len(run_with_kills(command, min(4, 20 - killed), seconds, turn))
        assert_same_run(RunFolder(runs / "r"), whole)
        for file in (tmp_path / "whole" / ".features").rglob("*.f16"):
            other = runs / file.relative_to(tmp_path / "whole")
            np.testing.assert_array_equal(np.fromfile(file, "u2"), np.fromfile(other, "u2"))
        if killed >= 20:
            return
    pytest.fail(f"only {killed} kills were in time")


def benchmark_command(data: Path, out: Path, backbones: str, epochs: int) -> list[str]:
    return [
        *("benchmark", "--data", str(data), "--out", str(out), "--backbones", backbones),
        *("--epochs", str(epochs), "--image-size", "32", "--no-pretrained", "--batch-size", "32"),
        *("--workers", "0", "--accelerator", "cpu", "--precision", "32"),
    ]


def metrics(out: Path) -> dict[str, dict]:
    """The metrics of every run by its name."""
    found = {}
    for file in out.glob("runs/*/evaluation/test/metrics.json"):
        known = json.loads(file.read_text())
        found[file.parents[2].name] = {
            part: known[part] for part in ("expression", "valence", "arousal")
        }
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@SIGNALS
def test_a_resumed_benchmark_ends_as_an_uninterrupted_one(
    server: Server, drawn: Path, number: int, tmp_path: Path
) -> None:
    seconds = server.run(benchmark_command(drawn, tmp_path / "whole", "test_convnext", 2))
    files = {name for name in names(tmp_path / "whole") if "tfevents" not in name}
    draw = random.Random()
    stopped = 0
    while stopped < KILLS:
        out = tmp_path / "turn"
        command = benchmark_command(drawn, out, "test_convnext", 2)
        for _ in range(10):
            if not server.stop(command, number, draw.uniform(0, seconds / 2)):
                break
            stopped += 1
        server.run(command)
        assert metrics(out) == metrics(tmp_path / "whole")
        run = "runs/test_convnext-seed0"
        assert_same_run(RunFolder(tmp_path / "whole" / run), RunFolder(out / run))
        assert {name for name in names(out) if "tfevents" not in name} == files
        assert {path.name for path in tmp_path.iterdir()} == {"turn", "whole"}
        shutil.rmtree(out)
    print(f"| benchmark, resumed | {signal.Signals(number).name} | {stopped} |")


@pytest.mark.slow
def test_benchmark_survives_two_kills(drawn: Path, tmp_path: Path) -> None:
    from affectnet.commands.evaluate import evaluate
    from affectnet.commands.train import train
    from affectnet.config import EvaluateConfig, TrainConfig

    out = tmp_path / "benchmark"
    times = run_with_kills(benchmark_command(drawn, out, "test_convnext", 2), 2, 12.0, 3)
    assert len(times) == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = train(
        TrainConfig(
            data=(drawn,),
            backbone="test_convnext",
            epochs=2,
            image_size=32,
            pretrained=False,
            runs=tmp_path / "runs",
            batch_size=32,
            workers=0,
            accelerator="cpu",
            precision="32",
        )
    )
    evaluate(EvaluateConfig(runs=(whole.path,), data=drawn, figures=False, card=False))
    torch.set_num_threads(threads)
    assert_same_run(RunFolder(out / "runs" / "test_convnext-seed0"), whole)
    known = json.loads((whole.evaluation("test") / "metrics.json").read_text())
    found = metrics(out)["test_convnext-seed0"]
    assert found == {part: known[part] for part in found}
    assert "test_convnext" in (out / "leaderboard.csv").read_text()
