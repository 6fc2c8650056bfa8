"""The thread that hands jobs to workers and passes their events on."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
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
    Started,
    StopOrder,
    WorkerState,
)
from sweeper.executors.door.door import Arrived, Told, TurnedAway
from sweeper.executors.door.line import Line
from sweeper.executors.door.messages import Ended, FromWorker, Stop, Want, decode_event
from sweeper.executors.process.handle import Running, Starter
from sweeper.executors.process.team import Team
from trainers.interface import Job, pack_key

# Between checks of the workers: a dead one's connection ends at once, unless a child process holds it open.
LIVENESS_SECONDS = 0.2
# While one is to be buried.
_BURIAL_SECONDS = 0.02

# Workers that may end in a row before their first message: no run is to blame, and the next would end the same way.
MOST_STILLBORN = 3
# Until the place of a worker elsewhere that ended so is filled again, which may go on without end: somebody cancels its
# jobs, or its node starts nothing.
STILLBORN_SECONDS = 30.0

# Reports that may queue for the sweep; further ones are dropped.
REPORTS_WAITING = 10_000


@dataclass(frozen=True)
class Close:
    """What an executor asks of its pump at the end: to end once the workers have; `now` kills them."""

    now: bool


Request = Job | StopOrder | Close


class Pump:
    """The thread that owns the workers. It never waits for one of them, nor for the sweep."""

    def __init__(self, team: Team, requests: SimpleQueue[Request], events: SimpleQueue[Event | BaseException]) -> None:
        self._starters = dict(enumerate(team.starters))
        self._requests = requests
        self._events = events
        self._crew = Crew(team, events)
        self._waiting: deque[Job] = deque()

    def run(self) -> None:
        """Serve until closed. An error here becomes an event for the sweep, and no worker is left."""
        try:
            while not (self._crew.closing and not self._crew.workers):
                self._take_requests()
                self._hand_out()
                self._crew.take_in()
        except BaseException as error:
            self._events.put(error)
        finally:
            self._crew.end()

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
        for worker in self._crew.workers.values():
            for stopped in worker.jobs:
                if key in (None, stopped):
                    worker.tell(Stop(stopped))
        self._drop([job for job in self._waiting if key in (None, job.config.key)])

    def _drop(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._waiting.remove(job)
            self._events.put(Dropped(job.config.key))

    def _kill(self, key: str, cause: Cause) -> None:
        for worker in self._crew.workers.values():
            if key in worker.jobs:
                worker.kill_cause[key] = cause
                worker.kill()

    def _set_aside(self, name: str) -> None:
        """Do not start it again, and end it once its runs have ended."""
        self._starters = {slot: starter for slot, starter in self._starters.items() if starter.name != name}
        for worker in self._crew.workers.values():
            if worker.name == name:
                worker.set_aside = True
                worker.end(now=False)
        if not self._starters:
            self._drop(list(self._waiting))

    def _close(self, now: bool) -> None:
        self._crew.closing = True
        self._cancel(None)
        for worker in self._crew.workers.values():
            worker.end(now)

    def _hand_out(self) -> None:
        """Answer the workers that ask for jobs, and start missing workers."""
        for slot in list(self._crew.asking):
            worker = self._crew.workers[slot]
            if self._crew.closing or worker.set_aside or worker.wants is None:
                continue
            job = self._choose(worker, worker.wants.like)
            if job is not None:
                self._waiting.remove(job)
                worker.give(job)
            elif worker.wants.like is not None:
                worker.refuse()
            if worker.wants is None:
                del self._crew.asking[slot]
        if self._waiting and not self._starters.keys() <= self._crew.workers.keys() and not self._crew.closing:
            self._start_missing()

    def _start_missing(self) -> None:
        without = sum(worker.is_free for worker in self._crew.workers.values())
        for slot, starter in self._starters.items():
            if self._crew.may_start(slot) and len(self._waiting) > without:
                self._crew.start(slot, starter)
                without += 1

    def _choose(self, worker: Running, like: str | None) -> Job | None:
        """The next job for a worker. Beside its own jobs it gets no more than its share of all there are, so that a big
        pack leaves no other worker idle; those that wait for their place, maybe for hours, have none.
        """
        if like is None:
            return next(iter(self._waiting), None)
        training = sum(len(one.jobs) for one in self._crew.workers.values())
        sharing = len(self._starters) - sum(one.state == "waiting" for one in self._crew.workers.values())
        if len(worker.jobs) >= -(-(training + len(self._waiting)) // max(1, sharing)):
            return None
        fits = (job for job in self._waiting if len(worker.jobs) < job.placement.together)
        return next((job for job in fits if pack_key(job.config) == like), None)


class Crew:
    """The workers that were launched: who has come, what they say, and why they ended. `workers` are those by slot,
    `asking` the slots of those that want a job, and `closing` means that no more are wanted.
    """

    def __init__(self, team: Team, events: SimpleQueue[Event | BaseException]) -> None:
        self.workers: dict[int, Running] = {}
        self.asking: dict[int, None] = {}
        self.closing = False
        self._door, self._desk, self._close_team = team.door, team.desk, team.close
        self._events = events
        self._lines: dict[Line, int] = {}
        self._tickets: dict[str, int] = {}
        self._parted: set[int] = set()
        self._stillborn = 0
        self._unborn = 0  # those in a row elsewhere, whatever others did
        self._pauses: dict[int, float] = {}
        self._looked = 0.0

    def may_start(self, slot: int) -> bool:
        """Whether a slot has no worker, and nothing speaks against another one now."""
        return slot not in self.workers and time.monotonic() >= self._pauses.get(slot, 0.0)

    def start(self, slot: int, starter: Starter) -> None:
        """Launch the worker of a slot. Raises OSError."""
        self.workers[slot] = worker = starter.start(self._door)
        self._tickets[worker.ticket] = slot
        self._events.put(WorkerState(starter.name, "asked", worker.place))

    def end(self) -> None:
        """Kill all that are left, wait until they have ended, and close the door."""
        left = list(self.workers.values())
        for worker in left:
            worker.kill()
            worker.part()
        while left := [worker for worker in left if worker.why() is None]:
            time.sleep(_BURIAL_SECONDS)
        self._close_team()
        self._door.close()

    def take_in(self) -> None:
        """Wait for messages, deaths or a wake-up, and take in what has come."""
        for news in self._door.wait(_BURIAL_SECONDS if self._parted else LIVENESS_SECONDS):
            match news:
                case Arrived(hello=hello, line=line) if hello.ticket == "" and self._desk is not None:
                    self._desk.register(hello, line)
                case Arrived(hello=hello, line=line):
                    self._welcome(self._tickets.get(hello.ticket), hello.host, line)
                case TurnedAway(hello=hello, why=why) if hello.ticket in self._tickets:
                    self.workers[self._tickets[hello.ticket]].refused = why
                case TurnedAway(hello=hello, why=why):
                    self._events.put(WorkerState(hello.host, "gone", f"process {hello.process}", why))
                case Told(line=line):
                    self._receive(line)
        if self._parted or time.monotonic() - self._looked > LIVENESS_SECONDS:
            self._look_after_workers()

    def _welcome(self, slot: int | None, host: str, line: Line) -> None:
        if slot is None or self.workers[slot].parted is not None:
            line.close()  # its launch is over
            return
        worker = self.workers[slot]
        worker.line, self._lines[line] = line, slot
        worker.host = host if worker.elsewhere else ""
        self._stillborn = self._unborn = 0
        self._note(worker, "here")
        if self.closing or worker.set_aside:
            worker.end(now=self.closing)

    def _receive(self, line: Line) -> None:
        """Take in what a worker, or a host, has sent."""
        slot = self._lines.get(line)
        if slot is None:
            if self._desk is not None:
                self._desk.hear(line)
            return
        worker = self.workers[slot]
        try:
            for data in line.receive():
                self._accept(slot, decode_event(data, worker.name))
        except ValueError as error:  # it is no worker of ours any more
            worker.refused = f"it sent what is no message ({error})"
            worker.kill()
            self._part(slot)
        except (EOFError, OSError):
            self._part(slot)

    def _accept(self, slot: int, event: FromWorker) -> None:
        worker = self.workers[slot]
        if isinstance(event, Want):
            worker.wants = event
            self.asking[slot] = None
            return
        if isinstance(event, Ended) or (
            isinstance(event, Started | Reported | Finished) and event.key not in worker.jobs
        ):
            return  # of an attempt that is over
        if isinstance(event, Finished):
            worker.jobs.pop(event.key)
            if event.result.cause is not Cause.FINISHED:
                event = replace(event, result=worker.with_log(event.result))
        if not isinstance(event, Reported) or self._events.qsize() < REPORTS_WAITING:
            self._events.put(event)

    def _note(self, worker: Running, state: Literal["waiting", "here"]) -> None:
        """Send an event where a worker's state has changed, or what it waits for."""
        if (worker.state, worker.told) != (state, worker.place):
            worker.state, worker.told = state, worker.place
            self._events.put(WorkerState(worker.name, state, worker.place))

    def _look_after_workers(self) -> None:
        """Part with those that have ended, and bury those of which it is known why."""
        self._looked = time.monotonic()
        for slot, worker in list(self.workers.items()):
            if worker.parted is not None:
                self._bury(slot)
                continue
            state = worker.handle.state()
            if state == "gone" and worker.may_still_speak(self._looked):
                continue
            if state == "gone":
                if worker.line is not None:
                    self._receive_last(worker.line)
                self._part(slot)
            elif state == "waiting" and worker.line is None:  # a queue is looked at now and then, and may say so late
                self._note(worker, "waiting")

    def _receive_last(self, line: Line) -> None:
        """Take in what a dead worker has sent and nobody has received, though something holds its connection open."""
        with suppress(EOFError, OSError, ValueError):
            while found := line.receive():
                for data in found:
                    self._accept(self._lines[line], decode_event(data, self.workers[self._lines[line]].name))

    def _part(self, slot: int) -> None:
        """Take no more from a worker, and bury it where it is known already why it ended."""
        worker = self.workers[slot]
        if worker.parted is not None:
            return
        if worker.line is not None:
            self._lines.pop(worker.line)
        self._door.forget(worker.ticket)
        worker.part()
        self.asking.pop(slot, None)
        self._parted.add(slot)
        self._bury(slot)

    def _bury(self, slot: int) -> None:
        """The open runs of a worker are lost, for a cause that may take a moment to be known."""
        worker = self.workers[slot]
        ended = worker.why()
        if ended is None:
            return
        cause, reason = ended
        del self.workers[slot], self._tickets[worker.ticket]
        self._parted.discard(slot)
        self._events.put(WorkerState(worker.name, "gone", worker.place, reason))
        if worker.state != "here" and not (worker.kill_cause or worker.set_aside or self.closing):
            self._count_stillborn(slot, worker, cause, reason)
        for key in worker.jobs:
            own = worker.kill_cause.get(key, Cause.WORKER_LOST if worker.kill_cause else cause)
            self._events.put(Lost(key, worker.name, own, reason, str(worker.log), worker.log_tail()))

    def _count_stillborn(self, slot: int, worker: Running, cause: Cause, reason: str) -> None:
        """A worker has ended before it came. Where others are here or may still come, or somebody has cancelled it, it
        says nothing of the others, and its place is filled again after a while. Raises RuntimeError for one too many.
        """
        self._unborn += cause is not Cause.PREEMPTED
        most = MOST_STILLBORN * len(self.workers.keys() | self._pauses.keys() | {slot})  # as all would fail alike
        others = self._unborn < most and any(one.parted is None for one in self.workers.values())
        if worker.elsewhere and (cause is Cause.PREEMPTED or others):
            self._pauses[slot] = time.monotonic() + STILLBORN_SECONDS
            return
        self._stillborn += 1
        in_a_row = max(self._stillborn, self._unborn)
        if in_a_row >= MOST_STILLBORN:
            raise RuntimeError(
                f"{in_a_row} workers in a row ended before they could take a job ({worker.name}: {reason}); "
                f"{worker.log} says why"
            )
