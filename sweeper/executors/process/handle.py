"""One worker as the pump sees it: started by a launcher, spoken to, buried."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from studies.records import Cause, RunResult
from studies.text.files import open_file
from sweeper.executors.process.launcher import Handle, Launcher
from sweeper.executors.process.messages import Nothing, Order, Want
from trainers.interface import Job

LOG2000BYTES = 2000


class Running:
    """A worker that was launched: `jobs` is what it trains, `wants` what it has asked for, `told` its last state that
    was told as an event.
    """

    def __init__(self, name: str, handle: Handle, log: Path) -> None:
        self.name = name
        self.handle = handle
        self.jobs: dict[str, Job] = {}
        self.wants: Want | None = None
        self.log = log
        self.kill_cause: dict[str, Cause] = {}
        self.set_aside = False
        self.told = "asked"
        self._log_start = 0

    def give(self, job: Job) -> None:
        """Answer what the worker asked for with a job; it is lost where the process has just gone."""
        if not self.jobs:
            self._log_start = self.log.stat().st_size
            self.handle.begin()
        self.jobs[job.config.key] = job
        self.wants = None
        self.tell(job)

    def refuse(self) -> None:
        """Answer that no such job waits."""
        self.wants = None
        self.tell(Nothing())

    def tell(self, order: Order) -> None:
        """Send an order; the pump will notice by itself where the process has gone."""
        if self.handle.connection is not None:
            with suppress(OSError):
                self.handle.connection.send(order)

    def kill(self) -> None:
        """End the worker and its children at once."""
        self.handle.kill()

    def reap(self) -> tuple[Cause, str]:
        """Have the worker end, and say why and how it did."""
        ended = self.handle.why()
        if self.handle.connection is not None:
            self.handle.connection.close()
        return ended

    def with_log(self, result: RunResult) -> RunResult:
        """The result with what the log says last and where it is."""
        facts = {**result.facts, "log": str(self.log), "log_tail": self.log_tail()}
        return result.model_copy(update={"facts": facts})

    def log_tail(self) -> str:
        """The end of what the process has written since it got its job."""
        with open_file(self.log, os.O_RDONLY) as file:
            file.seek(max(self._log_start, self.log.stat().st_size - LOG2000BYTES))
            return file.read().decode(errors="replace").strip()


@dataclass(frozen=True)
class Starter:
    """How the worker of one slot is started."""

    name: str
    trainer: str
    environment: dict[str, str]
    log_folder: Path
    launcher: Launcher

    def start(self) -> Running:
        """Have the launcher start the worker."""
        log = self.log_folder / f"{self.name}.log"
        module = (sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "sweeper.executors.process.worker")
        # The module path is handed on, so that a trainer that can be imported here can be imported there, and what a
        # worker starts takes no code from the working folder either.
        modules = os.pathsep.join(path for path in sys.path if path)
        environment = {**self.environment, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}
        command = (*module, self.trainer, self.name)
        return Running(self.name, self.launcher.launch(self.name, command, environment, log), log)
