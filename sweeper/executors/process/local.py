"""Starts workers as processes of this machine, which inherit their end of a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from studies.records import Cause
from studies.text.files import open_file
from sweeper.executors.process.exit_causes import oom_counter, oom_kills, why_it_ended

# For a worker whose pipe has ended to end itself; after that it is killed.
EXIT_SECONDS = 5.0


class LocalHandle:
    """See `Handle`."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
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

    def why(self) -> tuple[Cause, str]:
        """See `Handle.why`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)
        self.kill()
        return why_it_ended(self._process.wait(), self._oom_kills, oom_kills(self._oom_counter))


class Local:
    """See `Launcher`."""

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> LocalHandle:
        """See `Launcher.launch`. The process has a session of its own, so that no Ctrl-C and no hang-up reaches it."""
        ours, theirs = Pipe()
        with open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as output:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        theirs.close()
        return LocalHandle(process, ours)
