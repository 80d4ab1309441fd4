"""The guard in front of the page and the HTTP API, which every request passes.

Only the addresses that the page needs are open. Gradio's other addresses (run any function by name,
fetch addresses for the caller, custom components, recordings) are closed. No address gives access
to a file outside the server's own temporary folder. Requests are answered only under the names of
this server, and from no other website; an upload is received whole before anything is done with it.
"""

import asyncio
import ipaddress
import json
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from weakref import WeakValueDictionary

from affectnet.errors import printable
from affectnet.serve.exchange import Answer, App, Body, Budget, Left, Message, Receive, Scope, Send
from affectnet.serve.password import COOKIE, Password, login_page
from affectnet.serve.places import Limits, Refusal

_logger = logging.getLogger("affectnet.serve")

OPEN: Final = frozenset({"/health"})
_API = "/gradio_api/"
_GET: Final = frozenset(
    [
        *("/", "/sample", "/health", "/docs", "/openapi.json", "/config", "/theme.css"),
        *("/favicon.ico", "/manifest.json", "/robots.txt", "/login", "/logout"),
        _API + "upload_progress",
        *(_API + "queue/data", _API + "queue/status", _API + "startup-events", _API + "app_id"),
        *(_API + "info", _API + "theme.css", _API + "user", _API + "token"),
        _API + "login_check",
    ]
)
_POST: Final = frozenset({"/predict", "/predict/video", "/live", "/login"}) | {
    _API + name for name in ("upload", "queue/join", "cancel", "reset")
}
_FOLDERS: Final = ("/assets/", "/static/", "/svelte/", "/results/", _API + "heartbeat/")
_FILE: Final = _API + "file="
_SMALL: Final = 2**20
_LOGIN: Final = 4096
_AT_ONCE: Final = 4
_HEAD: Final = frozenset({"/", "/health", "/docs", "/openapi.json"})
_FORWARDED: Final = ("x-forwarded-", "forwarded", "x-gradio-", "x-original-", "x-direct-url")
"""Headers by which a client could make Gradio believe that the page has another address."""


