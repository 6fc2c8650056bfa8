"""A worker as the pump sees it: launched, sent orders, reaped."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studies.records import Cause, RunResult
from studies.text.files import open_file
from sweeper.executors.process.launcher import Handle, Launcher
from sweeper.executors.process.messages import Nothing, Order, Want
from trainers.interface import Job

LOG_TAIL_BYTES = 2000


class Running:
    """A launched worker: `jobs` are in training, `wants` is what it has asked for, `state` the last one sent as an
    event.
    """

    def __init__(self, name: str, handle: Handle, log: Path) -> None:
        self.name = name
        self.handle = handle
        self.jobs: dict[str, Job] = {}
        self.wants: Want | None = None
        self.log = log
        self.kill_cause: dict[str, Cause] = {}
        self.set_aside = False
        self.state: Literal["asked", "waiting", "here"] = "asked"
        self._log_start = 0

    def give(self, job: Job) -> None:
        """Answer the worker's request with a job; it is lost where the process has just gone."""
        if not self.jobs:
            self._log_start = self.log.stat().st_size
            self.handle.begin()
        self.jobs[job.config.key] = job
        self.wants = None
        self.tell(job)

    def refuse(self) -> None:
        """Answer the worker's request: no such job waits."""
        self.wants = None
        self.tell(Nothing())

    def tell(self, order: Order) -> None:
        """Send an order; the pump notices where the process has gone."""
        if self.handle.connection is not None:
            with suppress(OSError):
                self.handle.connection.send(order)

    def kill(self) -> None:
        """Kill the worker and its children."""
        self.handle.kill()

    def reap(self) -> tuple[Cause, str]:
        """Wait for the worker to end; the cause and the reason."""
        ended = self.handle.why()
        if self.handle.connection is not None:
            self.handle.connection.close()
        return ended

    def with_log(self, result: RunResult) -> RunResult:
        """The result with the path and the last lines of the log."""
        facts = {**result.facts, "log": str(self.log), "log_tail": self.log_tail()}
        return result.model_copy(update={"facts": facts})

    def log_tail(self) -> str:
        """What the process has written last, since it got its job."""
        with open_file(self.log, os.O_RDONLY) as file:
            file.seek(max(self._log_start, self.log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


@dataclass(frozen=True)
class Starter:
    """Starts the worker of one slot."""

    name: str
    trainer: str
    environment: dict[str, str]
    log_folder: Path
    launcher: Launcher

    def start(self) -> Running:
        """Launch the worker."""
        log = self.log_folder / f"{self.name}.log"
        module = (sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "sweeper.executors.process.worker")
        # The worker gets the module path, so that it can import a trainer that can be imported here, and what it starts
        # takes no code from the working folder either.
        modules = os.pathsep.join(path for path in sys.path if path)
        environment = {**self.environment, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}
        command = (*module, self.trainer, self.name)
        return Running(self.name, self.launcher.launch(self.name, command, environment, log), log)
