"""Hostile clients of the server, by real sockets; others are served meanwhile."""

import http.client
import json
import logging
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
from affectnet.serve import connections
from affectnet.serve.connections import FewLines
from affectnet.serve.exchange import Budget
from affectnet.serve.guard import Hosts
from affectnet.serve.places import Refusal

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other loopback addresses, /proc")
HEALTHY = 0.5
"""Seconds within which /health has to answer."""


def connect(address: str, source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), 20, (source, 0))


def host(address: str) -> str:
    return urlsplit(address).netloc


def post(address: str, path: str, length: int, start: bytes = b"x", **more: str) -> bytes:
    """The beginning of a request whose body is longer."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host(address)}", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode() + start


@contextmanager
def healthy(address: str) -> Iterator[list[float]]:
    """Ask for /health by new connections all the time; fails where an answer takes too long."""
    over, times, faults = threading.Event(), [], []

    def watch() -> None:
        while not over.is_set():
            start = time.monotonic()
            client = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
            try:
                client.request("GET", "/health")
                if client.getresponse().status != 200:
                    faults.append("not 200")
            except (OSError, http.client.HTTPException) as error:
                faults.append(repr(error))
            finally:
                client.close()
            times.append(time.monotonic() - start)
            over.wait(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield times
    finally:
        over.set()
        watcher.join()
    assert times
    assert not faults
    # The attackers share this process with the server, and its cores with other tests: a single
    # slow answer is not the server's fault.
    assert statistics.median(times) < HEALTHY


def test_slow_bodies_take_no_place(serve_model, predictor, photo_file, tmp_path) -> None:
    limits = {"workers": 1, "waiting": 1, "videos_waiting": 0}
    with serve_model(predictor, tmp_path, **limits) as served, ExitStack() as stack:
        for path in ("/predict", "/predict/video", "/gradio_api/upload"):
            for _ in range(12):
                slow = stack.enter_context(connect(served.address))
                slow.sendall(post(served.address, path, 100_000))
        with healthy(served.address):
            answer = httpx.post(f"{served.address}/predict", content=photo_file.read_bytes())
            assert answer.status_code == 200
            video = httpx.post(f"{served.address}/predict/video", content=b"no video")
            assert video.status_code == 422
            form = {"files": ("a.jpg", photo_file.read_bytes())}
            upload = httpx.post(f"{served.address}/gradio_api/upload", files=form)
            assert upload.status_code == 200
        assert served.service.images.inside == served.service.videos.inside == 0


@LINUX
@pytest.mark.parametrize(
    ("source", "start"),
    [("127.0.0.2", b""), ("127.0.0.1", b"GET / HTTP/1.1\r\nHost: "), ("127.0.0.2", None)],
)
def test_idle_connections_give_way_and_end(server, source, start, monkeypatch) -> None:
    """None: a slow body. The client under attack may even have the attacker's address."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.5)
    begun = post(server.address, "/predict", 9999) if start is None else start
    with ExitStack() as stack, healthy(server.address):
        opened = [stack.enter_context(connect(server.address, source)) for _ in range(200)]
        for one in opened:
            one.settimeout(5)
            with suppress(OSError):
                one.sendall(begun)
        if start is not None:
            begin = time.monotonic()
            for one in opened:  # each is closed by the server
                with suppress(ConnectionError):
                    assert one.recv(9) == b""
            assert time.monotonic() - begin < 4


