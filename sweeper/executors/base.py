"""What an executor is, what it is asked to stop, and the events that it answers with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from studies.records import Cause, RunResult
from trainers.interface import Job, News


@dataclass(frozen=True)
class Started:
    """A worker has taken the run. `at`: when, by this machine's monotonic clock, here and below."""

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
    """The attempt at the run has ended by itself or at a cancel, well or badly: the result says which.

    Of a run that did not come to its end, the facts `log` and `log_tail` of the result say where the worker's log is
    and what stood there last, where there is one.
    """

    key: str
    result: RunResult
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class Lost:
    """The worker ended in the middle of the run: for which cause, how, its log and the last lines of that."""

    key: str
    worker: str
    cause: Cause
    reason: str
    log: str
    log_tail: str
    at: float = field(default_factory=time.monotonic, compare=False)

    def result(self) -> RunResult:
        """As the result of the run."""
        facts = {"log": self.log, "log_tail": self.log_tail} if self.log else {}
        return RunResult(key=self.key, cause=self.cause, message=self.reason, facts=facts)


@dataclass(frozen=True)
class Dropped:
    """The job was cancelled before a worker took it: nothing of it exists."""

    key: str


@dataclass(frozen=True)
class Told:
    """A worker has news, of no run by itself."""

    worker: str
    news: News
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class WorkerState:
    """A worker was `asked` for, is `waiting` for its place, is `here`, or is `gone`, and why; told by executors that
    have workers. `place`: what it is, for people.
    """

    worker: str
    state: Literal["asked", "waiting", "here", "gone"]
    place: str
    why: str = ""


@dataclass(frozen=True)
class Cancel:
    """Stop the run with this key (None: all runs) at its next report, and drop it where it still waits."""

    key: str | None = None


@dataclass(frozen=True)
class DropWaiting:
    """Drop the jobs that no worker has taken; what is in training goes on."""


@dataclass(frozen=True)
class Kill:
    """End a run that does not stop by itself, with its worker: it is lost, for this cause.

    What trains beside it is lost too, as when a worker dies. Ignored where there is no worker to kill.
    """

    key: str
    cause: Cause


@dataclass(frozen=True)
class SetAside:
    """Give this worker no more jobs, and end it when the runs that it has are over."""

    worker: str


StopOrder = Cancel | DropWaiting | Kill | SetAside


@dataclass(frozen=True)
class Capacity:
    """The workers that take jobs, by name, and what each is, for people, its device included.

    `ahead`: whether a worker whose runs end should find its next jobs ready, as it trains while the sweep records.
    """

    workers: Mapping[str, str]
    ahead: bool

    def slots(self, together: int) -> int:
        """How many runs can be in training at once where each worker trains `together`."""
        return len(self.workers) * max(1, together)

    def jobs(self, together: int) -> int:
        """How many jobs keep all workers busy: what can train, and beyond that what one worker takes at once."""
        return self.slots(together) + (max(1, together) if self.ahead else 0)


Event = Started | Reported | Finished | Lost | Dropped | Told | WorkerState


class Executor(Protocol):
    """Where runs are trained.

    Every submitted job ends in exactly one of Finished, Lost and Dropped. A run's events come in order; those of
    different runs mix.
    """

    @property
    def capacity(self) -> Capacity:
        """The workers that jobs can go to. Jobs beyond what they train wait in the executor."""
        ...

    def submit(self, job: Job) -> None:
        """Hand over a job; returns at once. A key may be submitted again once its last attempt has ended."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """What has happened since the last call; waits up to `timeout` seconds where nothing has."""
        ...

    def stop(self, order: StopOrder) -> None:
        """Stop runs or a worker, as the order says. Returns at once; may be called in a signal handler."""
        ...

    def close(self, now: bool = False) -> None:
        """Cancel everything, wait for the runs to stop and end the workers; `now` kills them instead.

        What happened until then can still be read with `events(0)`. Closing again, or closing `now` after an
        interrupted close, is allowed.
        """
        ...
