"""One worker process: started, spoken to, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from studies.records import Cause, RunResult
from studies.text.files import open_file
from sweeper.executors.process.exit_causes import oom_counter, oom_kills, why_it_ended
from sweeper.executors.process.messages import Nothing, Order, Want
from trainers.interface import Job

# For a worker whose pipe has ended to end itself; after that it is killed.
EXIT_SECONDS = 5.0


LOG_TAIL_BYTES = 4000


class Running:
    """One worker process as the pump sees it: `jobs` is what it trains, `wants` what it has asked for."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], connection: Connection, log: Path) -> None:
        self.name = name
        self.process = process
        self.connection = connection
        self.jobs: dict[str, Job] = {}
        self.wants: Want | None = None
        self.log = log
        self.kill_cause: dict[str, Cause] = {}
        self.set_aside = False
        self._log_start = 0
        self._oom_counter = oom_counter(process.pid)
        self._oom_kills = oom_kills(self._oom_counter)

    def give(self, job: Job) -> None:
        """Answer what the worker asked for with a job; it is lost where the process has just gone."""
        if not self.jobs:
            self._log_start = self.log.stat().st_size
            self._oom_kills = oom_kills(self._oom_counter)
        self.jobs[job.config.key] = job
        self.wants = None
        self.tell(job)

    def refuse(self) -> None:
        """Answer that no such job waits."""
        self.wants = None
        self.tell(Nothing())

    def tell(self, order: Order) -> None:
        """Send an order; the pump will notice by itself where the process has gone."""
        with suppress(OSError):
            self.connection.send(order)

    def reap(self) -> tuple[Cause, str]:
        """Wait for the process, kill what is left of its children, and say why and how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)
        self.kill()
        self.connection.close()
        return why_it_ended(self.process.wait(), self._oom_kills, oom_kills(self._oom_counter))

    def kill(self) -> None:
        """Kill the process and its children, which are one process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def with_log(self, result: RunResult) -> RunResult:
        """The result with what the log says last and where it is."""
        facts = {**result.facts, "log": str(self.log), "log_tail": self.log_tail()}
        return result.model_copy(update={"facts": facts})

    def log_tail(self) -> str:
        """The end of what the process has written since it got its job."""
        with open_file(self.log, os.O_RDONLY) as file:
            file.seek(max(self._log_start, self.log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


@dataclass(frozen=True)
class Starter:
    """How the worker of one slot is started."""

    name: str
    trainer: str
    environment: dict[str, str]
    log_folder: Path

    def start(self) -> Running:
        """Start the process in a session of its own, so that no Ctrl-C and no hang-up reaches it."""
        ours, theirs = Pipe()
        log = self.log_folder / f"{self.name}.log"
        identity = (str(theirs.fileno()), str(os.getpid()), self.trainer, self.name)
        # The module path is handed on, so that a trainer that can be imported here can be imported there, and what a
        # worker starts takes no code from the working folder either.
        modules = os.pathsep.join(path for path in sys.path if path)
        environment = {**self.environment, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}
        with open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "sweeper.executors.process.worker", *identity],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        theirs.close()
        return Running(self.name, process, ours, log)
