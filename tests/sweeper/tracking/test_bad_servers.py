"""MLflow servers that are gone, hang, fail or are none: told in time and in a sentence, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from dashboards.store import connection
from dashboards.store.connection import StoreAway, StoreError, connect
from dashboards.store.records import load_records
from sweeper.tracking import outbox
from sweeper.tracking.tracker import Tracker
from tests.sweeper.tracking.test_away import journal, told_by, write_two_runs
from tests.sweeper.tracking.test_tracker import SPEC


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes, float], str]]:
    """`serve(status, body, seconds)` gives the URI of a server that answers everything so, after that time."""
    servers = []

    def start(status: int, body: bytes, seconds: float) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                time.sleep(seconds)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://someone:hush-hush@127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"Internal Server Error"),
        (503, b""),
        (429, b"slow down"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "disk gone"}'),
    ],
)
def test_a_server_that_fails_is_away(serve: Callable[..., str], status: int, body: bytes) -> None:
    with pytest.raises(StoreAway, match="does not answer as it should") as error:
        connect(serve(status, body, 0.0))
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>not MLflow</html>"), (404, b"no"), (401, b"who are you?")])
def test_a_server_that_is_no_store_for_us_is_refused_in_a_sentence(
    serve: Callable[..., str], status: int, body: bytes
) -> None:
    with pytest.raises(StoreError) as error:
        connect(serve(status, body, 0.0))
    assert "hush" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_server_that_hangs_is_away_after_the_limit_of_a_request(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 1)
    with pytest.raises(StoreAway):
        connect(serve(200, b"{}", 60.0))


def test_nobody_at_the_address_is_away() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://someone:hush-hush@127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(StoreAway, match="cannot be reached") as error:
        connect(uri)
    assert "hush" not in str(error.value)


class Server:
    """A real MLflow server on the store of `folder`, which can be frozen, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--default-artifact-root"]
        place = [f"{self._folder}/artifacts", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        with (self._folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "mlflow", "server", *store, *place]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        while True:
            try:
                connect(self.uri)
                return
            except StoreAway:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.3)

    def signal(self, number: int) -> None:
        for process in [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]:
            process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(empty_mlflow: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_real_server_that_freezes_dies_and_returns_misses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 2)
    working = tmp_path / "working"
    told: list[str] = []
    tracker = Tracker(server.uri, working, told.append)
    tracker.open_study(SPEC, "study: pilot\n")
    write_two_runs(tracker)
    undisturbed = told_by(tmp_path)
    server.signal(signal.SIGSTOP)
    write_two_runs(tracker)
    assert len(told) == 1
    server.kill()
    write_two_runs(tracker)
    tracker.close_study(finished=True)
    assert tracker.undelivered
    assert journal(working).is_file()
    server.start()
    again = Tracker(server.uri, working, told.append)
    again.open_study(SPEC, "study: pilot\n")
    assert not journal(working).exists()
    records = [record.model_copy(update={"run_id": ""}) for record in load_records(server.uri, "pilot")]
    assert sorted(map(repr, records)) == sorted(map(repr, undisturbed * 3))
    assert len(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "")) == 0
