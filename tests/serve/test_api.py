"""The HTTP API by a real server: its numbers, its limits, its password, and what it never gives."""

import base64
import http.client
import io
import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from affectnet.data.images import decode_image


def encoded(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 90, 90)).save(file, kind)
    return file.getvalue()


def test_the_numbers_are_the_predictors(server, predictor, photo_file) -> None:
    wanted = predictor.predict(photo_file).to_dict() | {"source": None}
    assert len(wanted["faces"]) == 1
    with photo_file.open("rb") as file:
        form = httpx.post(f"{server.address}/predict", files={"file": file})
    raw = httpx.post(f"{server.address}/predict", content=photo_file.read_bytes())
    assert form.status_code == raw.status_code == 200
    assert form.json() == raw.json()
    got = raw.json()
    assert {k: v for k, v in got.items() if k != "faces"} == {
        k: v for k, v in wanted.items() if k != "faces"
    }
    for mine, theirs in zip(got["faces"], wanted["faces"], strict=True):
        for name in ("probabilities", "box", "landmarks"):
            assert mine[name].keys() == theirs[name].keys()
            for key, value in theirs[name].items():
                np.testing.assert_allclose(mine[name][key], value, atol=1e-4)
        assert mine["valence"] == pytest.approx(theirs["valence"], abs=1e-4)
        assert mine["arousal"] == pytest.approx(theirs["arousal"], abs=1e-4)
    whole = httpx.post(f"{server.address}/predict?faces=none", content=photo_file.read_bytes())
    assert whole.json()["faces"][0]["landmarks"] is None


