"""The command of MLflow's own pages, and what it finds in its environment."""

from __future__ import annotations

import shlex
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Final

SAFE_PATH: Final = {"PYTHONSAFEPATH": "1"}
"""In the environment: no Python process that is started from here takes code from the working folder."""


def server_command(host: str, port: int) -> list[str]:
    """The command of MLflow's pages at an address, for everybody who reaches it."""
    return _server(("--host", host, "--port", str(port)), ())


def socket_command(place: str, host: str, *more: str) -> list[str]:
    """The command of MLflow's pages on a Unix socket, which answer to the name `host` and believe who reaches the
    socket whom they ask for.
    """
    return _server(("--allowed-hosts", host, *more), ("--uds", place, "--forwarded-allow-ips", "*", "--no-access-log"))


def _server(words: Sequence[str], uvicorn: Sequence[str]) -> list[str]:
    """One web worker, that runs no module of the working folder."""
    # uvicorn puts a folder of its own choice first among those of modules, the working folder where none is named.
    of_modules = shlex.join((f"--app-dir={sysconfig.get_path('stdlib')}", *uvicorn))
    return [sys.executable, "-P", "-m", "mlflow", "server", "--workers", "1", "--uvicorn-opts", of_modules, *words]


def server_environment(uri: str) -> Mapping[str, str]:
    """The store of MLflow's pages: no argument, since every user of a machine reads those of a process. No jobs."""
    return {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **SAFE_PATH}
