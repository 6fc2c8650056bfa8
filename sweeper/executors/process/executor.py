"""Trains in warm worker processes of this machine, one per GPU or per share of the CPU cores; knows no trainer.

One thread, the pump, owns the workers: it hands jobs to idle ones and takes in what they send, also while the sweep
is busy with its stores, so that no worker waits. POSIX only: workers inherit their end of a socket pair.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from studies.records import Cause, RunResult
from studies.text.files import UnusableFile, is_folder, open_file
from sweeper.executors.base import (
    Dropped,
    End,
    Event,
    Finished,
    Lost,
    Nothing,
    Order,
    Reported,
    Stop,
    Want,
)
from sweeper.executors.process.devices import usable_cores, visible_gpus, worker_environments
from sweeper.executors.process.exit_causes import oom_counter, oom_kills, why_it_ended
from trainers.interface import Job, pack_key

# Between looks at the processes themselves: a dead one's pipe ends at once, unless a child of its own holds it open.
LIVENESS_SECONDS = 0.2
# For a worker whose pipe has ended to end itself; after that it is killed.
EXIT_SECONDS = 5.0
# Reports that may wait for the sweep before further ones are left out.
REPORTS_WAITING = 10_000
LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Cancel:
    """To the pump: end the run with this key, or all, at the next report."""

    key: str | None


@dataclass(frozen=True)
class HoldBack:
    """To the pump: drop the jobs that wait."""


@dataclass(frozen=True)
class Kill:
    """To the pump: kill the worker that trains this run, which ends for this cause."""

    key: str
    cause: Cause


@dataclass(frozen=True)
class SetAside:
    """To the pump: use this worker no more."""

    worker: str


@dataclass(frozen=True)
class Close:
    """To the pump: end when the workers have, or kill them `now`."""

    now: bool


Request = Job | Cancel | HoldBack | Kill | SetAside | Close


class Process:
    """An executor over worker processes, which are started when there is a job for them and kept until `close`.

    `trainer` is a name as in a study file, or `module:Class`. `workers` None means one per GPU, else one per core.
    `together`: how many runs a worker may train at once. What workers print goes to `worker-N.log` in `log_folder`.
    `env`: names of environment variables that they get beside those that training needs.
    """

    def __init__(
        self, trainer: str, workers: int | None, log_folder: Path, together: int = 1, env: Collection[str] = ()
    ) -> None:
        gpus = visible_gpus(os.environ)
        environments = worker_environments(workers, gpus, usable_cores(), os.environ, env)
        log_folder.mkdir(parents=True, exist_ok=True)
        if not is_folder(log_folder):
            raise UnusableFile(log_folder, "is no real folder, and what workers print is kept there: move it away")
        self.together = together
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()
        self._bell, rung = socket.socketpair()
        self._bell.setblocking(False)
        starters = [Starter(f"worker-{i}", trainer, env, log_folder) for i, env in enumerate(environments)]
        self._workers = {starter.name: starter for starter in starters}
        pump = Pump(starters, self._requests, rung, self._events)
        self._pump = Thread(target=pump.run, name="executor", daemon=True)
        self._pump.start()

    @property
    def slots(self) -> int:
        """See `Executor.slots`: what all workers train at once."""
        return len(self._workers) * max(1, self.together)

    @property
    def ahead(self) -> int:
        """See `Executor.ahead`: what one worker takes at once."""
        return max(1, self.together)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`. More jobs than `slots` keep a worker that has finished from waiting."""
        if not self._pump.is_alive():
            raise RuntimeError("a closed or broken executor takes no more jobs; events(0) says what broke it")
        self._request(job)

    def events(self, timeout: float) -> list[Event]:
        """See `Executor.events`. Raises RuntimeError when workers can no longer be run at all."""
        found: list[Event | BaseException] = []
        with suppress(Empty):
            found.append(self._events.get(timeout=timeout))
            while True:
                found.append(self._events.get_nowait())
        broken = next((item for item in found if isinstance(item, BaseException)), None)
        if broken is not None:
            raise RuntimeError(f"the workers cannot be run any more: {broken}") from broken
        return [item for item in found if not isinstance(item, BaseException)]

    def cancel(self, key: str | None) -> None:
        """See `Executor.cancel`."""
        self._request(Cancel(key))

    def hold_back(self) -> None:
        """See `Executor.hold_back`."""
        self._request(HoldBack())

    def kill(self, key: str, cause: Cause) -> None:
        """See `Executor.kill`."""
        self._request(Kill(key, cause))

    def set_aside(self, worker: str) -> str:
        """See `Executor.set_aside`."""
        starter = self._workers.pop(worker, None)
        self._request(SetAside(worker))
        device = starter.environment.get("CUDA_VISIBLE_DEVICES") if starter is not None else None
        return f"{worker} on GPU {device}" if device else worker

    def close(self, now: bool = False) -> None:
        """See `Executor.close`."""
        self._request(Close(now))
        self._pump.join()
        self._bell.close()

    def _request(self, request: Request) -> None:
        # Both steps may happen in a signal handler that interrupts either of them.
        self._requests.put(request)
        with suppress(OSError):  # rung enough already, or nobody is there to hear it
            self._bell.send(b"!")


