"""What an executor is and the messages that it and its workers exchange; knows no search, store or trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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


Event = Started | Reported | Finished | Lost | Dropped | Told


class Executor(Protocol):
    """Where runs are trained.

    Every submitted job ends in exactly one of Finished, Lost and Dropped. A run's events come in order; those of
    different runs mix.
    """

    together: int
    """How many runs one worker trains at once at most; what the workers say of it is put here."""

    @property
    def slots(self) -> int:
        """How many runs can be in training at once, packs included. Jobs beyond that wait in the executor."""
        ...

    @property
    def ahead(self) -> int:
        """How many more jobs should lie ready, so that a worker whose runs end together goes on at once."""
        ...

    def submit(self, job: Job) -> None:
        """Hand over a job; returns at once. A key may be submitted again once its last attempt has ended."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """What has happened since the last call; waits up to `timeout` seconds where nothing has."""
        ...

    def cancel(self, key: str | None) -> None:
        """Stop that run (None: all) at its next report. Returns at once; may be called in a signal handler."""
        ...

    def hold_back(self) -> None:
        """Drop the jobs that no worker has taken yet; what is in training goes on. Returns at once, as `cancel`."""
        ...

    def kill(self, key: str, cause: Cause) -> None:
        """End that run, which does not stop by itself, with its worker: it is lost, for this cause. Returns at once.

        What trains beside it is lost too, as when a worker dies. Does nothing where there is no worker to kill.
        """
        ...

    def set_aside(self, worker: str) -> str:
        """Give this worker no more jobs; `slots` is less by what it trained. Tells what it is, its device included."""
        ...

    def close(self, now: bool = False) -> None:
        """Cancel everything, wait for the runs to stop and end the workers; `now` kills them instead.

        What happened until then can still be read with `events(0)`. Closing again, or closing `now` after an
        interrupted close, is allowed.
        """
        ...
