"""What starts a worker's process somewhere, and what the pump needs to know of it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, Protocol

from studies.records import Cause


class Handle(Protocol):
    """A worker that was launched."""

    @property
    def place(self) -> str:
        """What it is there, for people: `process 4711`, `job 12`."""
        ...

    @property
    def connection(self) -> Connection | None:
        """Where its messages come from; None as long as it is not here."""
        ...

    def state(self) -> Literal["waiting", "here", "gone"]:
        """Whether it waits for its place, has it, or has ended. Returns at once."""
        ...

    def begin(self) -> None:
        """Note that it begins with runs: what happened before is no cause of how they end."""
        ...

    def kill(self) -> None:
        """End it and its children at once, without its help."""
        ...

    def why(self) -> tuple[Cause, str]:
        """Why and how it ended, asked once its connection has closed; kills what is left of it after some seconds."""
        ...


class Launcher(Protocol):
    """Starts workers: in processes of this machine, or as what a cluster calls a job."""

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Handle:
        """Start a worker and return at once. What it prints is appended to the `log`. To the `command` the launcher
        adds how the worker reaches the sweep. Raises OSError.
        """
        ...
