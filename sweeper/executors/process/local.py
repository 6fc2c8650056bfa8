"""Starts workers as processes of this machine, which inherit their end of a connection: it has no address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from studies.records import Cause
from studies.text.files import open_file
from sweeper.executors.process.exit_causes import oom_counter, oom_kills, why_it_ended

# From the end of a process's connection to that of the process, mostly.
_BLINK_SECONDS: Final = 0.05


class LocalHandle:
    """See `Handle`."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket | None) -> None:
        self._process = process
        self.connection = connection
        self.place = f"process {process.pid}"
        self._oom_counter = oom_counter(process.pid)
        self._oom_kills = oom_kills(self._oom_counter)

    def state(self) -> Literal["waiting", "here", "gone"]:
        """See `Handle.state`: a process never waits."""
        return "here" if self._process.poll() is None else "gone"

    def begin(self) -> None:
        """See `Handle.begin`."""
        self._oom_kills = oom_kills(self._oom_counter)

    def kill(self) -> None:
        """See `Handle.kill`: the process and its children are one process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def why(self) -> tuple[Cause, str] | None:
        """See `Handle.why`. Kills the children that it has left."""
        try:
            code = self._process.wait(_BLINK_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        self.kill()
        return why_it_ended(code, self._oom_kills, oom_kills(self._oom_counter))


class Local:
    """See `Launcher`."""

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> LocalHandle:
        """See `Launcher.launch`."""
        ours, theirs = socket.socketpair()
        with theirs:
            words = [*command, f"fd:{theirs.fileno()}", str(os.getpid())]
            return LocalHandle(start_process(words, environment, log, (theirs.fileno(),)), ours)


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: Path, descriptors: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process with a session of its own, so that no Ctrl-C and no hang-up reaches it. Raises OSError."""
    with open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=descriptors,
            start_new_session=True,
        )
