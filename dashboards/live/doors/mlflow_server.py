"""MLflow's own pages as a child process: started when somebody first asks for them, ended with the page."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
from contextlib import suppress
from typing import Final

import httpx

from dashboards.live.doors.mlflow_command import server_command, server_environment
from dashboards.live.doors.proxy import PREFIX

LOOPBACK: Final = "127.0.0.1"
END_SECONDS: Final = 5.0
PATIENCE: Final = 3.0  # for it to come up, while somebody waits for an answer
LOOK_SECONDS: Final = 0.25
PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)  # before the process is split


class MlflowServer:
    """The child process. `address` starts it and gives its address once it answers."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._answers = False

    async def address(self) -> str | None:
        """Where it listens; None while it does not answer yet."""
        if self._process is None or self._process.poll() is not None:
            self._answers = False
            self._start()
        here = f"http://{LOOPBACK}:{self._port}"
        if not self._answers:
            with suppress(httpx.HTTPError):
                async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
                    for _ in range(round(PATIENCE / LOOK_SECONDS)):
                        with suppress(httpx.ConnectError):
                            self._answers = (await client.get(f"{here}{PREFIX}/health")).status_code == 200
                            break
                        await asyncio.sleep(LOOK_SECONDS)
        return here if self._answers else None

    def end(self) -> None:
        """End it and all that it has started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            self._port = free.getsockname()[1]
        hosts = f"{LOOPBACK}:{self._port}"
        self._process = subprocess.Popen(
            server_command(LOOPBACK, self._port, "--static-prefix", PREFIX, "--allowed-hosts", hosts),
            env={**os.environ, **server_environment(self._uri)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_its_parent,
        )


def _end_with_its_parent() -> None:
    """Have the system end it when the page is killed."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