@LINUX
def test_a_drip_of_headers_is_cut_off(server, monkeypatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    for first in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with connect(server.address) as slow:
            slow.sendall(first)
            if first:
                assert slow.recv(4096).startswith(b"HTTP/1.1 200")
            begin = time.monotonic()
            with pytest.raises(OSError, match=r"reset|pipe|Connection"):
                while time.monotonic() - begin < 10:
                    slow.sendall(b"X")
                    time.sleep(0.1)
            assert time.monotonic() - begin < 4


def test_the_uploads_held_for_one_address_are_bounded() -> None:
    budget = Budget(1000)
    budget.take("a", 500)
    for address, size in (("a", 1), ("b", 501)):
        with pytest.raises(Refusal, match="busy"):
            budget.take(address, size)
    budget.take("b", 500)
    with pytest.raises(Refusal, match="busy"):
        budget.take("c", 1)
    budget.give("a", 500)
    budget.take("c", 500)


def test_guesses_of_one_address_are_slow_and_others_enter(serve_model, predictor, tmp_path) -> None:
    with serve_model(predictor, tmp_path, password="right") as served:
        parts, codes, over = urlsplit(served.address), [], threading.Event()

        def guess(number: int) -> None:
            connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=20, source_address=("127.0.0.2", 0)
            )
            while not over.is_set():
                # The right one among them is not answered sooner.
                secret = "right" if number == 5 else f"wrong {number}"
                headers = {"Authorization": f"Bearer {secret}"}
                connection.request("GET", "/config", headers=headers)
                answer = connection.getresponse()
                answer.read()
                codes.append(answer.status)
                time.sleep(0.01)

        good, start = {"Authorization": "Bearer right"}, time.monotonic()
        with ThreadPoolExecutor(15) as pool:
            pool.map(guess, range(15))
            try:
                with healthy(served.address):
                    for _ in range(10):
                        begin = time.monotonic()
                        assert httpx.get(f"{served.address}/docs", headers=good).status_code == 200
                        assert time.monotonic() - begin < 2
                        time.sleep(0.1)
            finally:
                over.set()
    # At most two comparisons a second, whichever way they end.
    assert codes.count(401) + codes.count(200) < 3 + 2 * (time.monotonic() - start)
    assert codes.count(429) > 0


def test_signing_out_ends_the_ticket(serve_model, predictor, tmp_path) -> None:
    with serve_model(predictor, tmp_path, password="right") as served:
        at, form = served.address, {"password": "right"}
        tickets = []
        for _ in range(2):
            with httpx.Client(base_url=at) as browser:
                assert browser.post("/login", data=form).status_code == 303
                tickets.append(browser.cookies["affectnet"])
        assert len(set(tickets)) == 2
        first, second = ({"Cookie": f"affectnet={ticket}"} for ticket in tickets)
        assert httpx.get(f"{at}/config", headers=first).status_code == 200
        httpx.get(f"{at}/logout", headers=first)
        assert httpx.get(f"{at}/config", headers=first).status_code == 401
        assert httpx.get(f"{at}/config", headers=second).status_code == 200
        # A further login of the same browser ends its earlier session.
        httpx.post(f"{at}/login", data=form, headers=second)
        assert httpx.get(f"{at}/config", headers=second).status_code == 401


def raw(address: str, request: str) -> tuple[int, bytes]:
    with connect(address) as client:
        client.sendall(request.encode())
        data = b""
        while piece := client.recv(65536):
            data += piece
    return int(data[9:12]), data


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *((name, 200) for name in ("127.0.0.1", "localhost:1", "[::1]:7860", "127.9.9.9")),
        *((name, 200) for name in ("LOCALHOST", "box.lan:7860", "app.localhost")),
        *((name, 421) for name in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example")),
        *((name, 421) for name in ("192.168.0.9", "localhost.evil", "a@localhost", "localhost/x")),
        *((name, 421) for name in ("", "[::1", "local host", "localhost:x", "\x1b[2J")),
    ],
)
def test_only_names_that_are_meant_are_answered(name, status, named) -> None:
    code, data = raw(named, f"GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")
    assert code in ((400, 421) if status == 421 else (200,))
    assert b"\x1b" not in data


@pytest.fixture(scope="module")
def named(serve_model, predictor, tmp_path_factory) -> Iterator[str]:
    """A server with a further name."""
    hosts = Hosts("127.0.0.1", ["Box.lan"])
    with serve_model(predictor, tmp_path_factory.mktemp("named"), hosts=hosts) as served:
        yield served.address