class Running:
    """One worker process as the pump sees it: `jobs` is what it trains, `wants` what it has asked for."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], connection: Connection, log: Path) -> None:
        self.name = name
        self.process = process
        self.connection = connection
        self.jobs: dict[str, Job] = {}
        self.wants: Want | None = None
        self.log = log
        self.doomed: dict[str, Cause] = {}
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

    def bury(self) -> tuple[Cause, str]:
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


class Pump:
    """The thread that owns the workers. It never waits for one of them, nor for the sweep."""

    def __init__(
        self,
        starters: list[Starter],
        requests: SimpleQueue[Request],
        bell: socket.socket,
        events: SimpleQueue[Event | BaseException],
    ) -> None:
        self._starters = dict(enumerate(starters))
        self._requests = requests
        self._bell = bell
        self._events = events
        self._waiting: deque[Job] = deque()
        self._workers: dict[int, Running] = {}
        self._closing = False

    def run(self) -> None:
        """Serve until closed. What goes wrong here is told to the sweep, and no worker is left."""
        try:
            while not (self._closing and not self._workers):
                self._take_requests()
                self._hand_out()
                self._take_in()
        except BaseException as error:
            self._events.put(error)
        finally:
            for worker in self._workers.values():
                worker.kill()
                worker.bury()
            self._bell.close()

    def _take_requests(self) -> None:
        with suppress(Empty):
            while True:
                match self._requests.get_nowait():
                    case Cancel(key):
                        self._cancel(key)
                    case HoldBack():
                        self._drop(list(self._waiting))
                    case Kill(key, cause):
                        self._kill(key, cause)
                    case SetAside(worker):
                        self._set_aside(worker)
                    case Close(now):
                        self._close(now)
                    case job:
                        self._waiting.append(job)

    def _cancel(self, key: str | None) -> None:
        for worker in self._workers.values():
            for stopped in worker.jobs:
                if key in (None, stopped):
                    worker.tell(Stop(stopped))
        self._drop([job for job in self._waiting if key in (None, job.config.key)])

    def _drop(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._waiting.remove(job)
            self._events.put(Dropped(job.config.key))

    def _kill(self, key: str, cause: Cause) -> None:
        for worker in self._workers.values():
            if key in worker.jobs:
                worker.doomed[key] = cause
                worker.kill()

    def _set_aside(self, name: str) -> None:
        """Start it no more, and let it end when the runs that it has are over."""
        self._starters = {slot: starter for slot, starter in self._starters.items() if starter.name != name}
        for worker in self._workers.values():
            if worker.name == name:
                worker.set_aside = True
                worker.tell(End())
        if not self._starters:
            self._drop(list(self._waiting))

    def _close(self, now: bool) -> None:
        self._closing = True
        self._cancel(None)
        for worker in self._workers.values():
            worker.tell(End())
            if now:
                worker.kill()

    def _hand_out(self) -> None:
        """Answer the workers that ask for jobs, and start those that are missing."""
        for worker in self._workers.values():
            if self._closing or worker.set_aside or worker.wants is None:
                continue
            job = self._choose(worker, worker.wants.like)
            if job is not None:
                self._waiting.remove(job)
                worker.give(job)
            elif worker.wants.like is not None:
                worker.refuse()
        without = sum(not worker.jobs and not worker.set_aside for worker in self._workers.values())
        for slot, starter in self._starters.items():
            if slot not in self._workers and len(self._waiting) > without and not self._closing:
                self._workers[slot] = starter.start()
                without += 1

    def _choose(self, worker: Running, like: str | None) -> Job | None:
        """The next job for a worker. Beside the jobs that it has, it gets no more than its share of all there are, so
        that a big pack does not leave another worker without work.
        """
        if like is None:
            return next(iter(self._waiting), None)
        training = sum(len(one.jobs) for one in self._workers.values())
        if len(worker.jobs) >= -(-(training + len(self._waiting)) // len(self._starters)):
            return None
        fits = (job for job in self._waiting if len(worker.jobs) < job.placement.together)
        return next((job for job in fits if pack_key(job.config) == like), None)

    def _take_in(self) -> None:
        """Wait for messages, deaths or the bell, and take in one message of each worker that has some."""
        slots = {worker.connection: slot for slot, worker in self._workers.items()}
        for ready in wait([self._bell, *slots], LIVENESS_SECONDS):
            if isinstance(ready, Connection):
                self._receive(slots[ready])
            else:
                self._bell.recv(4096)
        for slot, worker in list(self._workers.items()):
            if worker.process.poll() is not None:
                self._bury(slot)

    def _receive(self, slot: int) -> None:
        try:
            self._accept(self._workers[slot])
        except (EOFError, OSError):
            self._bury(slot)

    def _accept(self, worker: Running) -> None:
        """Take in one message; raises EOFError or OSError when the worker's end of the pipe is closed."""
        event: Event | Want = worker.connection.recv()
        if isinstance(event, Want):
            worker.wants = event
            return
        if isinstance(event, Finished):
            worker.jobs.pop(event.key, None)
            if event.result.cause is not Cause.FINISHED:
                event = replace(event, result=worker.with_log(event.result))
        if not isinstance(event, Reported) or self._events.qsize() < REPORTS_WAITING:
            self._events.put(event)

    def _bury(self, slot: int) -> None:
        """Take in what a dead worker still said; its run is lost if that was not the end of it."""
        worker = self._workers.pop(slot)
        with suppress(EOFError, OSError):
            while worker.connection.poll():
                self._accept(worker)
        cause, reason = worker.bury()
        for key in worker.jobs:
            own = worker.doomed.get(key, Cause.WORKER_LOST if worker.doomed else cause)
            self._events.put(Lost(key, worker.name, own, reason, str(worker.log), worker.log_tail()))
