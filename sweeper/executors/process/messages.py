"""What an executor asks of its pump, and what a worker process and the pump say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.executors.base import StopOrder
from trainers.interface import Job


@dataclass(frozen=True)
class Want:
    """From a worker: it can train one more run, of this `pack_key`, beside those that it has; None: it has none and
    takes any. The first is answered at once, the second when there is a job.
    """

    like: str | None


@dataclass(frozen=True)
class Stop:
    """To a worker: end the run with this key at its next report."""

    key: str


@dataclass(frozen=True)
class End:
    """To a worker: end when the run in training has ended."""


@dataclass(frozen=True)
class Nothing:
    """To a worker: no such job waits now."""


Order = Job | Nothing | Stop | End


@dataclass(frozen=True)
class Close:
    """To the pump: end when the workers have, or kill them `now`."""

    now: bool


Request = Job | StopOrder | Close