def test_the_curl_line_of_the_docs_works(server, photo_file, tmp_path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    line = next(x for x in text.splitlines() if x.startswith("curl -F file=@photo.jpg"))
    (tmp_path / "photo.jpg").write_bytes(photo_file.read_bytes())
    command = line.replace("http://127.0.0.1:7860", server.address).split()
    found = subprocess.run(
        [*command, "--silent"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout)["status"] == "ok"


def test_videos(server, walk) -> None:
    answer = httpx.post(
        f"{server.address}/predict/video?seconds=1", content=walk.read_bytes(), timeout=60
    )
    assert answer.status_code == 200
    frames = answer.json()["frames"]
    assert [frame["frame"] for frame in frames] == [0, 2, 4, 6, 8]
    assert frames[0]["faces"][0]["track"] == 1
    assert frames[-1]["status"] == "no face"
    broken = httpx.post(f"{server.address}/predict/video", content=b"#EXTM3U\n/etc/passwd\n")
    assert broken.status_code == 422
    assert "not a video" in broken.json()["error"]
    image = httpx.post(f"{server.address}/predict", content=walk.read_bytes()[:300_000])
    assert image.status_code == 422
    assert image.json()["error"].endswith("it is a video; send it to /predict/video")


def test_health_docs_and_openapi(server) -> None:
    health = httpx.get(f"{server.address}/health")
    assert health.json()["status"] == "ok"
    assert health.text.endswith("}\n")
    schema = httpx.get(f"{server.address}/openapi.json").json()
    assert {"/predict", "/predict/video", "/health"} <= set(schema["paths"])
    docs = httpx.get(f"{server.address}/docs").text
    assert f"{server.address}/predict" in docs
    assert "src=" not in docs


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"", 422, "empty"),
        ("/predict", b'{"path": "/etc/passwd"}', 422, "not a JPEG"),
        ("/predict", b"\xff\xd8\xff" + 900 * b"x", 422, "cannot be read"),
        ("/predict", encoded(1000, 501), 413, "501,000 pixels; at most 500,000"),
        ("/predict", 500_000 * b"x", 413, "500,000 bytes; at most 400,000 bytes"),
        ("/predict/video", b"", 422, "empty"),
    ],
)
def test_a_refusal_states_the_reason(server, path, body, status, message) -> None:
    answer = httpx.post(server.address + path, content=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert answer.text.endswith("}\n")


def test_a_form_without_a_file_and_a_wrong_method(server) -> None:
    files = {"other": (None, "text")}
    answer = httpx.post(f"{server.address}/predict", files=files)
    assert answer.status_code == 422
    assert "no file" in answer.json()["error"]
    assert httpx.get(f"{server.address}/predict").status_code == 405
    assert httpx.delete(f"{server.address}/").status_code == 405


def test_an_upload_without_a_length_is_cut_off_while_it_comes_in(server) -> None:
    sent = 0

    def endless():
        nonlocal sent
        while sent < 200 * 2**20:
            sent += 2**16
            yield bytes(2**16)

    try:
        answer = httpx.post(f"{server.address}/predict", content=endless(), timeout=30)
        assert answer.status_code == 413
        assert answer.json()["allowed"] == 400_000
    except httpx.TransportError:  # closed while we were sending: refused as well
        assert sent < 200 * 2**20


def test_a_video_longer_than_allowed_is_refused_with_the_way_out(
    server, shifted, photo, write_video, tmp_path
) -> None:
    frames = [shifted(photo, 2 * i) for i in range(25)]
    data = write_video(tmp_path / "long.avi", frames, fps=5).read_bytes()
    answer = httpx.post(f"{server.address}/predict/video", content=data)
    assert answer.status_code == 413
    output = answer.json()
    assert (output["given"], output["allowed"], output["setting"]) == (5.0, 3.0, "--max-seconds")
    assert "?seconds=3" in output["error"]


ETC = "/etc/passwd"


@pytest.mark.parametrize(
    "path",
    [
        f"/gradio_api/file={ETC}",
        f"/file={ETC}",
        f"/gradio_api/file/{ETC}",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/gradio_api/file={folder}/../../../../../../../etc/passwd",
        "/gradio_api/file={folder}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file={folder}/link",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/custom_component/1/client/component/..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/stream/a/b/1/playlist-file",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static/../../../../../../../../etc/passwd",
        "/static//etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/svelte/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/svelte//etc/passwd",
        "/results/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/results/%2fetc%2fpasswd",
        "/config/../../../etc/passwd",
        "/gradio_api/vibe-code",
        "/monitoring",
    ],
)
def test_no_file_of_the_host_by_any_address(server, path) -> None:
    folder = server.service.folder
    link = folder / "link"
    if not link.is_symlink():
        link.symlink_to(ETC)
    parts = urlsplit(server.address)
    # Not by httpx, which tidies dots away before it sends.
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("GET", path.format(folder=folder))
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status in (403, 404, 405)
    assert b"root:" not in body


@pytest.mark.parametrize(
    "given",
    [
        {"path": ETC},
        {"path": ETC, "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1:1/x.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "{folder}/../../../../../../etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "data:text/plain,hello", "meta": {"_type": "gradio.FileData"}},
        {"path": ["/etc/passwd"]},
        {"path": None},
        [{"path": ETC}],
    ],
)
def test_no_file_of_the_host_by_a_call_of_the_page(server, given) -> None:
    given = json.loads(json.dumps(given).replace("{folder}", str(server.service.folder)))
    for number in range(4):
        call = {"data": [given], "fn_index": number, "session_hash": "abc", "trigger_id": 1}
        answer = httpx.post(f"{server.address}/gradio_api/queue/join", json=call)
        assert answer.status_code in (403, 404), answer.text
    for address in ("run/predict", "call/on_image", "api/predict", "component_server"):
        answer = httpx.post(f"{server.address}/gradio_api/{address}", json={"data": [given]})
        assert answer.status_code == 404


def test_an_upload_cannot_choose_its_folder(server) -> None:
    name = "../../../../../../tmp/affectnet-escaped.png"
    answer = httpx.post(
        f"{server.address}/gradio_api/upload", files={"files": (name, encoded(8, 8))}
    )
    for path in answer.json() if answer.status_code == 200 else []:
        assert Path(path).resolve().is_relative_to(server.service.folder.resolve())
    assert not Path("/tmp/affectnet-escaped.png").exists()
    large = httpx.post(
        f"{server.address}/gradio_api/upload", files={"files": ("a.png", bytes(2_200_000))}
    )
    assert large.status_code == 413
    server.service.sweep(older_than=-1)
    assert not list(server.service.folder.rglob("*.png"))


def test_another_website_cannot_post(server) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    answer = httpx.post(f"{server.address}/predict", content=encoded(9, 9), headers=headers)
    assert answer.status_code == 403
    page = httpx.get(f"{server.address}/", headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in page.headers)
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_fifty_at_once_are_answered_or_refused(
    serve_model, predictor, photo_file, tmp_path
) -> None:
    data = photo_file.read_bytes()
    wanted = predictor.predict(data).faces[0].probabilities
    healthy, over = [], threading.Event()
    with serve_model(predictor, tmp_path, workers=2, waiting=12) as served:

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{served.address}/predict", content=data, timeout=60)

        def watch() -> None:
            while not over.is_set():
                healthy.append(httpx.get(f"{served.address}/health", timeout=20).status_code)
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(ask, range(50)))
        over.set()
        watcher.join()
        assert served.service.images.inside == 0
        assert ask(0).status_code == 200
    done = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(done) + len(refused) == 50
    assert len(done) >= 14
    for answer in done:
        got = list(answer.json()["faces"][0]["probabilities"].values())
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["allowed"] == 14
    assert healthy
    assert set(healthy) == {200}


