"""Writes what a sweep tells of itself; see `sweeper.folder.events`."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from studies.text.files import open_file
from sweeper.folder.events import (
    LONGEST_LINE,
    Happening,
    Heartbeat,
    Line,
    PhaseBegan,
    RunEnded,
    RunReported,
    RunStarted,
    SweepBegan,
    WorkerChanged,
    encode,
    has_name,
)
from sweeper.folder.names import EARLIER_EVENTS_FILE, EVENTS_FILE

MOST_BYTES: Final = 16 << 20  # of one file
REPORT_SECONDS: Final = 5.0


class EventLog:
    """Appends the events of one sweep. Threads may share it. A full disk does not stop the sweep.

    `also`: who gets every line beside the file; `begins_with`: what its file has from the first moment on.
    """

    def __init__(
        self,
        runs: Path,
        sweep: str,
        tell_user: Callable[[str], None],
        also: Callable[[Line], None] = lambda _: None,
        begins_with: Sequence[Happening] = (),
    ) -> None:
        self._path, self._sweep, self._tell_user, self._also = runs / EVENTS_FILE, sweep, tell_user, also
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._standing: dict[tuple[type[Any], str], Happening] = {}  # what a new file begins with
        self._reported: dict[str, float] = {}
        self._number = self._size = 0
        self._torn = False
        with self._lock:
            for event in begins_with:
                self._note(event)
            self._begin(begins_with)

    def append(self, event: Happening) -> None:
        """Write one event."""
        with self._lock:
            if isinstance(event, RunReported) and not self._is_due(event.key):
                return
            self._note(event)
            if self._size > MOST_BYTES and self._is_ours():
                self._begin(list(self._standing.values()))
                if (type(event), _of(event)) in self._standing:
                    return
            self._write(event)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _begin(self, events: Sequence[Happening]) -> None:
        """Begin a new file with these."""
        self._close()
        self._size, self._torn = 0, False
        new = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            self._file = open_file(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
            for event in events:
                self._write(event)
            self._keep_earlier()
            os.replace(new, self._path)
        except OSError as error:
            self._close()
            with suppress(OSError):
                new.unlink(missing_ok=True)
            self._tell_user(f"No events are told: {error.filename or self._path}: {error.strerror}.")

    def _keep_earlier(self) -> None:
        """Give the file there is its second name beside its first, which the new one then takes over at once."""
        earlier = self._path.with_name(EARLIER_EVENTS_FILE)
        with suppress(FileNotFoundError):
            earlier.unlink()
        with suppress(FileNotFoundError):
            try:
                os.link(self._path, earlier, follow_symlinks=False)
            except OSError:  # a file system without hard links, or no file at all
                os.replace(self._path, earlier)

    def _write(self, event: Happening) -> None:
        self._number += 1
        told = Line(self._sweep, self._number, time.time(), event)
        line = encode(told)
        self._also(told)
        if self._file is None or len(line) > LONGEST_LINE:
            return
        line = b"\n" + line if self._torn else line
        try:
            written = os.write(self._file.fileno(), line)
        except OSError:
            return  # the disk is full now; who reads sees a gap in the numbers
        self._torn = written < len(line)
        self._size += written

    def _is_ours(self) -> bool:
        """Whether the file still has its name: another sweep may have taken over the study."""
        return self._file is not None and has_name(self._file, self._path)

    def _is_due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._reported.get(key, -REPORT_SECONDS) < REPORT_SECONDS:
            return False
        self._reported[key] = now
        return True

    def _note(self, event: Happening) -> None:
        match event:
            case SweepBegan() | PhaseBegan() | RunStarted() | Heartbeat():
                self._standing[type(event), _of(event)] = event
            case WorkerChanged(state="gone"):
                self._standing.pop((WorkerChanged, event.worker), None)
            case WorkerChanged():
                self._standing[WorkerChanged, event.worker] = event
            case RunEnded(key=key):
                self._standing.pop((RunStarted, key), None)
                self._reported.pop(key, None)


def _of(event: Happening) -> str:
    match event:
        case RunStarted(key=key):
            return key
        case WorkerChanged(worker=worker):
            return worker
    return ""
