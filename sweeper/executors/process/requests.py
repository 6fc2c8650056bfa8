"""What an executor of worker processes asks of its pump."""

from __future__ import annotations

from dataclasses import dataclass

from studies.records import Cause
from trainers.interface import Job


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