def test_a_server_for_all_addresses_answers_to_addresses_but_to_no_other_name() -> None:
    for everywhere in (Hosts("0.0.0.0"), Hosts("::")):
        assert "192.168.0.7:7860" in everywhere
        assert "[2001:db8::1]:80" in everywhere
        assert "evil.example" not in everywhere
    assert "192.168.0.7" not in Hosts("127.0.0.1")
    assert "192.168.0.7:7860" in Hosts("192.168.0.7")


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({}, True),
        ({"Origin": "http://HOST"}, True),
        ({"Origin": "https://HOST"}, True),
        ({"Origin": "http://HOST", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://localhost:8888"}, False),
        ({"Origin": "http://HOST.evil.example"}, False),
        ({"Origin": "ftp://HOST"}, False),
        ({"Origin": "http://x:99999"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://HOST", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_only_the_page_itself_and_programs_can_post(server, headers, fine) -> None:
    sent = {key: value.replace("HOST", host(server.address)) for key, value in headers.items()}
    for path in ("/predict", "/gradio_api/queue/join", "/gradio_api/upload", "/login"):
        code = httpx.post(server.address + path, content=b"nothing", headers=sent).status_code
        assert (code != 403) == fine


def test_the_page_does_not_believe_forwarded_headers(server) -> None:
    forged = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    for path in ("/", "/config"):
        assert "evil" not in httpx.get(server.address + path, headers=forged).text


def test_a_proxy_is_believed_where_it_is_given(serve_model, predictor, tmp_path) -> None:
    """Each visitor behind it has turns of his own; without it, nobody can pretend another."""
    for proxies, refused in (((), True), (("127.0.0.1",), False)):
        with serve_model(predictor, tmp_path, password="right", proxies=proxies) as served:

            def guess(number: int, at: str = served.address) -> int:
                headers = {"Authorization": "Bearer no", "X-Forwarded-For": f"9.9.9.{number}"}
                return httpx.get(f"{at}/config", headers=headers, timeout=30).status_code

            with ThreadPoolExecutor(14) as pool:
                codes = list(pool.map(guess, range(14)))
            assert (429 in codes) == refused


def call(**changes: object) -> dict[str, object]:
    return {"data": [None], "fn_index": 0, "session_hash": "abc", "trigger_id": 1} | changes


@pytest.mark.parametrize(
    ("path", "content"),
    [
        *(
            ("/gradio_api/queue/join", json.dumps(given))
            for given in (
                call(fn_index=10**9),
                call(fn_index=-1),
                call(fn_index=True),
                call(fn_index="x"),
                call(fn_index=[]),
                call(fn_index=None),
                call(session_hash=None),
                call(session_hash="x" * 10_000),
                call(data=None),
                call(data={}),
                call(data=[5]),
                call(data=[{"a": 1}]),
                call(data=[[]] * 100),
                call(data=[]),
                call(data=["x"]),
                call(data=[None, None]),
                call(data=[{"path": "x", "size": []}]),
                call(trigger_id="x"),
                call(event_data=5),
                call(event_id=[]),
                [],
                5,
                None,
            )
        ),
        ("/gradio_api/queue/join", "[" * 100_000),
        ("/gradio_api/queue/join", b"\xff"),
        ("/gradio_api/cancel", "{}"),
        ("/gradio_api/cancel", json.dumps({"session_hash": "a", "fn_index": 9, "event_id": "z"})),
        ("/gradio_api/reset", json.dumps({"event_id": 5})),
        ("/gradio_api/reset", "[]"),
        ("/predict", b""),
        ("/predict?faces=maybe", b"x"),
        ("/predict/video?seconds=nan", b"x"),
        ("/predict/video?fps=-1", b"x"),
    ],
)
def test_odd_calls_are_refused_without_a_traceback(server, path, content, capfd, log) -> None:
    answer = httpx.post(server.address + path, content=content)
    assert 400 <= answer.status_code < 500
    time.sleep(0.05)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert log == []


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/upload?upload_id=1", "/predict"]
)
@pytest.mark.parametrize(
    "body",
    [
        b'--b\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name=""; filename=""\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="/"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="files"; filename=".."\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="'
        + b"x" * 5000
        + b'"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a\0b"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n\r\n--b--\r\n",
        b"--b--",
        b"--c\r\n",
        b"",
    ],
)
def test_odd_forms_are_refused_without_a_traceback(server, path, body, capfd, log) -> None:
    answer = httpx.post(server.address + path, content=body, headers=MULTIPART)
    assert answer.status_code < 500
    assert "Traceback" not in "".join(capfd.readouterr())
    assert log == []


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What the server logs."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    kept = Kept(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio", "affectnet.serve")]
    for logger in loggers:
        logger.addHandler(kept)
    yield lines
    for logger in loggers:
        logger.removeHandler(kept)


def test_clients_that_leave_print_nothing(server, photo_file, capfd, log) -> None:
    data = photo_file.read_bytes()
    for path in ("/predict", "/gradio_api/upload", "/gradio_api/queue/join", "/predict/video"):
        for sent in (b"", data[:5000], data):
            with connect(server.address) as client:
                client.sendall(post(server.address, path, len(data), sent))
            with connect(server.address) as client:
                begun = b"--b\r\nContent-Disposition: form-data; name=" + sent
                kind = MULTIPART["Content-Type"]
                client.sendall(post(server.address, path, 10**5, begun, Content_Type=kind))
    with connect(server.address) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
    assert httpx.get(f"{server.address}/health").status_code == 200
    time.sleep(0.3)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert all("Invalid HTTP" in line for line in log)


def test_the_log_cannot_be_flooded(capfd: pytest.CaptureFixture[str]) -> None:
    handler = FewLines()
    logger = logging.Logger("own")
    logger.addHandler(handler)
    for i in range(10_000):
        try:
            raise ValueError(f"\x1b[2J{i}\nsecond line")
        except ValueError:
            logger.exception("it failed")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("affectnet serve: error: it failed: ValueError: \\x1b[2J0 second")


@pytest.mark.parametrize("path", ["/health", "/", "/docs", "/openapi.json"])
def test_head_is_get_without_the_body(server, path) -> None:
    head, get = (httpx.request(method, server.address + path) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


WATCH = """
import http.client, json, sys, time
while True:
    client, start = http.client.HTTPConnection(sys.argv[1], timeout=20), time.monotonic()
    try:
        client.request("GET", "/health")
        status = client.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = repr(error)
    client.close()
    print(json.dumps([time.monotonic() - start, status]), flush=True)
    time.sleep(0.05)
"""
ATTACK_SECONDS = 10


def hold(address: str, count: int, begin: bytes, then: bytes = b"") -> None:
    """Open connections, send the beginning of a request, and bytes of the rest now and then."""
    end = time.monotonic() + ATTACK_SECONDS
    while time.monotonic() < end:
        with ExitStack() as stack:
            opened = [stack.enter_context(connect(address, "127.0.0.2")) for _ in range(count)]
            for one in opened:
                one.setblocking(False)
                with suppress(OSError):
                    one.send(begin)
            until = min(end, time.monotonic() + 3)
            while time.monotonic() < until:
                for one in opened:
                    with suppress(OSError):
                        one.send(then)
                time.sleep(0.05)


def guess(address: str) -> None:
    end = time.monotonic() + ATTACK_SECONDS
    other = httpx.HTTPTransport(local_address="127.0.0.2")  # one address waits for its own guesses
    with httpx.Client(transport=other) as client:
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):
                client.get(f"{address}/config", headers={"Authorization": f"Bearer {time.time()}"})


def several(attack: Callable[[str], None], address: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(attack, [address] * 10))


AUTHORISED = b"Host: localhost\r\nAuthorization: Bearer right\r\n"
VIDEO = b"POST /predict/video HTTP/1.1\r\nContent-Length: 99999999\r\n" + AUTHORISED + b"\r\n"
STREAM = b"GET /gradio_api/queue/data?session_hash=a HTTP/1.1\r\n" + AUTHORISED + b"\r\n"
ATTACKS: dict[str, Callable[[str], None]] = {
    "idle": lambda at: hold(at, 200, b""),
    "headers": lambda at: hold(at, 200, b"GET / HTTP/1.1\r\n", b"X"),
    "slow videos": lambda at: hold(at, 40, VIDEO, b"x"),
    "large videos": lambda at: hold(at, 30, VIDEO, b"x" * 2**20),
    "streams": lambda at: hold(at, 200, STREAM),
    "garbage": lambda at: hold(at, 100, os.urandom(200) + b"\r\n\r\n"),
    "guesses": lambda at: several(guess, at),
}


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("files", [200, 1024])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_server_under_attack_serves_others(
    tmp_path: Path, onnx_file: Path, photo_file: Path, files: int, attack: str
) -> None:
    """The server, the attackers and the watcher are processes of their own."""
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    code += "; from affectnet.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", "--model", str(onnx_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "AFFECTNET_PASSWORD": "right"},
    )
    try:
        address = next(
            found[0] for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line))
        )
        watcher = subprocess.Popen(
            [sys.executable, "-c", WATCH, host(address)], stdout=subprocess.PIPE, text=True
        )
        attacker = threading.Thread(target=ATTACKS[attack], args=(address,))
        attacker.start()
        time.sleep(1)
        answer = httpx.post(
            f"{address}/predict",
            content=photo_file.read_bytes(),
            headers={"Authorization": "Bearer right"},
            timeout=30,
        )
        attacker.join()
        watcher.kill()
        seen = [json.loads(line) for line in watcher.communicate()[0].splitlines()]
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    times = sorted(seconds for seconds, _ in seen)
    print(f"{attack}, {files} files: {len(times)} answers, at most {times[-1]:.3f} s")
    assert answer.status_code == 200
    assert {status for _, status in seen} == {200}
    assert times[len(times) * 95 // 100] < HEALTHY
    assert len(err) < 10_000
