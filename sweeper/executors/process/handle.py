"""A worker as the pump sees it: launched, sent orders, buried."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from studies.records import Cause, RunResult
from studies.text.files import open_file
from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.line import Line
from sweeper.executors.door.messages import End, Nothing, Order, Want
from sweeper.executors.process.launcher import Handle, Launcher
from trainers.interface import Job

LOG_TAIL_BYTES = 2000
# For a worker whose connection has ended to end itself; after that it is killed.
EXIT_SECONDS = 5.0
MODULE: Final = "sweeper.executors.process.worker"


class Running:
    """A launched worker: `line` leads to it once it is here, `jobs` are in training, `wants` is what it has asked for,
    `state` and `told` the last state and place sent as an event.
    """

    def __init__(self, name: str, ticket: str, handle: Handle, log: Path, elsewhere: bool) -> None:
        self.name, self.ticket = name, ticket
        self.handle, self.elsewhere = handle, elsewhere
        self.line: Line | None = None
        self.jobs: dict[str, Job] = {}
        self.wants: Want | None = None
        self.log = log
        self.kill_cause: dict[str, Cause] = {}
        self.set_aside = False
        self.state: Literal["asked", "waiting", "here"] = "asked"
        self.refused = self.host = self.told = ""
        self.parted: float | None = None
        self._gone: float | None = None
        self._log_start = 0

    @property
    def place(self) -> str:
        """A description for people."""
        return f"{self.handle.place} on {self.host}" if self.host else self.handle.place

    @property
    def is_free(self) -> bool:
        """Whether it has no run, and may take one now or once it is here."""
        return not self.jobs and not self.set_aside and self.parted is None

    def may_still_speak(self, now: float) -> bool:
        """Of one that is gone: whether its last words may be on their way from another machine."""
        self._gone = now if self._gone is None else self._gone
        return self.elsewhere and self.line is not None and now - self._gone < EXIT_SECONDS

    def give(self, job: Job) -> None:
        """Answer the worker's request with a job; it is lost where the process has just gone."""
        if not self.jobs:
            self._log_start = self._log_size()
            self.handle.begin()
        self.jobs[job.config.key] = job
        self.wants = None
        self.tell(job)

    def refuse(self) -> None:
        """Answer the worker's request: no such job waits."""
        self.wants = None
        self.tell(Nothing())

    def tell(self, order: Order) -> None:
        """Send an order; the pump notices where the worker has gone."""
        if self.line is not None:
            self.line.send(order)

    def end(self, now: bool) -> None:
        """Have it end once its runs have; `now`, or where it is not here yet, at once."""
        self.tell(End())
        if now or self.line is None:
            self.kill()

    def kill(self) -> None:
        """Kill the worker and its children."""
        self.handle.kill()

    def part(self) -> None:
        """Its connection has ended, or never will be: it is to be buried."""
        if self.line is not None:
            self.line.close()
        self.line, self.wants, self.parted = None, None, self.parted or time.monotonic()

    def why(self) -> tuple[Cause, str] | None:
        """The cause and the reason for its end, once known; a worker that goes on is killed after some seconds."""
        ended = self.handle.why()
        since = time.monotonic() - (self.parted or 0.0)
        if ended is None and since > EXIT_SECONDS:
            self.kill()
        if ended is None and since > 2 * EXIT_SECONDS:
            ended = Cause.WORKER_LOST, "its connection has ended, and nothing tells why"
        if ended is not None and self.refused:
            return ended[0], self.refused
        return ended

    def with_log(self, result: RunResult) -> RunResult:
        """The result with the path and the last lines of the log."""
        facts = {**result.facts, "log": str(self.log), "log_tail": self.log_tail()}
        return result.model_copy(update={"facts": facts})

    def log_tail(self) -> str:
        """What the process has written last, since it got its job."""
        with suppress(FileNotFoundError), open_file(self.log, os.O_RDONLY) as file:
            file.seek(max(self._log_start, self._log_size() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
        return ""

    def _log_size(self) -> int:
        with suppress(FileNotFoundError):  # of a worker on another machine it may show late
            return self.log.stat().st_size
        return 0


@dataclass(frozen=True)
class Starter:
    """Starts the worker of one slot. `welcome`: what it is told at the door, but for its name."""

    name: str
    welcome: Welcome
    environment: Mapping[str, str]
    log_folder: Path
    launcher: Launcher
    python: str | None = None

    def start(self, door: Door) -> Running:
        """Launch the worker."""
        log, ticket = self.log_folder / f"{self.name}.log", secrets.token_hex(8)
        # The worker gets the module path, so that it can import a trainer that can be imported here, and what it starts
        # takes no code from the working folder either. Another Python has its own packages.
        modules = os.pathsep.join(path for path in sys.path if path)
        own = {"PYTHONSAFEPATH": "1"} if self.python else {"PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}
        command = (self.python or sys.executable, "-P", "-u", "-X", "faulthandler", "-m", MODULE, ticket)
        door.expect(ticket, self.welcome.named(self.name))
        handle = self.launcher.launch(self.name, command, {**self.environment, **own}, log)
        if handle.connection is not None:
            door.adopt(handle.connection)
        return Running(self.name, ticket, handle, log, elsewhere=self.welcome.folder is not None)
