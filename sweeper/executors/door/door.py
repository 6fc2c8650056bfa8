"""The sweep's door: workers knock at it, say who they are, and are let in, refused, or turned away.

Nothing here waits for anybody. Who has connected and not yet shown the key has a few seconds, one small buffer, and is
the first to go where too many knock; so strangers cost next to nothing, however slow, loud or many they are.
"""

from __future__ import annotations

import errno
import json
import resource
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from studies.text.files import parse_json
from sweeper.executors.door.frames import MOST_BYTES as MOST_LET_IN
from sweeper.executors.door.frames import Frames
from sweeper.executors.door.greeting import (
    MOST_BYTES,
    Hello,
    Welcome,
    differs,
    first_words,
    hello_in,
    new_nonce,
    opened,
    sealed,
)
from sweeper.executors.door.line import Line
from sweeper.executors.door.network import keep_alive
from sweeper.executors.door.shared import is_answered

KNOCK_SECONDS: Final = 10.0
"""For a newcomer to say who it is."""
SHARE_SECONDS: Final = 30.0
"""And then, on another machine, to show that it sees the sweep's folder."""
MOST_NEWCOMERS: Final = 512
_ACCEPTED_AT_ONCE: Final = 64
_BACKLOG: Final = 1024
_MOST_FILES: Final = 16384
_FULL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Arrived:
    """A worker, or a host, has been let in."""

    hello: Hello
    line: Line


@dataclass(frozen=True)
class TurnedAway:
    """A worker that knows the key was refused, for this reason."""

    hello: Hello
    why: str


@dataclass(frozen=True)
class Told:
    """There is something to receive."""

    line: Line


@dataclass(eq=False)
class _Newcomer:
    frames: Frames
    nonce: str
    deadline: float
    hello: Hello | None = None
    file: str = ""


