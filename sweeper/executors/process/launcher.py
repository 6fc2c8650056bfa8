"""What a place that runs workers must offer: launch, kill, and why one ended."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from studies.records import Cause
from sweeper.executors.door.greeting import Hello
from sweeper.executors.door.line import Line


class Handle(Protocol):
    """A launched worker."""

    @property
    def place(self) -> str:
        """A description for people: `process 4711`, `job 12`."""
        ...

    @property
    def connection(self) -> socket.socket | None:
        """The sweep's end of the connection that the worker was handed on; None: it dials the sweep's door."""
        ...

    def state(self) -> Literal["waiting", "here", "gone"]:
        """Whether it waits for its place, has it, or has ended. Returns at once."""
        ...

    def begin(self) -> None:
        """Note that it begins with runs: what happened before does not count as the cause of their end."""
        ...

    def kill(self) -> None:
        """Kill it and its children at once, without its help. Returns at once; may be called again."""
        ...

    def why(self) -> tuple[Cause, str] | None:
        """The cause and the reason for its end, asked once its connection has closed; None as long as they are not
        known. Returns within a blink.
        """
        ...


class Launcher(Protocol):
    """Starts workers: as processes of this machine, as jobs of a cluster, or on hosts that have come by."""

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Handle:
        """Start a worker and return at once. Its output is appended to the `log`. The launcher adds to the `command`,
        which ends with the worker's ticket, how the worker reaches the sweep. Raises OSError.
        """
        ...


class Desk(Protocol):
    """Where hosts come by that start workers."""

    def register(self, hello: Hello, line: Line) -> None:
        """A host has come."""
        ...

    def hear(self, line: Line) -> bool:
        """Receive what a host says; False where the line is of no host."""
        ...
