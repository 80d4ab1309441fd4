"""The guard in front of the page and the HTTP API, which every request passes, and the password.

Only the addresses that the page needs are open. Gradio's other addresses (run any function by name,
fetch addresses for the caller, custom components, recordings) are closed. The size of an upload is
checked while it is received. No address gives access to a file outside the server's own temporary
folder.
"""

import asyncio
import base64
import binascii
import hmac
import html
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from affectnet.serve.work import Limits, Refusal, too_large

COOKIE: Final = "affectnet"
_PAUSE: Final = 0.5
_MAX_WAITING: Final = 20


class Password:
    """Checks the password of a request.

    A browser signs in on the login page and keeps a cookie until the server stops; programs send
    HTTP Basic (any user name) or `Authorization: Bearer PASSWORD` with every request. Comparisons
    take constant time.
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret)
        self.ticket = secrets.token_urlsafe(32)
        """The value of the cookie; a new one with each start."""
        self._failing = asyncio.Lock()
        self._waiting = 0

    def fits(self, given: str) -> bool:
        """Return whether it is the password."""
        return hmac.compare_digest(_digest(given), self._digest)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request with these headers (names in lower case) is admitted."""
        kind, _, rest = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.fits(_as_utf8(rest.strip()))
        if kind.lower() == "basic":
            try:
                pair = base64.b64decode(rest, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return False
            return self.fits(pair.partition(":")[2])
        try:
            ticket = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return ticket is not None and hmac.compare_digest(
            ticket.value.encode(), self.ticket.encode()
        )

    async def punish(self) -> bool:
        """Wait after a wrong password, one request at a time; False where too many wait already."""
        if self._waiting >= _MAX_WAITING:
            return False
        self._waiting += 1
        try:
            async with self._failing:
                await asyncio.sleep(_PAUSE)
        finally:
            self._waiting -= 1
        return True


def _as_utf8(header: str) -> str:
    """Decode a header as UTF-8, which programs send; it is given as Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def login_page(reason: str = "") -> str:
    """Return the page that asks for the password."""
    error = f'<p class="wrong" role="alert">{html.escape(reason)}</p>' if reason else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>affectnet</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/1.5 system-ui,
  sans-serif; background: light-dark(#f4f6f8, #0e1318); color: light-dark(#17212b, #e6ebf0); }}
form {{ width: min(20rem, 84vw); padding: 2rem; border-radius: 16px; display: grid; gap: .9rem;
  background: light-dark(#fff, #171e26); border: 1px solid light-dark(#dde3e9, #2a343f); }}
h1 {{ margin: 0; font-size: 1.35rem; letter-spacing: -.01em; }}
label {{ display: grid; gap: .3rem; font-size: .9rem; }}
input {{ font: inherit; padding: .55rem .7rem; border-radius: 9px; background: transparent;
  color: inherit; border: 1px solid light-dark(#b8c2cc, #44515e); }}
button {{ font: inherit; font-weight: 600; padding: .6rem; border: 0; border-radius: 9px;
  background: #0072b2; color: #fff; cursor: pointer; }}
.wrong {{ margin: 0; color: light-dark(#b3400a, #ff9d6b); font-size: .9rem; }}
</style></head><body><form method="post" action="login">
<h1>affectnet</h1>{error}
<label>Password <input type="password" name="password" autocomplete="current-password" required
  autofocus></label>
<button>Sign in</button></form></body></html>"""


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN: Final = frozenset({"/health"})
_API = "/gradio_api/"
_GET: Final = frozenset(
    [
        *("/", "/health", "/docs", "/openapi.json", "/config", "/theme.css", "/favicon.ico"),
        *("/manifest.json", "/robots.txt", "/login", "/logout", _API + "upload_progress"),
        *(_API + "queue/data", _API + "queue/status", _API + "startup-events", _API + "app_id"),
        *(_API + "info", _API + "theme.css", _API + "user", _API + "token"),
        _API + "login_check",
    ]
)
_POST: Final = frozenset({"/predict", "/predict/video", "/login"}) | {
    _API + name for name in ("upload", "queue/join", "cancel", "reset")
}
_FOLDERS: Final = ("/assets/", "/static/", "/svelte/", "/results/", _API + "heartbeat/")
_FILE: Final = _API + "file="
_SMALL: Final = 2**20
_EXTRA: Final = 2**16
_IDLE: Final = 20.0
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        b"style-src 'self' 'unsafe-inline'; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
)


