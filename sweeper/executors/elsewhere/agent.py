"""The host's side of `sweeper worker`: starts workers as the sweep asks, and says why each of them ended.

It stays while the sweep does: one that ends and begins again, as a sweep does that first measures and then trains, is
found again within two minutes.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from studies.records import Cause
from sweeper.executors.door.dial import NobodyThere, dial
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.door.messages import End, Ended, FromWorker, Kill, Launch, decode_order, encode
from sweeper.executors.door.network import KEY_VARIABLE
from sweeper.executors.process.handle import MODULE
from sweeper.executors.process.local import LocalHandle, start_process

_LOOK_SECONDS: Final = 0.2
_LEAVE_SECONDS: Final = 25.0
"""For workers to keep what they train once the host is told to go."""


@dataclass
class _Worker:
    handle: LocalHandle
    process: subprocess.Popen[bytes]
    place: int


class Agent:
    """A host with a place for a worker for each of these environments."""

    def __init__(
        self, addresses: Sequence[str], key: bytes, places: Sequence[Mapping[str, str]], say: Callable[[str], None]
    ) -> None:
        self._addresses, self._key, self._places, self._say = addresses, key, places, say
        self._workers: dict[str, _Worker] = {}
        self._leaving: float | None = None

    def serve(self) -> None:
        """Start workers for the sweep, and for the next one at these addresses, until none is there any more. Raises
        NobodyThere where there never was one; Refused where the sweep does not want this host; ValueError for what is
        no address.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        been_there = False
        while self._leaving is None:
            try:
                connection, welcome, address = dial(self._addresses, self._key, "", len(self._places))
            except NobodyThere:
                if not been_there:
                    raise
                self._say("The sweep has ended.")
                return
            been_there = True
            self._say(f"Connected to the sweep at {address}. Workers print to {welcome.folder}/worker-N.log.")
            try:
                self._attend(connection, welcome, address)
            finally:
                connection.close()
                self._kill_all()

    def _attend(self, connection: socket.socket, welcome: Welcome, address: str) -> None:
        """Do what the sweep asks until it sends this host away, or is gone, or this host is to go."""
        ending = told_leaving = False
        while self._workers or not (ending or self._leaving):
            readable, _, _ = select.select([connection], [], [], _LOOK_SECONDS)
            try:
                if readable and not ending:
                    match decode_order(read_frame(connection)):
                        case Launch(ticket, name) if self._leaving is None:
                            failed = self._start(ticket, Path(welcome.folder or "") / f"{name}.log", address)
                            if failed:
                                self._say(failed)
                                self._tell(connection, Ended(ticket, Cause.INFRASTRUCTURE, failed))
                        case Launch(ticket):
                            self._tell(connection, Ended(ticket, Cause.PREEMPTED, "its host was told to go"))
                        case Kill(ticket) if ticket in self._workers:
                            self._workers[ticket].handle.kill()
                        case End():
                            ending = True
                if self._leaving is not None and not told_leaving:
                    told_leaving = True
                    self._tell(connection, Ended("", Cause.PREEMPTED, "the host was told to go"))
                self._tell_of_ended(connection, quiet=ending)
            except (EOFError, OSError, ValueError):
                return
            if self._leaving is not None and time.monotonic() - self._leaving > _LEAVE_SECONDS:
                return

    def _start(self, ticket: str, log: Path, address: str) -> str:
        """Start a worker; why it could not be started, "" where it was. The others on this host go on."""
        used = {worker.place for worker in self._workers.values()}
        place = next(number for number in range(len(self._places)) if number not in used)
        own = {
            **self._places[place],
            KEY_VARIABLE: self._key.decode(),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
        }
        command = [sys.executable, "-P", "-u", "-X", "faulthandler", "-m", MODULE, ticket, address, str(os.getpid())]
        try:
            process = start_process(command, own, log)
        except OSError as error:
            return f"{socket.gethostname()} cannot start a worker: {error}"
        self._workers[ticket] = _Worker(LocalHandle(process, None), process, place)
        return ""

    def _tell_of_ended(self, connection: socket.socket, *, quiet: bool) -> None:
        for ticket, worker in list(self._workers.items()):
            ended = worker.handle.why() if worker.handle.state() == "gone" else None
            if ended is not None:
                del self._workers[ticket]
                if not quiet:
                    self._tell(connection, Ended(ticket, *ended))

    def _tell(self, connection: socket.socket, event: FromWorker) -> None:
        connection.sendall(framed(encode(event)))

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        """Have the workers keep what they train, and go; at once where there are none, or when told twice."""
        if not self._workers or self._leaving is not None:
            self._kill_all()
            sys.exit(0)
        self._leaving = time.monotonic()
        for worker in self._workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.handle.kill()
            worker.process.wait()
        self._workers = {}
