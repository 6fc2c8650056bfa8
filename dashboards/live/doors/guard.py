"""The door of the page: lets in who has the token, from the page's own address, by HTTP and at a websocket's start.

The token stands in the printed link. Who comes with it gets a cookie that no script reads and no other site's page
sends. Everything else is refused before the page or MLflow hears of it: an address that is not ours (which a name that
was bound to 127.0.0.1 would have), a page of another origin, a request without the cookie.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN: Final = "t"  # `token` is hidden wherever this program prints it
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
NO_TOKEN: Final = "This page needs the link that `sweeper ui` printed, with its token."
FOREIGN: Final = "This request comes from another page, or asks for another address, than the one that was printed."
# Vue makes its templates in the browser, hence 'unsafe-eval'; nothing is loaded from anywhere else.
POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS: Final = (
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Keys:
    """Who may come in. `hosts`: the addresses of the page as a browser says them, `name:port`; `token` stands in the
    link, `cookie` is what is got for it.
    """

    hosts: frozenset[str]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def of(cls, host: str, port: int, more: Iterable[str] = ()) -> Keys:
        """Keys of a page at this address; one of this machine's own is known by all names of it."""
        shown = f"[{host}]" if ":" in host else host
        names = {*LOOPBACK, shown, *more}
        return cls(frozenset(f"{name}:{port}".lower() for name in names))

    @property
    def cookie_name(self) -> str:
        """Cookies know no ports: pages of one machine would take each other's away."""
        ports = {host.rpartition(":")[2] for host in self.hosts}
        return f"sweeper_{'_'.join(sorted(ports))}"

    def link(self, address: str, path: str = "/") -> str:
        """The link to print."""
        return f"{address}{quote(path)}?{urlencode({TOKEN: self.token})}"


class Guard:
    """Stands before an application, which hears only of requests that may come in."""

    def __init__(self, inside: Asgi, keys: Keys) -> None:
        self._inside, self._keys = inside, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._inside(scope, receive, send)
        headers = _headers(scope)
        if scope["type"] == "websocket":
            if self._is_ours(headers, needs_origin=True) and self._has_cookie(headers):
                return await self._inside(scope, receive, send)
            return await send({"type": "websocket.close", "code": 4403})  # before it is accepted: answered with 403
        if scope["type"] != "http":
            return None
        given = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        has_token = TOKEN in given and scope["method"] == "GET" and _same(given[TOKEN], self._keys.token)
        if has_token and "origin" not in headers and self._is_here(headers):  # wherever the link stood
            return await self._let_in(scope, given, send)
        if not self._is_ours(headers, needs_origin=False):
            return await _answer(send, 403, FOREIGN)
        if not self._has_cookie(headers):
            return await _answer(send, 403, NO_TOKEN)
        return await self._inside(scope, receive, _with_headers(send))

    def _is_here(self, headers: Mapping[str, str]) -> bool:
        return headers.get("host", "").lower() in self._keys.hosts

    def _is_ours(self, headers: Mapping[str, str], *, needs_origin: bool) -> bool:
        """Whether a request comes from this page or was typed. Another port of this machine is another page, though a
        browser calls it the same site and brings the cookie along.
        """
        if not self._is_here(headers):
            return False
        origin = headers.get("origin")
        if origin is None:
            return not needs_origin and headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        try:
            parts = urlsplit(origin)
        except ValueError:  # such as http://[
            return False
        return parts.scheme == "http" and parts.netloc.lower() in self._keys.hosts

    def _has_cookie(self, headers: Mapping[str, str]) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._keys.cookie_name)
        except CookieError:
            return False
        return found is not None and _same(found.value, self._keys.cookie)

    async def _let_in(self, scope: Scope, given: Mapping[str, str], send: Send) -> None:
        """Set the cookie, and have our own page open the address without the token: a redirect from a page of another
        site would not bring the cookie along.
        """
        rest = urlencode({name: value for name, value in given.items() if name != TOKEN})
        path = "/" + quote(scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
        cookie = f"{self._keys.cookie_name}={self._keys.cookie}; HttpOnly; SameSite=Strict; Path=/"
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={path}">'
        more = [(b"set-cookie", cookie.encode()), (b"content-type", b"text/html; charset=utf-8")]
        await _answer(send, 200, page.replace("&", "&amp;"), more)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _headers(scope: Scope) -> dict[str, str]:
    """The headers of a request; one that is said twice counts as neither, unless it is a cookie."""
    found: dict[str, str] = {}
    for raw, value in scope.get("headers", []):
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}; {text}" if name in found else text
    return found


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in _HEADERS} | {b"content-security-policy"}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            message["headers"] = [*kept, *_HEADERS, (b"content-security-policy", POLICY.encode())]
        await send(message)

    return sent


async def _answer(send: Send, status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    headers = [*_HEADERS, (b"cache-control", b"no-store"), *more]
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"text/plain; charset=utf-8"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
