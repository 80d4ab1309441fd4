"""The password of the server: comparison, sessions of browsers, and the page that asks for it."""

import asyncio
import base64
import binascii
import hmac
import html
import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Final

from affectnet.serve.places import Refusal

COOKIE: Final = "affectnet"
PAUSE: Final = 0.5
"""Seconds between two comparisons for an address that gave a wrong password."""
_MAX_WAITING: Final = 8
_MAX_ADDRESSES: Final = 10_000
_MAX_SESSIONS: Final = 1000


class Throttle:
    """Slows down the addresses that give wrong passwords.

    Such an address takes a turn before each further comparison, so that a wrong and a right
    password wait the same time, and many at once gain nothing. The others never wait.
    """

    def __init__(self) -> None:
        self._next: dict[str, float] = {}  # when the next comparison is due
        self._waiting: Counter[str] = Counter()

    async def turn(self, address: str) -> None:
        """Wait until a password of this address may be compared.

        Raises `Refusal` (429) where too many of its requests wait already.
        """
        due, now = self._next.get(address, 0.0), time.monotonic()
        if due <= now:
            return
        if self._waiting[address] >= _MAX_WAITING:
            raise Refusal(429, "too many wrong passwords; try again later", retry_after=10)
        self._next[address] = due + PAUSE
        self._waiting[address] += 1
        try:
            await asyncio.sleep(due - now)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    def failed(self, address: str) -> None:
        """Note a wrong password."""
        if len(self._next) >= _MAX_ADDRESSES:
            now = time.monotonic()
            waiting = {known: due for known, due in self._next.items() if due > now}
            # Where all of them wait, the first to come is forgotten.
            self._next = dict(list(waiting.items())[-_MAX_ADDRESSES + 1 :])
        due = self._next.pop(address, 0.0)  # to the end
        self._next[address] = max(due, time.monotonic() + PAUSE)


class Password:
    """Checks the password of a request.

    A browser signs in on the login page and gets a ticket in a cookie, which is valid until it
    signs out or the server stops. Programs send HTTP Basic (any user name) or `Authorization:
    Bearer PASSWORD` with every request. Comparisons take constant time.
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret)
        self._tickets: dict[bytes, None] = {}  # digests, the oldest first
        self._throttle = Throttle()

    async def fits(self, given: str, address: str) -> bool:
        """Return whether it is the password; an address that was wrong before waits.

        Raises `Refusal` (429) where too many requests of the address wait.
        """
        network = _network(address)
        await self._throttle.turn(network)
        right = hmac.compare_digest(_digest(given), self._digest)
        if not right:
            self._throttle.failed(network)
        return right

    def new_ticket(self) -> str:
        """Return the value of a cookie for a new session; beyond 1,000 the oldest one ends."""
        ticket = secrets.token_urlsafe(32)
        self._tickets[_digest(ticket)] = None
        if len(self._tickets) > _MAX_SESSIONS:
            del self._tickets[next(iter(self._tickets))]
        return ticket

    def end_session(self, headers: Mapping[str, str]) -> None:
        """Make the ticket of a request invalid."""
        self._tickets.pop(_ticket(headers), None)

    async def admits(self, headers: Mapping[str, str], address: str) -> bool:
        """Return whether a request with these headers (names in lower case) is admitted.

        Raises `Refusal` as `fits`.
        """
        given = _given(headers.get("authorization", ""))
        if given is not None:
            return await self.fits(given, address)
        return _ticket(headers) in self._tickets


def _given(authorization: str) -> str | None:
    """Return the password in a header; None where there is none."""
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "bearer":
        try:  # programs send UTF-8; the header is given as Latin-1
            return rest.strip().encode("latin-1").decode()
        except UnicodeError:
            return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
    return None


def _ticket(headers: Mapping[str, str]) -> bytes:
    """Return the digest of the ticket in a request's cookie."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        morsel = None
    return b"" if morsel is None else _digest(morsel.value)


def _network(address: str) -> str:
    """Return what one visitor can choose addresses from: a whole /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


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
