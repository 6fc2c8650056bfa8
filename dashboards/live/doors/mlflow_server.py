"""MLflow's own pages as a child process: started when somebody first asks for them, ended with the page.

They ask nobody's name, so they listen on a Unix socket in a folder that this user alone may enter, and on no port.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from dashboards.live.doors.mlflow_command import server_environment, socket_command
from dashboards.live.doors.proxy import PREFIX, SECONDS
from dashboards.live.reading.words import words

HOST: Final = "mlflow"  # as requests name it
END_SECONDS: Final = 5.0
PATIENCE: Final = 3.0  # for it to come up, while somebody waits for an answer
LOOK_SECONDS: Final = 0.25
SAID_BYTES: Final = 2000  # of what one that died has said
LONGEST_FOLDER: Final = 60  # a socket's path has 107 bytes at most (unix(7))
PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)  # before the process is split


class MlflowServer:
    """The child process. `asked` starts it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._client: httpx.AsyncClient | None = None
        self._answers = False

    async def asked(self) -> httpx.AsyncClient | str:
        """What asks it; while it does not answer, why not in words, "" while it is on its way up."""
        if self._process is None or (self._answers and self._process.poll() is not None):
            self._client = self._start()
        client, process = self._client, self._process
        assert client is not None
        assert process is not None
        for _ in range(0 if self._answers else round(PATIENCE / LOOK_SECONDS)):
            if process.poll() is not None:
                return self._died(process)
            with suppress(httpx.HTTPError):
                self._answers = (await client.get(f"{PREFIX}/health", timeout=2.0)).status_code == 200
                break
            await asyncio.sleep(LOOK_SECONDS)
        return client if self._answers else ""

    def end(self) -> None:
        """End it and all that it has started."""
        if self._process is not None:
            self._end(self._process)
        self._process, self._answers = None, False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _died(self, process: subprocess.Popen[bytes]) -> str:
        """What one said that never answered; the next who asks starts another."""
        said = b""
        if self._folder is not None:
            with suppress(OSError):
                said = (self._folder / "log").read_bytes()[-SAID_BYTES:]
        if process is self._process:
            self._process = None
        return words(f"MLflow ended with {process.returncode} before it answered:\n{said.decode(errors='replace')}")

    def _start(self) -> httpx.AsyncClient:
        if self._folder is None:
            usual = tempfile.gettempdir()
            made = tempfile.mkdtemp(prefix="sweeper-", dir=usual if len(usual) <= LONGEST_FOLDER else "/tmp")
            self._folder = Path(made)  # of mode 0700
        place, self._answers = self._folder / "mlflow", False
        place.unlink(missing_ok=True)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                socket_command(str(place), HOST, "--static-prefix", PREFIX),
                env={**os.environ, **server_environment(self._uri)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_its_parent,
            )
        transport = httpx.AsyncHTTPTransport(uds=str(place))
        return httpx.AsyncClient(
            transport=transport, base_url=f"http://{HOST}", timeout=SECONDS, follow_redirects=False, trust_env=False
        )


def _end_with_its_parent() -> None:
    """Have the system end it when the page is killed."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
