"""MLflow behind the same door: a server of its own on a socket of this user, asked on behalf of who came in.

It takes no one else's word that the request comes from this machine (`X-Forwarded-For` says from where), and its routes
that run code or spend money (assistant, jobs, gateway, scorers) do not exist here. Its websockets neither.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from urllib.parse import unquote

import httpx

from dashboards.live.doors.guard import Asgi, Receive, Scope, Send, _answer, _headers

PREFIX: Final = "/mlflow"
SECONDS: Final = 120.0
BLOCKED: Final = re.compile(
    r"/assistant(/|$)|/jobs(/|$)|/gateway|/scorers?/|/invoke(/|$)|/invocations(/|$)|/promptlab|/create-promptlab-run"
    r"|/mcp(/|$)|/mcp-|/ui-telemetry",
    re.IGNORECASE,
)
NOT_HERE: Final = "This part of MLflow is not reached through this page."
NOT_YET: Final = (
    '<!doctype html><meta charset="utf-8"><title>MLflow</title><p>MLflow is on its way up ...</p>'
    "<script>setTimeout(() => location.reload(), 2000)</script>"
)
# Of one connection, not of the request; and what says who came in here.
_OURS: Final = frozenset(
    {"host", "cookie", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "origin", "referer"}
    | {"proxy-authorization", "proxy-authenticate", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
    | {"forwarded", "x-real-ip", "accept-encoding"}
)

Upstream = Callable[[], Awaitable[httpx.AsyncClient | str]]
"""What asks MLflow's server, started where it is not; why it does not answer in words, "" while it is on its way up."""


def is_blocked(path: str) -> bool:
    """Whether a path, however it is written, leads to a route that is not to be reached."""
    plain = path
    for _ in range(3):
        plain = unquote(plain)
    plain = re.sub(r"/+", "/", plain.replace("\\", "/"))
    # A "#" as it is ends the path for who asks MLflow, and not for who looks here; no browser sends one.
    return "#" in path or bool(BLOCKED.search(plain)) or "/../" in f"{plain}/" or "/./" in f"{plain}/"


def proxied(upstream: Upstream, otherwise: Asgi) -> Asgi:
    """An application that asks MLflow for what lies below `PREFIX`, and the other one for the rest."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or not (path == PREFIX or path.startswith(f"{PREFIX}/")):
            return await otherwise(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 4404})
        raw = scope.get("raw_path", b"").decode("latin-1") or path
        if is_blocked(raw) or is_blocked(path):
            return await _answer(send, 404, NOT_HERE)
        client = await upstream()
        if isinstance(client, str) and client:
            return await _answer(send, 502, client)
        if isinstance(client, str):
            html = (b"content-type", b"text/html; charset=utf-8")
            return await _answer(send, 503, NOT_YET, [(b"retry-after", b"2"), html])
        try:
            await _pass_on(client, raw, scope, receive, send)
        except httpx.HTTPError:
            await _answer(send, 502, "MLflow does not answer.")

    return app


async def _pass_on(client: httpx.AsyncClient, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    query = scope.get("query_string", b"").decode("latin-1")
    headers = {name: value for name, value in _headers(scope).items() if name not in _OURS}
    headers["x-forwarded-for"] = (scope.get("client") or ("unknown",))[0]
    asked = client.build_request(
        scope["method"],
        path + (f"?{query}" if query else ""),
        headers=headers,
        content=_body(receive) if scope["method"] not in ("GET", "HEAD") else None,
    )
    answer = await client.send(asked, stream=True)
    try:
        kept = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"connection", b"transfer-encoding", b"set-cookie", b"server", b"date")
            and not name.lower().startswith(b"access-control-")
        ]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        async for piece in answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await answer.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
