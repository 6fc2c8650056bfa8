"""Starts workers as jobs of a Slurm cluster, each of which takes many runs. Needs `sbatch` and no Python package.

Slurm's commands may take seconds, and a controller that is restarted answers none: a thread of its own calls them, and
the pump reads what it has found.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Literal

from studies.records import Cause
from studies.schema.types import SlurmJobs
from studies.text.files import open_file
from studies.text.lines import first_line
from sweeper.executors.process.exit_causes import why_it_ended

LOOK_SECONDS: Final = 5.0
"""Between two looks at the queue."""
LEAVE_SECONDS: Final = 60
"""Before its time is over a job is told to go; Slurm may do so up to a minute earlier still."""
COMMANDS: Final = ("sbatch", "squeue", "scontrol", "scancel")
_CALL_SECONDS: Final = 30
_AGAIN_SECONDS: Final = 0.3  # until Slurm is asked again why a job has ended
_WAITING: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
_ALIVE: Final = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"})
# Of a controller that is busy, or being restarted: says nothing of the job.
_AWAY: Final = re.compile(
    r"unable to contact|socket timed out|connection refused|not responding|temporar|try again", re.I
)
_UNKNOWN: Final = re.compile(r"invalid job id", re.I)  # it was forgotten, some minutes after its end


@dataclass
class _Job:
    """See `Handle`. The launcher's thread writes its fields, and the pump reads them."""

    name: str
    script: str
    options: Sequence[str]
    environment: Mapping[str, str]
    ask: Callable[[str, _Job], None]
    number: str = ""
    queue: str = "waiting to be submitted"
    is_waiting: bool = True
    ended: tuple[Cause, str] | None = None
    killed: bool = False
    asked: bool = False
    connection: None = None

    @property
    def place(self) -> str:
        """See `Handle.place`."""
        number = f"Slurm job {self.number}" if self.number else "a Slurm job"
        return f"{number} ({self.queue})" if self.is_waiting and self.queue else number

    def state(self) -> Literal["waiting", "here", "gone"]:
        """See `Handle.state`."""
        if self.ended is not None:
            return "gone"
        return "waiting" if self.is_waiting else "here"

    def begin(self) -> None:
        """See `Handle.begin`: Slurm tells of the job, not of its runs."""

    def kill(self) -> None:
        """See `Handle.kill`."""
        if not self.killed and self.ended is None:
            self.killed = True
            self.ask("kill", self)

    def why(self) -> tuple[Cause, str] | None:
        """See `Handle.why`."""
        if self.ended is None and not self.asked:
            self.asked = True
            self.ask("why", self)
        return self.ended


class Slurm:
    """See `Launcher`. `addresses`: of the sweep's door, which workers dial; `study`: begins the names of the jobs."""

    def __init__(self, jobs: SlurmJobs, study: str, addresses: str) -> None:
        self._jobs, self._study, self._addresses = jobs, study, addresses
        self._tasks: SimpleQueue[tuple[str, _Job]] = SimpleQueue()
        self._open: list[_Job] = []
        self._later: list[tuple[float, str, _Job]] = []
        self._looked = 0.0
        self._closed = False
        Thread(target=self._serve, name="slurm", daemon=True).start()

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Job:
        """See `Launcher.launch`."""
        with open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT):
            pass
        script = job_script([*command, self._addresses], self._jobs.setup)
        options = sbatch_options(self._jobs, f"{self._study}-{name}", log)
        job = _Job(name, script, options, environment, lambda what, job: self._tasks.put((what, job)))
        self._tasks.put(("submit", job))
        return job

    def close(self) -> None:
        """Call Slurm's commands no more."""
        self._closed = True

    def _serve(self) -> None:
        while not self._closed:
            with suppress(Empty):
                self._do(*self._tasks.get(timeout=0.2))
            now = time.monotonic()
            due = [entry for entry in self._later if entry[0] <= now]
            self._later = [entry for entry in self._later if entry[0] > now]
            for _, what, job in due:
                self._do(what, job)
            if now - self._looked > LOOK_SECONDS:
                self._looked = now
                self._look()

    def _do(self, what: str, job: _Job) -> None:
        match what:
            case "submit" if not job.killed:
                self._submit(job)
            case "submit":
                job.ended = Cause.WORKER_LOST, "it was not submitted any more"
            case "kill" if job.number and job.ended is None:
                # With --batch the signal reaches the worker at once, and only one that runs; else Slurm waits first.
                _call("scancel", "--batch", "--signal=KILL", job.number)
                if _AWAY.search(_call("scancel", job.number).text):
                    self._later.append((time.monotonic() + LOOK_SECONDS, "kill", job))
                else:
                    self._later.append((time.monotonic() + _AGAIN_SECONDS, "why", job))
            case "why" if job.number and job.ended is None:
                job.ended = _why(job.number)
                if job.ended is None:
                    self._later.append((time.monotonic() + _AGAIN_SECONDS, "why", job))

    def _submit(self, job: _Job) -> None:
        told = _call("sbatch", *job.options, text=job.script, environment=job.environment)
        if told.code == 0:
            job.number, job.queue = told.text.strip().split(";")[0], ""
            self._open.append(job)
            if job.killed:
                self._do("kill", job)
        elif _AWAY.search(told.text):
            job.queue = f"not submitted yet: {first_line(told.text)}"
            self._later.append((time.monotonic() + LOOK_SECONDS, "submit", job))
        else:
            job.ended = Cause.INFRASTRUCTURE, f"Slurm does not take the job: {first_line(told.text)}"

    def _look(self) -> None:
        """One question for all jobs."""
        self._open = [job for job in self._open if job.ended is None]
        if not self._open:
            return
        told = _call("squeue", "-h", "-o", "%A|%T|%r", "-j", ",".join(job.number for job in self._open))
        if told.code != 0 and not _UNKNOWN.search(told.text):
            return
        found = dict[str, tuple[str, str]]()
        for line in told.text.splitlines() if told.code == 0 else ():
            number, state, reason = (*line.split("|"), "", "")[:3]
            found[number] = state, reason
        for job in self._open:
            state, reason = found.get(job.number, ("", ""))
            job.is_waiting = state in _WAITING
            job.queue = reason if reason != "None" else ""
            if state not in _WAITING | _ALIVE:
                job.ended = _why(job.number)


