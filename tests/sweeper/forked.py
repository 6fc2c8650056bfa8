"""The command line in a process of its own that need not load MLflow and Optuna again: a fork of this one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from sweeper.cli.app import main

_UNCAUGHT: Final = 70


class Forked:
    """A command that runs in `folder`; `wait`, `poll`, `kill` and `send_signal` are those of `subprocess.Popen`.

    What a test has patched in this process is so in that one. What it says goes nowhere.
    """

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(folder, arguments, env or {})

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """How it ended, once it has; it is killed where that takes more than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"process {self.pid} has not ended")
            time.sleep(0.02)
        return ended

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _become(folder: Path, arguments: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Be the command, and end as its process would."""
    code: object = _UNCAUGHT
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]  # their files live as long
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(env)
        os.chdir(folder)
        sys.argv = ["sweeper", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))
