"""Who comes in through the page's door: nobody without the token or its cookie, and nobody's page but ours."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboards.live.doors.guard import FOREIGN, NO_TOKEN, Guard, Keys
from dashboards.live.doors.mlflow_server import HOST, MlflowServer
from dashboards.live.doors.proxy import PREFIX, is_blocked, proxied

HERE = "127.0.0.1:5000"
KEYS = Keys.of("127.0.0.1", 5000)
Message = MutableMapping[str, Any]


async def inside(scope: Any, _receive: Any, send: Any) -> None:
    """What stands behind the door: answers with the path that it was asked for."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.accept"})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": f"in {scope['path']}".encode()})


def ask(path: str, method: str = "GET", host: str = HERE, **headers: str) -> httpx.Response:
    """Ask over HTTP."""
    transport = httpx.ASGITransport(app=Guard(inside, KEYS), client=("127.0.0.1", 40000))
    given = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HERE}") as client:
            return await client.request(method, path, headers=given)

    return asyncio.run(asked())


def shake_hands(host: str = HERE, **headers: str) -> str:
    """Begin a websocket, and give how that is answered."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in {"host": host, **headers}.items()]
    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io/", "headers": given, "query_string": b""}
    asyncio.run(Guard(inside, KEYS)(scope, receive, send))
    return str(sent[0]["type"])


COOKIE = f"{KEYS.cookie_name}={KEYS.cookie}"
OURS = f"http://{HERE}"


def test_the_link_gives_a_cookie_that_no_script_reads_and_opens_the_page_without_the_token() -> None:
    answer = ask(KEYS.link("", "/study/a b"))
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert KEYS.token not in cookie
    (target,) = re.findall(r"url=([^\"]*)", answer.text)
    assert target == "/study/a%20b"
    assert ask(target, cookie=cookie.partition(";")[0]).text == "in /study/a b"


def test_a_link_leads_to_no_other_site() -> None:
    (target,) = re.findall(r"url=([^\"]*)", ask(f"{OURS}//evil.example/?t={KEYS.token}").text)
    assert target.startswith("/evil.example")


@pytest.mark.parametrize("cookie", [None, "", f"{KEYS.cookie_name}=wrong", f"{KEYS.cookie_name}={KEYS.token}"])
def test_who_has_no_cookie_is_kept_out_also_on_this_machine(cookie: str | None) -> None:
    headers = {} if cookie is None else {"cookie": cookie}
    for path in ("/", "/_nicegui_ws/socket.io/?EIO=4", f"{PREFIX}/", "/?t=wrong"):
        answer = ask(path, **headers)
        assert (answer.status_code, answer.text) == (403, NO_TOKEN)
    assert shake_hands(origin=OURS, **headers) == "websocket.close"


@pytest.mark.parametrize("host", ["evil.example:5000", "127.0.0.1:5001", "127.0.0.1", "", "127.0.0.1:5000.evil"])
def test_another_host_is_refused_with_the_cookie_too(host: str) -> None:
    assert ask("/", host=host, cookie=COOKIE).text == FOREIGN
    assert ask(f"/?t={KEYS.token}", host=host).text == FOREIGN
    assert shake_hands(host=host, origin=OURS, cookie=COOKIE) == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:5000", "http://127.0.0.1:5001", "http://["]
)
def test_another_origin_is_refused_with_the_cookie_too(origin: str) -> None:
    for method in ("GET", "POST"):
        assert ask("/", method=method, origin=origin, cookie=COOKIE).text == FOREIGN
    assert shake_hands(origin=origin, cookie=COOKIE) == "websocket.close"


def test_a_websocket_names_its_origin_and_a_page_of_another_site_is_known_without_one() -> None:
    assert shake_hands(cookie=COOKIE) == "websocket.close"
    assert shake_hands(origin=OURS, cookie=COOKIE) == "websocket.accept"
    for site in ("cross-site", "same-site"):  # the second is another port of this machine
        assert ask("/", cookie=COOKIE, sec_fetch_site=site).text == FOREIGN
    assert ask("/", cookie=COOKIE, sec_fetch_site="same-origin").text == "in /"
    assert ask(KEYS.link(""), sec_fetch_site="cross-site").status_code == 200  # a link in another program's page
    assert ask(KEYS.link(""), origin="http://evil.example").text == FOREIGN
    assert ask("/", cookie=COOKIE, origin=OURS).text == "in /"


def test_what_comes_out_may_load_nothing_from_elsewhere_and_stand_in_no_other_page() -> None:
    headers = ask("/", cookie=COOKIE).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/mlflow/ajax-api/3.0/mlflow/assistant/message",
        "/mlflow/ajax-api/3.0/mlflow/assistant",
        "/mlflow/ajax-api/3.0/jobs/",
        "/mlflow/ajax-api/3.0/mlflow/jobs/cancel/1",
        "/mlflow/ajax-api/2.0/mlflow/gateway-proxy",
        "/mlflow/ajax-api/3.0/mlflow/gateway/secrets/config",
        "/mlflow/gateway/x/mlflow/invocations",
        "/mlflow/ajax-api/3.0/mlflow/scorer/invoke",
        "/mlflow/ajax-api/3.0/mlflow/genai/evaluate/invoke",
        "/mlflow/ajax-api/2.0/mlflow/runs/create-promptlab-run",
        "/mlflow/ajax-api/3.0/mlflow/%61ssistant/config",
        "/mlflow/ajax-api/3.0/mlflow/%2561ssistant/config",
        "/mlflow//ajax-api/3.0/mlflow//assistant//config",
        "/mlflow/x/../ajax-api/3.0/jobs",
        "/mlflow/ajax-api/3.0/mlflow/x/%2e%2e/runs/search",
        "/mlflow/ajax-api/3.0/mlflow/a#b",
    ],
)
def test_mlflows_routes_that_run_code_or_spend_money_are_not_here(path: str) -> None:
    assert is_blocked(path)


@pytest.mark.parametrize(
    "path",
    [
        "/mlflow/",
        "/mlflow/ajax-api/2.0/mlflow/runs/search",
        "/mlflow/ajax-api/2.0/mlflow/experiments/get",
        "/mlflow/static-files/static/js/main.js",
        "/mlflow/get-artifact",
        "/mlflow/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval",
    ],
)
def test_mlflows_pages_of_runs_are(path: str) -> None:
    assert not is_blocked(path)


def test_mlflow_is_told_who_asks_and_gets_neither_cookie_nor_origin_nor_what_a_browser_claims() -> None:
    asked: list[httpx.Request] = []

    def mlflow(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=body(), headers={"set-cookie": "a=b", "access-control-allow-origin": "*"})

    async def body() -> AsyncIterator[bytes]:
        yield b"runs"

    async def upstream() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(mlflow), base_url="http://mlflow")

    transport = httpx.ASGITransport(app=proxied(upstream, inside), client=("10.0.0.7", 40000))

    async def talk() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url=OURS) as browser:
            headers = {"cookie": COOKIE, "origin": OURS, "x-forwarded-for": "127.0.0.1", "x-mine": "1"}
            return (
                await browser.post(f"{PREFIX}/ajax-api/2.0/mlflow/runs/search?a=b", headers=headers, content=b"{}"),
                await browser.get("/study/x"),
                await browser.get(f"{PREFIX}/ajax-api/3.0/jobs/"),
            )

    through, beside, blocked = asyncio.run(talk())
    (seen,) = asked
    assert (through.text, beside.text, blocked.status_code) == ("runs", "in /study/x", 404)
    assert str(seen.url) == f"http://mlflow{PREFIX}/ajax-api/2.0/mlflow/runs/search?a=b"
    assert seen.headers["x-forwarded-for"] == "10.0.0.7"
    assert seen.headers["host"] == "mlflow"
    assert seen.headers["x-mine"] == "1"
    assert not {"cookie", "origin"} & set(seen.headers)
    assert not {"set-cookie", "access-control-allow-origin"} & set(through.headers)


# Listens on the socket as uvicorn does, without MLflow's seconds of imports.
SHORT = """
import socket, sys
place = sys.argv[1]
with socket.socket(socket.AF_UNIX) as here:
    here.bind(place)
    here.listen()
    while True:
        other, _ = here.accept()
        asked = other.recv(1 << 16).decode()
        said = "mlflow" if "host: mlflow" in asked.lower() else "nobody"
        head = f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(said)}\\r\\nConnection: close\\r\\n\\r\\n"
        other.sendall((head + said).encode())
        other.close()