def silence() -> str:
    """Why Slurm's controller does not answer, "" where it does."""
    told = _call("squeue", "-h", "-t", "CONFIGURING", "-o", "%A")
    return "" if told.code == 0 else first_line(told.text)


def refusal(jobs: SlurmJobs) -> str:
    """Why Slurm would not take the job of a worker, "" where it would; nothing is submitted."""
    options = sbatch_options(jobs, "worker", Path(os.devnull))
    told = _call("sbatch", "--test-only", *options, text=job_script(["true"], jobs.setup))
    return "" if told.code == 0 else first_line(told.text)


@dataclass(frozen=True)
class _Told:
    code: int
    text: str


def _call(*command: str, text: str = "", environment: Mapping[str, str] | None = None) -> _Told:
    """Call one of Slurm's commands; where it fails, what it complains of."""
    try:
        done = subprocess.run(
            command, input=text, env=environment, capture_output=True, text=True, timeout=_CALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _Told(1, f"{command[0]} does not answer: socket timed out")
    except OSError as error:
        return _Told(1, f"{command[0]}: {error.strerror}")
    return _Told(done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout)


def _why(number: str) -> tuple[Cause, str] | None:
    """Why a job has ended; None where it has not, or the controller does not answer."""
    told = _call("scontrol", "show", "job", number, "-o")
    if told.code != 0:
        forgotten = Cause.WORKER_LOST, "its job has ended, and Slurm has forgotten why"
        return forgotten if _UNKNOWN.search(told.text) else None
    return cause_of(dict(re.findall(r"(\w+)=(\S*)", told.text)))


def cause_of(job: Mapping[str, str]) -> tuple[Cause, str] | None:
    """The cause and the reason for the end of a job, of what `scontrol show job` tells of it; None where it has not
    ended. The state counts before the exit code, which is 0 where a worker went politely.
    """
    state = job.get("JobState", "")
    if state in _WAITING or state in _ALIVE - {"COMPLETING"}:
        return None
    match state:
        case "PREEMPTED":
            return Cause.PREEMPTED, "its Slurm job was preempted"
        case "TIMEOUT" | "DEADLINE":
            return Cause.PREEMPTED, "the time of its Slurm job was over"
        case "CANCELLED":
            return Cause.PREEMPTED, "its Slurm job was cancelled"
        case "OUT_OF_MEMORY":
            return (
                Cause.OUT_OF_HOST_MEMORY,
                "out of memory: it took more than its Slurm job was given (resources.slurm.mem)",
            )
        case "NODE_FAIL" | "BOOT_FAIL":
            return Cause.WORKER_LOST, f"its Slurm job lost its node ({state})"
    if state == "COMPLETING" and job.get("ExitCode") == "0:0":
        return None
    code, _, number = job.get("ExitCode", "0:0").partition(":")
    signal_number = int(number or 0) or (int(code) - 128 if int(code) > 128 else 0)
    return why_it_ended(-signal_number if signal_number else int(code), None, None)


def job_script(command: Sequence[str], setup: Sequence[str]) -> str:
    """What `sbatch` is given: the lines of the user, with the worker's command in "$@", and then that."""
    return "\n".join(["#!/bin/bash", f"set -- {shlex.join(command)}", *setup, 'exec "$@"', ""])


def sbatch_options(jobs: SlurmJobs, name: str, log: Path) -> list[str]:
    """Of a job of one worker. A job that Slurm would start again by itself would be a second one of the same name."""
    own = {
        "partition": jobs.partition,
        "account": jobs.account,
        "qos": jobs.qos,
        "gres": jobs.gres,
        "constraint": jobs.constraint,
        "mem": jobs.mem,
        "time": None if jobs.time is None else str(int(jobs.time // 60)),
    }
    fixed = ["--parsable", "--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append", "--export=ALL"]
    of_worker = [f"--job-name={name}", f"--cpus-per-task={jobs.cpus}", f"--output={log}"]
    given = [f"--{option}={value}" for option, value in own.items() if value is not None]
    return [*fixed, f"--signal=B:TERM@{LEAVE_SECONDS}", *of_worker, *given]
