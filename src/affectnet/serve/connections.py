"""Connections to the server: how many there may be, how long they may be silent, and the log."""

import asyncio
import logging
import socket
import time
import traceback
from collections.abc import Sequence
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from affectnet.errors import printable

HEADER_SECONDS: Final = 10.0
"""Time to send the headers of a request."""
_KEEP_ALIVE_SECONDS: Final = 5
_STOP_SECONDS: Final = 3
_MOST: Final = 512
_BACKLOG: Final = 256
_ACCEPTED_AT_ONCE: Final = 16
"""Some times as many are open before `Connections` sees them: fewer than `_SPARE_FILES`."""
_SPARE_FILES: Final = 128
_FILES_EACH: Final = 3
"""A connection, its upload, and the upload's copy in a form."""
_LOG_LINES, _LOG_SECONDS = 20, 60.0


class Connections:
    """The open connections, by address of the client.

    Beyond the limits, a new connection takes the place of an old one: the oldest that waits for a
    request, or else the oldest. One client that opens many thus closes its own.

    Args:
        most: in all.
        proxies: addresses that many clients share, for which only the limit in all applies.
    """

    def __init__(self, most: int, proxies: Sequence[str] = ()) -> None:
        self.most, self.most_each = most, max(8, most // 4)
        self._proxies = frozenset(proxies)
        self._open: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def add(self, new: "Connection") -> None:
        """Count a connection; close another where there are too many."""
        here = self._open.get(new.address, {})
        if len(here) >= self.most_each and new.address not in self._proxies:
            self._close_one(here)
        elif self._count >= self.most:
            self._close_one(max(self._open.values(), key=len))
        self._open.setdefault(new.address, {})[new] = None
        self._count += 1

    def remove(self, old: "Connection") -> None:
        """Count a connection no more."""
        here = self._open.get(old.address, {})
        if old in here:
            del here[old]
            self._count -= 1
            if not here:
                del self._open[old.address]

    def _close_one(self, among: "dict[Connection, None]") -> None:
        old = next((one for one in among if one.is_waiting), next(iter(among)))
        self.remove(old)
        old.transport.abort()


class Connection(H11Protocol):
    """uvicorn's connection with a limit of time for the headers; see `Connections`."""

    all: Connections

    address = ""
    _late: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request has arrived, or the last one is answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.all.add(self)
        self._watch()

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # h11 gets bytes in a state in which it cannot even refuse them
            self.transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.remove(self)
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.is_waiting and self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif not self.is_waiting and self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_BACKLOG)  # the system's queue, which asyncio makes as long as its own


class FewLines(logging.Handler):
    """Writes log records in one line each, at most 20 per minute, so that no client floods it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._since, self._count = time.monotonic(), 0
        self._output = logging.StreamHandler()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        now = time.monotonic()
        if now - self._since > _LOG_SECONDS:
            left_out, self._since, self._count = self._count - _LOG_LINES, now, 0
            if left_out > 0:
                self._write(f"{left_out:,} further messages were left out", record)
        self._count += 1
        if self._count <= _LOG_LINES:
            self._write(_one_line(record), record)

    def _write(self, text: str, like: logging.LogRecord) -> None:
        level = like.levelname.lower()
        line = {"msg": f"affectnet serve: {level}: {text}", "levelno": like.levelno}
        self._output.emit(logging.makeLogRecord(line))


def _one_line(record: logging.LogRecord) -> str:
    text = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        text += f": {type(error).__name__}: {error}{where}"
    return printable(" ".join(text.split()))[:500]


def make_server(app: Any, proxies: Sequence[str] = (), **settings: Any) -> uvicorn.Server:
    """Return the server of an ASGI application.

    Args:
        app: the application.
        proxies: addresses of reverse proxies; they are believed from which address and by which
            scheme a request has come.
        settings: further settings of uvicorn.
    """
    connections = Connections(_most_connections(), proxies)
    config = uvicorn.Config(
        app,
        http=type("Connection", (Connection,), {"all": connections}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        **settings,
    )
    handler = FewLines()
    for name in ("uvicorn", "asyncio", "affectnet.serve"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    return _Server(config)


def _most_connections() -> int:
    """Return how many connections the limit of open files allows; it is raised where possible."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MOST
    wanted = _MOST * _FILES_EACH + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return max(16, min(_MOST, (soft - _SPARE_FILES) // _FILES_EACH))
