"""The page as an application: its views behind the guard, MLflow beside them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from dashboards.live.doors.guard import Asgi, Guard, Keys
from dashboards.live.doors.mlflow_server import MlflowServer
from dashboards.live.doors.proxy import proxied
from dashboards.live.page.overview import overview
from dashboards.live.page.parts import Desk
from dashboards.live.page.study import study_page

MESSAGE_BYTES = 1 << 20  # of one message of a browser


def page_of(desk: Desk, keys: Keys, mlflow: MlflowServer | None) -> Asgi:
    """The application. `mlflow`: the server of its pages, None where it is one of its own elsewhere."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        desk.watcher.start()
        try:
            yield
        finally:
            desk.watcher.stop()
            if mlflow is not None:
                mlflow.end()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=living)

    def of_study(name: str) -> None:
        study_page(unquote(name), desk)

    ui.page("/")(lambda: overview(desk))
    ui.page("/study/{name}")(of_study)
    ui.run_with(app, title="sweeper", dark=None, show_welcome_message=False, reconnect_timeout=10.0, favicon="📈")
    inside: Asgi = app if mlflow is None else proxied(mlflow.asked, app)
    return Guard(inside, keys)


def listener(host: str, port: int) -> socket.socket:
    """A place that browsers can come to; who comes before the page is served waits. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def serve(app: Asgi, place: socket.socket) -> None:
    """Serve it there until it is stopped."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        ws_max_size=MESSAGE_BYTES, timeout_graceful_shutdown=3,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[place])
