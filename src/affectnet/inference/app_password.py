"""The optional password in front of everything that is served: page, files and HTTP API."""

import asyncio
import base64
import binascii
import hmac
import html
import secrets
from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Final

COOKIE: Final = "affectnet"
_PAUSE: Final = 0.5
_MOST_WAITING: Final = 20


class Password:
    """Tells who may come in.

    A browser signs in on a page of its own and keeps a cookie until the server stops; programs send
    HTTP Basic (any user name) or `Authorization: Bearer PASSWORD` with every request. Comparisons
    take the same time whatever is given.
    """

    def __init__(self, secret: str) -> None:
        self._digest = _digest(secret)
        self.ticket = secrets.token_urlsafe(32)
        """What the cookie holds; new with each start."""
        self._failing = asyncio.Lock()
        self._waiting = 0

    def fits(self, given: str) -> bool:
        """Whether it is the password."""
        return hmac.compare_digest(_digest(given), self._digest)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case) may come in."""
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
        """Wait after a wrong password, one after the other; False where too many wait already."""
        if self._waiting >= _MOST_WAITING:
            return False
        self._waiting += 1
        try:
            async with self._failing:
                await asyncio.sleep(_PAUSE)
        finally:
            self._waiting -= 1
        return True


def _as_utf8(header: str) -> str:
    """Headers come decoded as Latin-1; programs send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def login_page(reason: str = "") -> str:
    """Return the page that asks for the password."""
    said = f'<p class="wrong" role="alert">{html.escape(reason)}</p>' if reason else ""
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
<h1>affectnet</h1>{said}
<label>Password <input type="password" name="password" autocomplete="current-password" required
  autofocus></label>
<button>Sign in</button></form></body></html>"""
