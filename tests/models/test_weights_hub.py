"""Upload to a hub and loading from it, with a small local hub."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from affectnet.models.affect_model import AffectModel
from affectnet.models.weights import plain_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Answers the requests by which huggingface_hub creates repositories, commits and downloads."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        self.server.asked.append(self.path)
        name, _, file = self.path.lstrip("/").partition("/resolve/")
        file = file.partition("/")[2]
        files = self.server.repos.get(name)
        if files is None or file not in files:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            self.reply(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        data = files[file]
        tag = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.reply(200, data, tag, body)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repos.setdefault(name, {})
            self.json({"url": f"http://{self.headers['Host']}/{name}", "id": name, "name": name})
        elif "/preupload/" in self.path:
            files = json.loads(data)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.json({"files": [{"path": f["path"], **plain} for f in files]})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in data.splitlines():
                asked = json.loads(line)
                if asked["key"] == "file":
                    value = asked["value"]
                    self.server.repos[name][value["path"]] = base64.b64decode(value["content"])
            where = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self.json({"commitUrl": where, "commitOid": COMMIT, "success": True})
        else:  # the check of the card's front matter
            self.json({"errors": [], "warnings": []})

    def json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def python(code: str, hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the small hub; huggingface_hub reads the address at import."""
    known = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_of_a_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | known,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_model_is_uploaded_and_downloaded(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AffectModel("cvnet", image_size=48).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    code = (
        "from affectnet.models.affect_model import AffectModel\n"
        f"model = AffectModel.from_pretrained({str(tmp_path / 'model')!r})\n"
        "print(model.push_to_hub('me/mine'))\n"
        "model.card = None\n"
        "model.push_to_hub('me/plain')\n"
        "back = AffectModel.from_pretrained('me/mine')\n"
        "assert all((back.state_dict()[n] == t).all() for n, t in model.state_dict().items())\n"
        "import affectnet; print(affectnet.load('me/mine').classes[0])\n"
    )
    done = python(code, hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"http://127.0.0.1:{hub.server_port}/me/mine/commit/{COMMIT}",
        "neutral",
    ]
    files = hub.repos["me/mine"]
    assert {"model.safetensors", "config.json", "README.md"} <= set(files)
    assert files["config.json"] == (tmp_path / "model" / "config.json").read_bytes()
    assert files["README.md"].decode().endswith("# Mine\n")
    assert "This card has no\nmeasured scores" in hub.repos["me/plain"]["README.md"].decode()
    assert {Path(path).name for path in hub.asked if "/resolve/" in path} == {
        "model.safetensors",
        "config.json",
    }


def test_a_pickle_is_never_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.repos["other/model"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
    code = "import affectnet; affectnet.load('other/model')"
    done = python(code, hub, tmp_path / "home")
    assert "WeightsError" in done.stderr
    assert "can run code" in done.stderr.splitlines()[-1]
    assert not any("pytorch_model" in path for path in hub.asked)


def test_the_error_without_a_hub_is_one_line(hub: Hub, tmp_path: Path) -> None:
    code = (
        "from affectnet import cli, errors\n"
        "from affectnet.models.affect_model import AffectModel\n"
        "for name in ('me/mine', 'a b//c'):\n"
        "    try: AffectModel('cvnet', image_size=48).push_to_hub(name)\n"
        "    except errors.AffectNetError as error: print(type(error).__name__, error)\n"
    )
    hub.shutdown()
    hub.server_close()
    done = python(code, hub, tmp_path / "home")
    first, second = done.stdout.splitlines()
    assert first.startswith("WeightsError the model cannot be uploaded to me/mine")
    assert second.startswith("RunError 'a b//c' is not a valid name on the hub")


def test_the_plain_card_contains_the_config() -> None:
    config = AffectModel("cvnet", image_size=48).config()
    card = plain_card("me/mine", config)
    assert card.startswith("---\n")
    assert "library_name: affectnet" in card
    assert "48 x 48" in card
    assert ", ".join(config["classes"]) in card