"""


def test_mlflow_listens_where_this_user_alone_comes_in_and_on_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def short(place: str, *_: str) -> list[str]:
        places.append(Path(place))
        return [sys.executable, "-c", SHORT, place]

    monkeypatch.setattr("dashboards.live.doors.mlflow_server.socket_command", short)
    server = MlflowServer("sqlite:///mlflow.db")

    async def talk() -> str:
        client = await server.asked()
        assert not isinstance(client, str)
        return (await client.get(f"{PREFIX}/")).text

    try:
        assert asyncio.run(talk()) == HOST
        (place,) = places
        assert place.is_socket()
        assert place.parent.stat().st_mode & 0o777 == 0o700
    finally:
        server.end()
    assert not place.parent.exists()


def test_an_mlflow_that_died_at_once_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = [sys.executable, "-c", "raise SystemExit('no such store')"]
    monkeypatch.setattr("dashboards.live.doors.mlflow_server.socket_command", lambda *_: dead)
    server = MlflowServer("sqlite:///mlflow.db")
    app = proxied(server.asked, inside)

    async def talk() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=OURS) as browser:
            return await browser.get(f"{PREFIX}/")

    try:
        answer = asyncio.run(talk())
    finally:
        server.end()
    assert answer.status_code == 502
    assert "MLflow ended with 1" in answer.text
    assert "no such store" in answer.text
