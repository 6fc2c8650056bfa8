"""What an executor asks of its pump."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.executors.base import StopOrder
from trainers.interface import Job


@dataclass(frozen=True)
class Close:
    """End once the workers have ended; `now` kills them."""

    now: bool


Request = Job | StopOrder | Close
