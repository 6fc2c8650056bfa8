"""Servers that tests start for themselves: in a temporary folder, on free ports, ended with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 60.0  # for a server to answer, on a machine that is busy with other tests


class NotStarted(Exception):
    """A server of a test does not come to answer: says which, with the end of its log."""


@contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """A folder that all users may enter, with a short path: that of a socket has a hundred characters at most."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, user: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a server that stays in the foreground, and that the kernel ends should the tests be killed."""
    bound = ["setpriv", "--pdeathsig", "INT", *command] if shutil.which("setpriv") else command
    with log.open("ab") as written:
        return subprocess.Popen(
            bound,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
        )


def end(server: subprocess.Popen[bytes], by: signal.Signals) -> None:
    """End a server and wait for it; one that does not go by itself is killed."""
    if server.poll() is None:
        server.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            server.wait(START_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()


def wait_for(answers: Callable[[], bool], what: str, log: Path, servers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until a server answers. Raises NotStarted where it ends before, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if time.monotonic() > deadline or any(server.poll() is not None for server in servers):
            told = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else "no log"
            raise NotStarted(f"{what} did not start:\n{told}")
        time.sleep(0.05)