class Door:
    """Lets workers in by their tickets. Owns the selector, which `wake` wakes up."""

    def __init__(self, key: bytes, versions: Mapping[str, str] | None = None) -> None:
        """`versions`: what workers must have the same of; None: they are on this machine and are not asked."""
        self._key, self._versions = key, versions or {}
        self._wakeup, self._wakeups = socket.socketpair()
        self._wakeup.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeups, selectors.EVENT_READ, None)
        self._expected: dict[str, Welcome] = {}
        self._newcomers: dict[_Newcomer, None] = {}
        self._listener: socket.socket | None = None
        self._full_until = 0.0

    def listen(self, host: str, port: int) -> int:
        """Let others connect to this address, to all of this machine's where it has none of this name, as behind a
        router ("": all in any case); gives the port. Raises OSError.
        """
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # each worker takes one
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, _MOST_FILES)), most))
        try:
            self._listener = socket.create_server((host, port), backlog=_BACKLOG)
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                self._listener = socket.create_server(("", port), backlog=_BACKLOG)
            else:
                raise OSError(error.errno, error.strerror, f"port {port}") from error
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        return int(self._listener.getsockname()[1])

    def expect(self, ticket: str, welcome: Welcome) -> None:
        """Let the worker of this ticket in, once; that of the ticket "" as often as it comes."""
        self._expected[ticket] = welcome

    def forget(self, ticket: str) -> None:
        """Do not let the worker of this ticket in any more."""
        self._expected.pop(ticket, None)

    def adopt(self, connection: socket.socket) -> None:
        """Take a connection that was handed on to a worker, as if it had knocked. Its worker is this machine's own, so
        that it has all the time it needs to start.
        """
        self._let_knock(connection, float("inf"))

    def wait(self, seconds: float) -> Iterator[Arrived | TurnedAway | Told]:
        """What has happened, after so many seconds at most; sends what has waited to be sent."""
        now = time.monotonic()
        if self._full_until and now > self._full_until and self._listener is not None:
            self._full_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        for key, mask in self._selector.select(seconds):
            match key.data:
                case Line() as line:
                    if mask & selectors.EVENT_WRITE:
                        line.flush()
                    if mask & selectors.EVENT_READ:
                        yield Told(line)
                case _Newcomer() as newcomer:
                    yield from self._hear(newcomer)
                case None:
                    self._wakeups.recv(4096)
                case _:
                    self._accept()
        yield from self._look_at_newcomers(time.monotonic())

    def wake(self) -> None:
        """Have `wait` return at once; may be called in any thread and in a signal handler."""
        with suppress(OSError):  # it is full, so it wakes up anyway, or the door is closed
            self._wakeup.send(b"!")

    def close(self) -> None:
        """Turn everybody away and close for good. Lines are closed by who has them."""
        for newcomer in list(self._newcomers):
            self._drop(newcomer)
        if self._listener is not None:
            self._listener.close()
        self._selector.close()
        for end in (self._wakeup, self._wakeups):
            end.close()

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):  # or it would spin
                    self._selector.unregister(self._listener)
                    self._full_until = time.monotonic() + _FULL_SECONDS
                    return
                continue  # who has knocked is gone already
            with suppress(OSError):
                keep_alive(connection)
            self._let_knock(connection, time.monotonic() + KNOCK_SECONDS)

    def _let_knock(self, connection: socket.socket, deadline: float) -> None:
        newcomer = _Newcomer(Frames(connection, MOST_BYTES), new_nonce(), deadline)
        self._selector.register(connection, selectors.EVENT_READ, newcomer)
        self._newcomers[newcomer] = None
        if len(self._newcomers) > MOST_NEWCOMERS:
            strangers = (one for one in self._newcomers if one.hello is None and one.deadline < float("inf"))
            self._drop(next(strangers, newcomer))
        self._say(newcomer, first_words(newcomer.nonce, [name for name in self._versions if name != "python"]))

    def _hear(self, newcomer: _Newcomer) -> Iterator[Arrived | TurnedAway]:
        """What a newcomer says. Whatever is wrong with it, it is dropped without a word."""
        try:
            for data in newcomer.frames.receive():
                if newcomer.hello is None:
                    yield from self._greet(newcomer, data)
                elif newcomer not in self._newcomers or newcomer.file:
                    raise ValueError("it speaks out of turn")
                else:
                    yield from self._hear_of_folder(newcomer, newcomer.hello, data)
        except (EOFError, OSError, ValueError, TypeError):
            self._drop(newcomer)

    def _greet(self, newcomer: _Newcomer, data: bytes) -> Iterator[Arrived | TurnedAway]:
        text, nonce = opened(self._key, "worker", newcomer.nonce, data)
        hello = hello_in(text)
        newcomer.hello = hello
        welcome = self._expected.get(hello.ticket)
        why = differs(self._versions, hello)
        if welcome is None and not why:
            why = "the sweep does not wait for this worker, or no more"
        answer = Welcome(refused=why) if why or welcome is None else welcome
        self._say(newcomer, sealed(self._key, "sweep", (newcomer.nonce, nonce), answer))
        if answer.refused:
            self._drop(newcomer)
            yield TurnedAway(hello, answer.refused)
        elif answer.folder is None:
            yield self._let_in(newcomer, hello)
        else:
            newcomer.deadline = time.monotonic() + SHARE_SECONDS

    def _hear_of_folder(self, newcomer: _Newcomer, hello: Hello, data: bytes) -> Iterator[Arrived | TurnedAway]:
        word, told = parse_json(data)
        if word == "shared":
            newcomer.file = str(told)
            yield from self._look_for_file(newcomer, hello)
        else:
            yield self._refuse(newcomer, hello, str(told)[:1000])

    def _look_for_file(self, newcomer: _Newcomer, hello: Hello) -> Iterator[Arrived]:
        welcome = self._expected.get(hello.ticket)
        if welcome is not None and is_answered(Path(welcome.folder or ""), newcomer.file):
            self._say(newcomer, b'["in"]')
            yield self._let_in(newcomer, hello)

    def _look_at_newcomers(self, now: float) -> Iterator[Arrived | TurnedAway]:
        for newcomer in list(self._newcomers):
            if newcomer.file and newcomer.hello is not None:
                yield from self._look_for_file(newcomer, newcomer.hello)
            if now > newcomer.deadline and newcomer in self._newcomers:
                if newcomer.file and newcomer.hello is not None:
                    why = "the sweep does not see what it wrote into the folder of the runs"
                    yield self._refuse(newcomer, newcomer.hello, why)
                else:
                    self._drop(newcomer)

    def _let_in(self, newcomer: _Newcomer, hello: Hello) -> Arrived:
        if hello.ticket:
            self.forget(hello.ticket)
        self._newcomers.pop(newcomer, None)
        newcomer.frames.most = MOST_LET_IN
        return Arrived(hello, Line(newcomer.frames, self._selector))

    def _refuse(self, newcomer: _Newcomer, hello: Hello, why: str) -> TurnedAway:
        told = f"{hello.host}: {why}. {MOUNT}"
        self._say(newcomer, json.dumps(["refused", told]).encode())
        self._drop(newcomer)
        return TurnedAway(hello, told)

    def _say(self, newcomer: _Newcomer, data: bytes) -> None:
        with suppress(OSError):
            newcomer.frames.send(data)

    def _drop(self, newcomer: _Newcomer) -> None:
        if newcomer in self._newcomers:
            del self._newcomers[newcomer]
            self._selector.unregister(newcomer.frames.socket)
            newcomer.frames.close()


MOUNT: Final = (
    "Sweep and workers need one folder: mount the file system of the runs on both machines, at the same path, or run "
    "the sweep in a folder that both have"
)
