"""`affectnet serve` as people start it: the address, one-line mistakes, a clean end."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import torch

from affectnet.commands import serve as command
from affectnet.config import ServeConfig
from affectnet.errors import ConfigError
from affectnet.models.affect_model import AffectModel

pytest.importorskip("gradio", reason="the extra `serve` is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("served") / "tiny" / "model"
    AffectModel("cvnet", image_size=48).save_pretrained(folder)
    return folder


def start(*args: str, tmp: Path, **env: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command; return it with the line that states its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "affectnet", "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp)} | env,
    )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    try:
        return process, lines.get(timeout=120)
    except queue.Empty:
        process.kill()
        raise


def folder_of_a_killed_server(tmp: Path) -> Path:
    """The folder of uploads of a process that was killed, with a face in it."""
    code = (
        "import os, signal, affectnet.run as run\n"
        "with run.temporary_folder('serve') as folder:\n"
        "    (folder / 'face.jpg').write_bytes(b'a face')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp)}, check=False)
    (left,) = tmp.glob("affectnet-serve-*/face.jpg")
    return left.parent


@pytest.mark.parametrize(
    "way", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_it_starts_answers_and_stops_cleanly(model: Path, tmp_path: Path, way: int) -> None:
    left = folder_of_a_killed_server(tmp_path)
    (tmp_path / "affectnet-serve-notours1").mkdir()
    (tmp_path / "affectnet-serve-notours1" / "thesis.txt").touch()
    process, line = start(
        *("--model", str(model), "--port", "0"), tmp=tmp_path, AFFECTNET_PASSWORD="geheim"
    )
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.stderr.read()
        assert "model tiny" in line
        with urllib.request.urlopen(f"{found[0]}/health") as answer:
            assert b'"ok"' in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{found[0]}/config")
        assert not left.exists()
        assert len(list(tmp_path.glob("affectnet-serve-*"))) == 2
        process.send_signal(way)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "stopped" in out
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.glob("*serve*")] == ["affectnet-serve-notours1"]


def test_a_port_in_use_is_reported_in_one_line(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} .*give another with --port"):
            command.serve(ServeConfig(model=str(model), port=port))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_mb": 0, "workers": -1}, "--max-mb is 0; .*--workers is -1"),
        ({"waiting": -1}, "--waiting is -1; it must be at least 0"),
        ({"port": 70000}, "--port is 70000"),
        ({"host": "no such host"}, "not an address of this machine"),
        ({"password": " "}, "the password is empty"),
        ({"password": "a", "password_file": Path("b")}, "both given"),
        ({"password_file": Path("/no/such/file")}, "cannot be read"),
    ],
)
def test_an_error_states_what_to_do(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.serve(ServeConfig(**settings))


@pytest.mark.parametrize("module", ["gradio", "uvicorn", "fastapi"])
def test_without_gradio_the_pip_command_is_reported(
    model: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for name in ("api", "connections"):
        monkeypatch.delitem(sys.modules, f"affectnet.serve.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'affectnet\[serve\]'"):
        command.serve(ServeConfig(model=str(model), port=0))


def test_a_warning_where_others_can_connect_without_a_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        command.warn_if_open(host, None)
    command.warn_if_open("0.0.0.0", "secret")
    assert capsys.readouterr().err == ""
    for host in ("0.0.0.0", "::", "192.168.0.7", "myhost"):
        command.warn_if_open(host, None)
        assert "there is no password" in capsys.readouterr().err


def test_the_password_is_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(command.PASSWORD_VARIABLE, raising=False)
    assert command.read_password(ServeConfig()) is None
    (tmp_path / "secret").write_text("from file\n")
    assert command.read_password(ServeConfig(password_file=tmp_path / "secret")) == "from file"
    monkeypatch.setenv(command.PASSWORD_VARIABLE, "from the environment")
    assert command.read_password(ServeConfig()) == "from the environment"
    assert command.read_password(ServeConfig(password="shown")) == "shown"
    assert "list of processes" in capsys.readouterr().err
