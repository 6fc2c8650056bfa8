"""Starts workers on hosts that come by themselves, with `sweeper worker`, and say how many they have room for.

All of it happens in the pump's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studies.records import Cause
from sweeper.executors.door.greeting import Hello
from sweeper.executors.door.line import Line
from sweeper.executors.door.messages import End, Ended, Kill, Launch, decode_event


@dataclass(eq=False)
class _Host:
    """A host that is here, and how many more workers it has room for."""

    name: str
    line: Line
    free: int


@dataclass(eq=False)
class _Place:
    """See `Handle`. Waits until a host has room for it."""

    name: str
    ticket: str
    host: _Host | None = None
    ended: tuple[Cause, str] | None = None
    connection: None = None

    @property
    def place(self) -> str:
        """See `Handle.place`."""
        return "a worker" if self.host is not None else "a worker (no host has room for it yet)"

    def state(self) -> Literal["waiting", "here", "gone"]:
        """See `Handle.state`."""
        if self.ended is not None:
            return "gone"
        return "waiting" if self.host is None else "here"

    def begin(self) -> None:
        """See `Handle.begin`: the host counts from the start of the process."""

    def kill(self) -> None:
        """See `Handle.kill`."""
        if self.host is not None:
            self.host.line.send(Kill(self.ticket))
        elif self.ended is None:
            self.ended = Cause.WORKER_LOST, "no host has taken it"

    def why(self) -> tuple[Cause, str] | None:
        """See `Handle.why`."""
        return self.ended


class Hosts:
    """See `Launcher` and `Desk`."""

    def __init__(self) -> None:
        self._hosts: dict[Line, _Host] = {}
        self._places: dict[str, _Place] = {}

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Place:
        """See `Launcher.launch`. The host knows its own command and environment."""
        place = _Place(name, ticket=command[-1])
        self._places[place.ticket] = place
        self._give_places()
        return place

    def register(self, hello: Hello, line: Line) -> None:
        """See `Desk.register`."""
        self._hosts[line] = _Host(hello.host, line, hello.places)
        self._give_places()

    def hear(self, line: Line) -> bool:
        """See `Desk.hear`."""
        host = self._hosts.get(line)
        if host is None:
            return False
        try:
            for data in line.receive():
                event = decode_event(data, host.name)
                if isinstance(event, Ended):
                    self._end(host, event)
        except (EOFError, OSError, ValueError):
            self._lose(host)
        self._give_places()
        return True

    def close(self) -> None:
        """Send the hosts away."""
        for line in self._hosts:
            line.send(End())
            line.close()

    def _give_places(self) -> None:
        self._places = {ticket: place for ticket, place in self._places.items() if place.ended is None}
        for place in self._places.values():
            host = next((host for host in self._hosts.values() if host.free > 0), None)
            if host is not None and place.host is None:
                place.host = host
                host.free -= 1
                host.line.send(Launch(place.ticket, place.name))

    def _end(self, host: _Host, event: Ended) -> None:
        if not event.ticket:  # it goes, and takes no more
            host.free = -len(self._places)
            return
        place = self._places.get(event.ticket)
        if place is not None and place.host is host:
            place.ended = event.cause, event.reason
            host.free += 1

    def _lose(self, host: _Host) -> None:
        """What the host's workers had sent may still be read."""
        del self._hosts[host.line]
        host.line.close()
        for place in self._places.values():
            if place.host is host and place.ended is None:
                place.ended = Cause.WORKER_LOST, f"its host {host.name} has gone"
