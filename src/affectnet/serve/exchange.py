"""One request: its body, received within limits before anything is done, and its response."""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final, Self

from affectnet.serve.places import Refusal, too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_EXTRA: Final = 2**16
"""Multipart bodies contain a little more than the file."""
_IDLE: Final = 20.0
_IN_MEMORY: Final = 2**18
_CHUNK: Final = 2**20
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    # With no-referrer, browsers would send `Origin: null` with the form of the login page.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        b"style-src 'self' 'unsafe-inline'; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
)


class Left(Exception):
    """The client has closed the connection."""


class Budget:
    """Bytes of bodies that are held at a time, in all and for each address at most half of it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: Counter[str] = Counter()

    def take(self, address: str, size: int) -> None:
        """Count further bytes; raises `Refusal` (503) beyond the limits."""
        if self._held.total() + size > self.most or self._held[address] + size > self.most // 2:
            raise Refusal(503, "the server is busy with other uploads; try again", retry_after=3)
        self._held[address] += size

    def give(self, address: str, size: int) -> None:
        """Return bytes that were taken."""
        self._held[address] -= size
        if not self._held[address]:
            del self._held[address]


class Body:
    """A request's body: received whole, in memory or in a file that vanishes, then passed on.

    A client that sends slowly occupies nothing else meanwhile. A context manager, which releases
    the memory and the file.

    Args:
        receive: of the request.
        allowed: bytes at most, and the flag that changes the limit.
        seconds: time to receive all of it.
        folder: for the file.
        budget: shared by all requests.
        address: of the client.
    """

    def __init__(
        self,
        receive: Receive,
        allowed: tuple[int, str],
        seconds: float,
        folder: Path,
        budget: Budget,
        address: str,
    ) -> None:
        self._receive = receive
        self.allowed, self.setting = allowed
        self._deadline = time.monotonic() + seconds
        self._budget, self._address = budget, address
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._size = 0
        self._passed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._budget.give(self._address, self._size)

    async def fill(self, announced: str) -> None:
        """Receive the body; `announced` is the header Content-Length, or empty.

        Raises `Refusal` for a body that is too large or too slow, and `Left`.
        """
        if announced.isdecimal() and int(announced) > self.allowed + _EXTRA:
            raise too_large(int(announced), self.allowed, self.setting)
        more = True
        while more:
            wait = min(_IDLE, max(0.0, self._deadline - time.monotonic()))
            try:
                message = await asyncio.wait_for(self._receive(), wait)
            except TimeoutError:
                raise Refusal(408, "the upload took too long; try again") from None
            if message["type"] == "http.disconnect":
                raise Left
            chunk = message.get("body", b"")
            if self._size + len(chunk) > self.allowed + _EXTRA:
                raise too_large(None, self.allowed, self.setting)
            self._budget.take(self._address, len(chunk))
            self._size += len(chunk)
            self._file.write(chunk)
            more = message.get("more_body", False)
        self._file.seek(0)

    def read(self) -> bytes:
        """Return the whole body; it is passed on all the same."""
        data = self._file.read()
        self._file.seek(0)
        return data

    async def pass_on(self) -> Message:
        """The `receive` of the application: the body, then the end of the connection."""
        if self._passed:
            return await self._receive()
        chunk = self._file.read(_CHUNK)
        self._passed = len(chunk) < _CHUNK
        return {"type": "http.request", "body": chunk, "more_body": not self._passed}


class Answer:
    """Sends the application's response with the guard's headers, or a response of the guard."""

    def __init__(self, send: Send, private: bool) -> None:
        self._send, self._private = send, private
        self.started = False

    async def send(self, message: Message) -> None:
        """Pass on a message of the application."""
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
        """Respond with the refusal as JSON, unless a response has begun."""
        headers = {"Content-Type": "application/json", **refusal.headers, **(headers or {})}
        await self._respond(refusal.status, f"{json.dumps(refusal.to_dict())}\n".encode(), headers)

    async def page(self, status: int, text: str) -> None:
        """Respond with a page."""
        await self._respond(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    async def redirect(self, cookie: str) -> None:
        """Redirect to the page and set a cookie."""
        await self._respond(303, b"", {"Location": "./", "Set-Cookie": cookie})

    async def _respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self.started:
            return
        pairs = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})