class Hosts:
    """The names under which the server answers.

    Other websites can let their own names point to this machine (DNS rebinding), and a browser
    would then take this server for a part of them.

    Args:
        host: the address that the server listens on.
        allowed: further names.
    """

    def __init__(self, host: str = "127.0.0.1", allowed: Collection[str] = ()) -> None:
        self._names = {name.lower().strip("[]") for name in (host, *allowed)}
        address = _ip(host)
        self._any_address = address is not None and address.is_unspecified

    def __contains__(self, authority: object) -> bool:
        """Whether a header Host names this server; its port does not matter."""
        if set(str(authority)) & set("@/?#\\"):
            return False
        name = _authority(f"//{authority}", "http")[0]
        if name is None:
            return False
        address = _ip(name)
        if address is not None and (address.is_loopback or self._any_address):
            return True  # no other website can have an address as its name
        return name in self._names or name == "localhost" or name.endswith(".localhost")


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _authority(address: str, scheme: str) -> tuple[str | None, int | None]:
    """Name and port of `//name:port`; those of no website where it is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname, parts.port or (443 if scheme == "https" else 80)
    except ValueError:
        return None, None


def _names_same(origin: str, host: str) -> bool:
    """Whether a header Origin is that of the page at `host`, by whichever scheme."""
    scheme = origin.partition(":")[0].lower()
    name, port = _authority(origin, scheme)
    same = (name, port) == _authority(f"//{host}", scheme)
    return same and name is not None and scheme in ("http", "https")


class Guard:
    """The outermost ASGI application.

    Args:
        app: the application to protect.
        limits: of uploads.
        folder: the server's temporary folder, the only one whose files are served.
        password: None where none is required.
        hosts: the names under which the server answers.
        is_call: whether the JSON of a request is a call of the page.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        folder: Path,
        password: Password | None,
        hosts: Hosts,
        is_call: Callable[[Any], bool],
    ) -> None:
        self.app, self.limits, self.password, self.hosts = app, limits, password, hosts
        self.folder = folder.resolve()
        self._is_call = is_call
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._budget = Budget(10 * max(limits.image_bytes, limits.video_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = Answer(send, private=not scope["path"].startswith(("/assets/", "/static/")))
        try:
            await self._serve(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Left:
            return
        except Exception as error:
            path = printable(scope["path"])[:100]
            _logger.error("%s %s failed", scope["method"], path, exc_info=error)
            await answer.refuse(Refusal(500, "the server failed on this request"))

    async def _serve(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        pairs = [
            (name, value)
            for name, value in scope["headers"]
            if not name.lower().startswith(tuple(text.encode() for text in _FORWARDED))
        ]
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in pairs}
        path, method = scope["path"], scope["method"]
        self._check_origin(headers, method)
        if not await self._enter(scope, headers, receive, answer):
            return
        self._check_path(path, method)
        # The connection, which knows the scope as it was, sends no body in response to HEAD.
        as_get = method == "HEAD" and path in _HEAD
        scope = {**scope, "headers": pairs, "method": "GET" if as_get else method}
        if method != "POST":
            await self._page(scope, receive, answer)
            return
        with self._body(scope, receive, self._allowed(path)) as body:
            await body.fill(headers.get("content-length", ""))
            if path == _API + "queue/join":
                self._check_call(body.read())
            if path == _API + "upload":
                self._check_capacity()
                await self._upload(scope, body, answer)
            else:
                await self.app(scope, body.pass_on, answer.send)

    async def _page(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        """Let the application respond; only some responses per address are computed at a time.

        So a client with many requests waits for itself, and others are served in between.
        """
        turns = self._turns.setdefault(_address(scope), asyncio.Semaphore(_AT_ONCE))
        turn = turns if scope["path"] not in OPEN else asyncio.Semaphore()
        await turn.acquire()
        computed = False

        async def send(message: Message) -> None:
            nonlocal computed
            if not computed:
                computed = True
                turn.release()
            await answer.send(message)

        try:
            await self.app(scope, receive, send)
        finally:
            if not computed:
                turn.release()

    async def _upload(self, scope: Scope, body: Body, answer: Answer) -> None:
        """Let Gradio store an upload; it fails with errors of any class where a form is odd."""

        failed = False

        async def send(message: Message) -> None:
            nonlocal failed
            failed = failed or message.get("status", 0) >= 500
            if not failed:
                await answer.send(message)

        try:
            await self.app(scope, body.pass_on, send)
        except OSError:  # a full disk
            raise
        except Exception:
            failed = True
        if failed:
            raise Refusal(422, "the form cannot be read; send one or more files")

    def _body(self, scope: Scope, receive: Receive, allowed: tuple[int, str]) -> Body:
        long = scope["path"] in ("/predict/video", _API + "upload")
        seconds = self.limits.video_timeout if long else self.limits.timeout
        return Body(receive, allowed, seconds, self.folder, self._budget, _address(scope))

    def _check_origin(self, headers: dict[str, str], method: str) -> None:
        """Raise `Refusal` for another name than the server's, and a POST of another website."""
        host = headers.get("host", "")
        if host not in self.hosts:
            name = printable(host)[:100]
            raise Refusal(
                421,
                f"this server does not answer to the name '{name}'; start it with --allow-host "
                f"NAME if it is meant to",
            )
        if method in ("GET", "HEAD"):
            return
        # Browsers send one or both of them; programs send neither.
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        own = origin is None or _names_same(origin, host)
        if not own or site not in ("none", "same-origin"):
            raise Refusal(403, "other websites cannot send requests to this server")

    async def _enter(
        self, scope: Scope, headers: dict[str, str], receive: Receive, answer: Answer
    ) -> bool:
        """Return whether the request may continue; otherwise raise `Refusal` or respond here."""
        path, method = scope["path"], scope["method"]
        if self.password is None or path in OPEN:
            return True
        if path == "/login":
            await self._login(scope, headers, receive, answer)
            return False
        if path == "/logout":
            self.password.end_session(headers)
            await answer.redirect(f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
            return False
        if await self.password.admits(headers, _address(scope)):
            return True
        if (
            "authorization" not in headers
            and method == "GET"
            and "text/html" in headers.get("accept", "")
        ):
            await answer.page(401, login_page())
            return False
        await answer.refuse(
            Refusal(401, "a password is needed: Authorization: Bearer PASSWORD, or Basic"),
            {"WWW-Authenticate": 'Basic realm="affectnet", charset="UTF-8"'},
        )
        return False

    async def _login(
        self, scope: Scope, headers: dict[str, str], receive: Receive, answer: Answer
    ) -> None:
        assert self.password is not None
        if scope["method"] != "POST":
            await answer.page(200, login_page())
            return
        with self._body(scope, receive, (_LOGIN, "")) as body:
            await body.fill(headers.get("content-length", ""))
            text = body.read().decode("utf-8", "replace")
        given = parse_qs(text).get("password", [""])[0]
        if await self.password.fits(given, _address(scope)):
            self.password.end_session(headers)
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            ticket = self.password.new_ticket()
            await answer.redirect(f"{COOKIE}={ticket}; Path=/; HttpOnly; SameSite=Strict{secure}")
        else:
            await answer.page(401, login_page("Wrong password."))

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

    def _check_call(self, data: bytes) -> None:
        """Raise `Refusal` unless it is a call of the page, with paths of uploads to this server."""
        try:
            call = json.loads(data)
            self._check_paths(call)
        except (ValueError, RecursionError):
            raise Refusal(422, "the request is not valid JSON") from None
        if not self._is_call(call):
            raise Refusal(422, "the request is not a call of the page")

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
        """Raise `Refusal` where the stored uploads fill the disk."""
        stored = 0
        for file in self.folder.rglob("*"):
            with suppress(OSError):  # it may be deleted meanwhile
                stored += file.stat().st_size
        if stored > 10 * self.limits.video_bytes:
            raise Refusal(503, "the server is busy with other uploads; try again", retry_after=3)

    def _allowed(self, path: str) -> tuple[int, str]:
        """Return the maximum bytes of a request to this address, and the flag that changes it."""
        if path in ("/predict", "/live"):
            return self.limits.image_bytes, "--max-mb"
        if path == "/predict/video":
            return self.limits.video_bytes, "--max-video-mb"
        if path == _API + "upload":
            largest = max(self.limits.image_bytes, self.limits.video_bytes)
            return largest, "--max-video-mb"
        return _SMALL, ""


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""