class _Answered(Exception):
    """A response has been sent already; the application is interrupted."""


class Guard:
    """The outermost ASGI application.

    Args:
        app: the application to protect.
        limits: of uploads.
        folder: the server's temporary folder, the only one whose files are served.
        password: None where none is required.
    """

    def __init__(self, app: App, limits: Limits, folder: Path, password: Password | None) -> None:
        self.app, self.limits, self.password = app, limits, password
        self.folder = folder.resolve()
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        answer = _Answer(send, private=not scope["path"].startswith(("/assets/", "/static/")))
        try:
            if not await self._enter(scope, headers, receive, answer):
                return
            body = _Body(receive, answer, self._allowed(scope["path"]), self._timeout(scope))
            body.check_header(headers)
            await self._pass_on(scope, body, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception:
            if not answer.final:
                raise

    async def _pass_on(self, scope: Scope, body: "_Body", answer: "_Answer") -> None:
        path = scope["path"]
        receive: Receive = body.receive
        if path == _API + "queue/join":
            receive = await self._check_payload(receive)
        if path != _API + "upload":
            await self.app(scope, receive, answer.send)
            return
        self._check_capacity()
        self._uploads += 1
        try:
            await self.app(scope, receive, answer.send)
        finally:
            self._uploads -= 1

    async def _enter(
        self, scope: Scope, headers: dict[str, str], receive: Receive, answer: "_Answer"
    ) -> bool:
        """Return whether the request may continue; otherwise raise `Refusal` or respond here."""
        path, method = scope["path"], scope["method"]
        if headers.get("sec-fetch-site") == "cross-site" and method not in ("GET", "HEAD"):
            raise Refusal(403, "other websites cannot send requests to this server")
        if self.password is not None and path not in OPEN:
            if path == "/login":
                await self._login(scope, method, receive, answer)
                return False
            if path == "/logout":
                await answer.redirect(f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
                return False
            if not self.password.admits(headers):
                given = "authorization" in headers
                if given and not await self.password.punish():
                    raise Refusal(429, "too many wrong passwords; try again later", retry_after=10)
                if not given and method == "GET" and "text/html" in headers.get("accept", ""):
                    await answer.page(401, login_page())
                    return False
                await answer.refuse(
                    Refusal(401, "a password is needed: Authorization: Bearer PASSWORD, or Basic"),
                    {"WWW-Authenticate": 'Basic realm="affectnet", charset="UTF-8"'},
                )
                return False
        self._check_path(path, method)
        return True

    async def _login(self, scope: Scope, method: str, receive: Receive, answer: "_Answer") -> None:
        assert self.password is not None
        if method != "POST":
            await answer.page(200, login_page())
            return
        body = _Body(receive, answer, (4096, ""), _IDLE)
        text = (await _read(body.receive)).decode("utf-8", "replace")
        if self.password.fits(parse_qs(text).get("password", [""])[0]):
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            cookie = f"{COOKIE}={self.password.ticket}; Path=/; HttpOnly; SameSite=Strict{secure}"
            await answer.redirect(cookie)
        elif await self.password.punish():
            await answer.page(401, login_page("Wrong password."))
        else:
            raise Refusal(429, "too many wrong passwords; try again later", retry_after=10)

    def _check_path(self, path: str, method: str) -> None:
        if "\\" in path or "\0" in path or ".." in path.split("/"):
            raise Refusal(404, "there is no such address")
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                self._check_file(path.removeprefix(_FILE))
            elif path not in _GET and not path.startswith(_FOLDERS):
                if path in _POST:
                    raise Refusal(405, f"{path} requires POST")
                raise Refusal(404, "there is no such address; see GET /docs")
        elif method != "POST" or path not in _POST:
            known = path in _GET or path in _POST
            raise Refusal(405 if known else 404, f"there is no {method} {path}; see GET /docs")

    def _check_file(self, name: str) -> None:
        """Raise `Refusal` for anything but a regular file in the server's own folder."""
        try:
            path = Path(os.path.realpath(name))
            inside = Path(name).is_absolute() and path.is_relative_to(self.folder)
            found = inside and path.is_file()
        except (OSError, ValueError):
            found = False
        if not found:
            raise Refusal(404, "there is no such file")

    async def _check_payload(self, receive: Receive) -> Receive:
        """Read a call of the page, in which every path must be an upload to this server."""
        data = await _read(receive)
        try:
            self._check_paths(json.loads(data))
        except (ValueError, RecursionError):
            raise Refusal(422, "the request is not valid JSON") from None
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": data, "more_body": False}

        return replay

    def _check_paths(self, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if name == "path":
                    if not isinstance(item, str):
                        raise Refusal(403, "a path is not a string")
                    self._check_file(item)
                self._check_paths(item)
        elif isinstance(value, list):
            for item in value:
                self._check_paths(item)

    def _check_capacity(self) -> None:
        """Raise `Refusal` where there are too many uploads at once, or they fill the disk."""
        allowed = self.limits.workers + self.limits.waiting
        busy = Refusal(503, "the server is busy with other uploads; try again", retry_after=3)
        if self._uploads >= allowed:
            raise busy
        stored = 0
        for file in self.folder.rglob("*"):
            with suppress(OSError):  # it may be deleted meanwhile
                stored += file.stat().st_size
        if stored > 10 * self.limits.video_bytes:
            raise busy

    def _allowed(self, path: str) -> tuple[int, str]:
        """Return the maximum bytes of a request to this address, and the flag that changes it."""
        if path == "/predict":
            return self.limits.image_bytes, "--max-mb"
        if path == "/predict/video":
            return self.limits.video_bytes, "--max-video-mb"
        if path == _API + "upload":
            largest = max(self.limits.image_bytes, self.limits.video_bytes)
            return largest, "--max-video-mb"
        return _SMALL, ""

    def _timeout(self, scope: Scope) -> float:
        long = scope["path"] in ("/predict/video", _API + "upload")
        return self.limits.video_timeout if long else self.limits.timeout


class _Body:
    """Limits the size of a request's body, and the time to receive it."""

    def __init__(
        self, receive: Receive, answer: "_Answer", allowed: tuple[int, str], timeout: float
    ) -> None:
        self._receive, self._answer = receive, answer
        self.allowed, self.setting = allowed
        self.deadline = time.monotonic() + timeout
        self._size, self._more = 0, True

    def check_header(self, headers: dict[str, str]) -> None:
        """Refuse by the announced length, before anything is read."""
        given = headers.get("content-length", "")
        if given.isdecimal() and int(given) > self.allowed + _EXTRA:
            raise too_large(int(given), self.allowed, self.setting)

    async def receive(self) -> Message:
        """Receive the next chunk; beyond the limits, respond and raise `_Answered`."""
        if not self._more:
            return await self._receive()  # waits until the client disconnects
        wait = min(_IDLE, max(0.0, self.deadline - time.monotonic()))
        try:
            message = await asyncio.wait_for(self._receive(), wait)
        except TimeoutError:
            await self._answer.refuse(Refusal(408, "the upload took too long; try again"))
            raise _Answered from None
        self._size += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        # Multipart bodies contain a little more than the file.
        if self._size > self.allowed + _EXTRA:
            await self._answer.refuse(too_large(None, self.allowed, self.setting))
            raise _Answered
        return message


async def _read(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Answered
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


class _Answer:
    """Sends the application's response, with the guard's headers, or a response of the guard."""

    def __init__(self, send: Send, private: bool) -> None:
        self._send, self._private = send, private
        self.started = self.final = False

    async def send(self, message: Message) -> None:
        """Pass on a message of the application; ignored after a response of the guard."""
        if self.final:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = [
                (name, value)
                for name, value in message.get("headers", [])
                if not name.lower().startswith(b"access-control-")
            ]
            if self._private and not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *_HEADERS]}
        await self._send(message)

    async def refuse(self, refusal: Refusal, headers: dict[str, str] | None = None) -> None:
        """Respond with the refusal as JSON."""
        headers = {"Content-Type": "application/json", **refusal.headers, **(headers or {})}
        await self._respond(refusal.status, json.dumps(refusal.to_dict()).encode(), headers)

    async def page(self, status: int, text: str) -> None:
        """Respond with a page."""
        await self._respond(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    async def redirect(self, cookie: str) -> None:
        """Redirect to the page and set a cookie."""
        await self._respond(303, b"", {"Location": "./", "Set-Cookie": cookie})

    async def _respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self.started or self.final:
            self.final = True
            return
        pairs = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})
        self.final = True
