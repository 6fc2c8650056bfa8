"""What a place that runs workers must offer: launch, kill, and why one ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, Protocol

from studies.records import Cause


class Handle(Protocol):
    """A launched worker."""

    @property
    def place(self) -> str:
        """A description for people: `process 4711`, `job 12`."""
        ...

    @property
    def connection(self) -> Connection | None:
        """The connection to the worker; None until it is here."""
        ...

    def state(self) -> Literal["waiting", "here", "gone"]:
        """Whether it waits for its place, has it, or has ended. Returns at once."""
        ...

    def begin(self) -> None:
        """Note that it begins with runs: what happened before does not count as the cause of their end."""
        ...

    def kill(self) -> None:
        """Kill it and its children at once, without its help."""
        ...

    def why(self) -> tuple[Cause, str]:
        """The cause and the reason for its end, asked once its connection has closed; kills what is left of it after
        some seconds.
        """
        ...


class Launcher(Protocol):
    """Starts workers: as processes of this machine, or as jobs of a cluster."""

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Handle:
        """Start a worker and return at once. Its output is appended to the `log`. The launcher adds to the `command`
        how the worker reaches the sweep. Raises OSError.
        """
        ...