def test_what_takes_too_long_is_refused_and_its_place_comes_free(
    serve_model, predictor, photo_file, tmp_path, monkeypatch
) -> None:
    data, gone_on = photo_file.read_bytes(), threading.Event()
    with serve_model(predictor, tmp_path, workers=1, waiting=0, timeout=2.0) as served:
        plain = type(served.service).predict

        def slow(self, *args):
            gone_on.wait(20)
            return plain(self, *args)

        monkeypatch.setattr(type(served.service), "predict", slow)
        late = httpx.post(f"{served.address}/predict", content=data, timeout=30)
        assert late.status_code == 503
        assert "longer than 2 s" in late.json()["error"]
        # The thread cannot be stopped: until it ends, its place is taken.
        assert httpx.post(f"{served.address}/predict", content=data).status_code == 503
        gone_on.set()
        until = time.monotonic() + 20
        while served.service.images.inside and time.monotonic() < until:
            time.sleep(0.02)
        assert httpx.post(f"{served.address}/predict", content=data).status_code == 200


def test_the_password_guards_everything_but_health(
    serve_model, predictor, photo_file, tmp_path
) -> None:
    data, secret = photo_file.read_bytes(), "geheim: ü"
    with serve_model(predictor, tmp_path, password=secret) as served:
        at = served.address
        assert httpx.get(f"{at}/health").status_code == 200
        for path in ("/", "/config", "/docs", "/openapi.json", "/theme.css", "/assets/x.js"):
            assert httpx.get(at + path).status_code == 401, path
        for path in ("/predict", "/gradio_api/upload", "/gradio_api/queue/join"):
            assert httpx.post(at + path, content=data).status_code == 401, path
        basic = base64.b64encode(f"anyone:{secret}".encode()).decode()
        bearer = f"Bearer {secret}".encode()
        for header in (f"Basic {basic}".encode(), bearer):
            answer = httpx.post(f"{at}/predict", content=data, headers={b"Authorization": header})
            assert answer.status_code == 200
        for wrong in ("Bearer wrong", "Basic !!!", "Basic d3Jvbmc=", "Digest x"):
            headers = {"Authorization": wrong}
            assert httpx.get(f"{at}/config", headers=headers).status_code == 401
        with httpx.Client(base_url=at, headers={"Accept": "text/html"}) as browser:
            assert "Password" in browser.get("/").text
            assert browser.post("/login", data={"password": "no"}).status_code == 401
            assert not browser.cookies
            entered = browser.post("/login", data={"password": secret})
            assert entered.status_code == 303
            assert "HttpOnly" in entered.headers["set-cookie"]
            assert browser.get("/").status_code == 200
            assert browser.get("/config").status_code == 200
            browser.get("/logout")
            assert browser.get("/config").status_code == 401


def test_the_page_shows_the_predictors_numbers(server, predictor, photo_file) -> None:
    from affectnet.serve.results_page import image_html

    result, pixels = server.service.predict_pixels(photo_file.read_bytes())
    assert result.faces == predictor.predict(photo_file.read_bytes()).faces
    text = image_html(result, pixels)
    for name, probability in zip(
        result.faces[0].classes, result.faces[0].probabilities, strict=True
    ):
        assert f'data-expression="{name}"' in text
        assert f"{100 * probability:.1f}%</output>" in text
    assert pixels.shape == decode_image(photo_file.read_bytes()).shape
