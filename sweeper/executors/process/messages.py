"""Messages between an executor and its pump, and between the pump and a worker process."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.executors.base import StopOrder
from trainers.interface import Job


@dataclass(frozen=True)
class Want:
    """From a worker: it can train one more run of this `pack_key` beside its own; None: it has no run and takes any.
    The first is answered at once, the second when there is a job.
    """

    like: str | None


@dataclass(frozen=True)
class Stop:
    """To a worker: stop the run with this key at its next report."""

    key: str


@dataclass(frozen=True)
class End:
    """To a worker: end once the runs in training have ended."""


@dataclass(frozen=True)
class Nothing:
    """To a worker: no such job waits."""


Order = Job | Nothing | Stop | End


@dataclass(frozen=True)
class Close:
    """To the pump: end once the workers have ended; `now` kills them."""

    now: bool


Request = Job | StopOrder | Close
