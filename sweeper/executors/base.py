"""The interface of an executor: what it is asked to stop, and the events that it answers with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from studies.records import Cause, RunResult
from trainers.interface import Job, News


@dataclass(frozen=True)
class Started:
    """A worker has taken the run. `at`: the time by this machine's monotonic clock, here and below."""

    key: str
    worker: str
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class Reported:
    """The run has logged a step. Reports may be left out under load; the result's curve has all of them."""

    key: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """The attempt has ended, well, badly or at a cancel: see its result.

    Of a run that did not finish, the facts `log` and `log_tail` of the result name the worker's log and quote its last
    lines, where there is one.
    """

    key: str
    result: RunResult
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class Lost:
    """The worker ended in the middle of the run: the cause, the reason, the worker's log and its last lines."""

    key: str
    worker: str
    cause: Cause
    reason: str
    log: str
    log_tail: str
    at: float = field(default_factory=time.monotonic, compare=False)

    def result(self) -> RunResult:
        """The result of the run."""
        facts = {"log": self.log, "log_tail": self.log_tail} if self.log else {}
        return RunResult(key=self.key, cause=self.cause, message=self.reason, facts=facts)


@dataclass(frozen=True)
class Dropped:
    """The job was cancelled before a worker took it: nothing of it was written."""

    key: str


@dataclass(frozen=True)
class WorkerNews:
    """A worker reports news that is about no single run."""

    worker: str
    news: News
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class WorkerState:
    """A worker was `asked` for, is `waiting` for its place, is `here`, or is `gone`, and why. Sent by executors that
    have workers. `place`: a description for people.
    """

    worker: str
    state: Literal["asked", "waiting", "here", "gone"]
    place: str
    why: str = ""


@dataclass(frozen=True)
class Cancel:
    """Stop the run with this key (None: all runs) at its next report; drop it where no worker has taken it."""

    key: str | None = None


@dataclass(frozen=True)
class DropWaiting:
    """Drop the jobs that no worker has taken; runs in training go on."""


@dataclass(frozen=True)
class Kill:
    """Kill the worker of a run that does not stop: the run is lost, for this cause.

    What trains beside it is lost too, as when a worker dies. Ignored where there is no worker to kill.
    """

    key: str
    cause: Cause


@dataclass(frozen=True)
class SetAside:
    """Give this worker no more jobs, and end it once its runs have ended."""

    worker: str


StopOrder = Cancel | DropWaiting | Kill | SetAside


@dataclass(frozen=True)
class Capacity:
    """The workers that take jobs, by name, each with a description for people that names its device.

    `ahead`: whether jobs should queue beyond what trains, as workers go on while the sweep records.
    """

    workers: Mapping[str, str]
    ahead: bool

    def slots(self, together: int) -> int:
        """How many runs can train at once where each worker trains `together`."""
        return len(self.workers) * max(1, together)

    def jobs(self, together: int) -> int:
        """How many jobs keep all workers busy: what can train, and with `ahead` one worker's share more, or of many
        workers the 20th part, as several end while the sweep records one.
        """
        return self.slots(together) + (max(1, together, self.slots(together) // 20) if self.ahead else 0)


Event = Started | Reported | Finished | Lost | Dropped | WorkerNews | WorkerState


class Executor(Protocol):
    """Trains runs somewhere.

    Every submitted job ends in exactly one of Finished, Lost and Dropped. Events of one run come in order; those of
    different runs interleave.
    """

    @property
    def capacity(self) -> Capacity:
        """The workers that take jobs. Jobs beyond their capacity wait in the executor."""
        ...

    def submit(self, job: Job) -> None:
        """Hand over a job; returns at once. A key may be submitted again once its last attempt has ended."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """The events since the last call; waits up to `timeout` seconds where there are none."""
        ...

    def stop(self, order: StopOrder) -> None:
        """Stop runs or a worker. Returns at once; may be called in a signal handler."""
        ...

    def close(self, now: bool = False) -> None:
        """Cancel all runs, wait for them to stop and end the workers; `now` kills the workers instead.

        Events up to then can still be read with `events(0)`. Closing again, or closing `now` after an interrupted
        close, is allowed.
        """
        ...
