"""The thread that hands jobs to worker processes and passes their events on."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Literal

from studies.records import Cause
from sweeper.executors.base import (
    Cancel,
    Dropped,
    DropWaiting,
    Event,
    Finished,
    Kill,
    Lost,
    Reported,
    SetAside,
    WorkerState,
)
from sweeper.executors.process.handle import Running, Starter
from sweeper.executors.process.messages import Close, End, Request, Stop, Want
from trainers.interface import Job, pack_key

# Between checks of the processes: a dead one's pipe ends at once, unless a child process holds it open.
LIVENESS_SECONDS = 0.2

# Workers that may end in a row before their first message: no run is to blame, and the next would end the same way.
MOST_STILLBORN = 3

# Reports that may queue for the sweep; further ones are dropped.
REPORTS_WAITING = 10_000


class Pump:
    """The thread that owns the workers. It never waits for one of them, nor for the sweep."""

    def __init__(
        self,
        starters: list[Starter],
        requests: SimpleQueue[Request],
        wakeup: socket.socket,
        events: SimpleQueue[Event | BaseException],
    ) -> None:
        self._starters = dict(enumerate(starters))
        self._requests = requests
        self._wakeup = wakeup
        self._events = events
        self._waiting: deque[Job] = deque()
        self._workers: dict[int, Running] = {}
        self._closing = False
        self._stillborn = 0

    def run(self) -> None:
        """Serve until closed. An error here becomes an event for the sweep, and no worker is left."""
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
                worker.reap()
            self._wakeup.close()

    def _take_requests(self) -> None:
        with suppress(Empty):
            while True:
                match self._requests.get_nowait():
                    case Cancel(key):
                        self._cancel(key)
                    case DropWaiting():
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
                worker.kill_cause[key] = cause
                worker.kill()

    def _set_aside(self, name: str) -> None:
        """Do not start it again, and end it once its runs have ended."""
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
        """Answer the workers that ask for jobs, and start missing workers."""
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
                self._events.put(WorkerState(starter.name, "asked", self._workers[slot].handle.place))
                without += 1

    def _choose(self, worker: Running, like: str | None) -> Job | None:
        """The next job for a worker. Beside its own jobs it gets no more than its share of all there are, so that a big
        pack leaves no other worker idle.
        """
        if like is None:
            return next(iter(self._waiting), None)
        training = sum(len(one.jobs) for one in self._workers.values())
        if len(worker.jobs) >= -(-(training + len(self._waiting)) // len(self._starters)):
            return None
        fits = (job for job in self._waiting if len(worker.jobs) < job.placement.together)
        return next((job for job in fits if pack_key(job.config) == like), None)

    def _take_in(self) -> None:
        """Wait for messages, deaths or a wake-up, and receive one message of each worker that sent some."""
        connections = ((worker.handle.connection, slot) for slot, worker in self._workers.items())
        slots = {connection: slot for connection, slot in connections if connection is not None}
        for ready in wait([self._wakeup, *slots], LIVENESS_SECONDS):
            if isinstance(ready, Connection):
                self._receive(slots[ready])
            else:
                self._wakeup.recv(4096)
        for slot, worker in list(self._workers.items()):
            state = worker.handle.state()
            if state == "gone":
                self._reap(slot)
            elif state == "waiting":
                self._note(worker, "waiting")

    def _receive(self, slot: int) -> None:
        try:
            self._accept(self._workers[slot])
        except (EOFError, OSError):
            self._reap(slot)

    def _accept(self, worker: Running) -> None:
        """Receive one message; raises EOFError or OSError when the worker's end of the pipe is closed."""
        if worker.handle.connection is None:
            raise EOFError
        event: Event | Want = worker.handle.connection.recv()
        self._stillborn = 0
        self._note(worker, "here")
        if isinstance(event, Want):
            worker.wants = event
            return
        if isinstance(event, Finished):
            worker.jobs.pop(event.key, None)
            if event.result.cause is not Cause.FINISHED:
                event = replace(event, result=worker.with_log(event.result))
        if not isinstance(event, Reported) or self._events.qsize() < REPORTS_WAITING:
            self._events.put(event)

    def _note(self, worker: Running, state: Literal["waiting", "here"]) -> None:
        """Send an event where a worker's state has changed."""
        if worker.state != state:
            worker.state = state
            self._events.put(WorkerState(worker.name, state, worker.handle.place))

    def _reap(self, slot: int) -> None:
        """Receive the last messages of a dead worker; its open runs are lost."""
        worker = self._workers.pop(slot)
        with suppress(EOFError, OSError):
            while worker.handle.connection is not None and worker.handle.connection.poll():
                self._accept(worker)
        cause, reason = worker.reap()
        self._events.put(WorkerState(worker.name, "gone", worker.handle.place, reason))
        if worker.state != "here" and not (worker.kill_cause or worker.set_aside or self._closing):
            self._stillborn += 1
            if self._stillborn >= MOST_STILLBORN:
                raise RuntimeError(
                    f"{self._stillborn} workers in a row ended before they could take a job ({worker.name}: {reason}); "
                    f"{worker.log} says why"
                )
        for key in worker.jobs:
            own = worker.kill_cause.get(key, Cause.WORKER_LOST if worker.kill_cause else cause)
            self._events.put(Lost(key, worker.name, own, reason, str(worker.log), worker.log_tail()))
