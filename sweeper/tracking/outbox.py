"""Keeps what the store cannot take now in a file and hands it over later, in order; knows no MLflow.

An entry is a JSON mapping; the caller makes its delivery safe to repeat, since after a crash all of the file is
delivered again. Memory does not grow with what waits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dashboards.store.connection import StoreAway, StoreError, StoreRefused
from studies.text.files import open_file, parse_json
from sweeper.folder.names import refused_of

Entry = Mapping[str, Any]
Deliver = Callable[[Entry, bool], None]
"""deliver(entry, again): raises StoreAway where it may be tried later, StoreRefused where it never will be taken.
`again`: an earlier try may have been taken without an answer."""

# Seconds between tries while the store is away: each may hold up the sweep until its requests time out.
LONGEST_LINE = 64 << 20
FIRST_WAIT, LONGEST_WAIT = 5.0, 120.0


class Outbox:
    """What is on its way to the store. Straight through while the store answers, over the file `journal` otherwise."""

    def __init__(self, journal: Path, deliver: Deliver, tell_user: Callable[[str], None]) -> None:
        self._journal, self._deliver, self._tell_user = journal, deliver, tell_user
        self._position = 0  # of the first byte that was not delivered
        self._told = False
        self._wait, self._next_try = FIRST_WAIT, 0.0
        self.waiting = _entries(journal)

    def send(self, entry: Entry) -> None:
        """Deliver the entry, or keep it where the store is away. Raises StoreError where it cannot be kept either."""
        if not self.waiting:
            try:
                self._try(entry, again=False)
                return
            except StoreAway as error:
                self._lost(error)
        self._keep(entry)
        self.catch_up(now=False)

    def catch_up(self, *, now: bool) -> bool:
        """Deliver what waits, where it is time for another try or `now`; whether nothing waits any more."""
        if not self.waiting:
            return True
        if not now and time.monotonic() < self._next_try:
            return False
        try:
            with open_file(self._journal, os.O_RDONLY) as file:
                file.seek(self._position)
                for line in _lines(file):
                    self._try_line(line)
                    self._position += len(line)
                    self.waiting -= 1
        except StoreAway as error:
            self._lost(error)
            return False
        self._journal.unlink()
        self._position, self._wait = 0, FIRST_WAIT
        if self._told:
            self._told = False
            self._tell_user("MLflow is back and has all that it missed.")
        return True

    def _try_line(self, line: bytes) -> None:
        try:
            entry = parse_json(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            self._set_aside(line, "a damaged line")
            return
        self._try(entry, again=True)

    def _try(self, entry: Entry, *, again: bool) -> None:
        try:
            self._deliver(entry, again)
        except StoreRefused as error:
            self._set_aside(json.dumps(entry).encode() + b"\n", str(error))

    def _set_aside(self, line: bytes, reason: str) -> None:
        """Keep what will never be taken out of the way of the rest."""
        place = refused_of(self._journal)
        _append(place, line)
        self._tell_user(f"One record was not taken and lies in {place}: {reason}")

    def _keep(self, entry: Entry) -> None:
        _append(self._journal, json.dumps(entry).encode() + b"\n")
        self.waiting += 1

    def _lost(self, error: StoreAway) -> None:
        self._next_try = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        if not self._told:
            self._told = True
            self._tell_user(f"{error} Training goes on; what MLflow misses is kept in {self._journal}.")


def try_for(seconds: float, attempt: Callable[[], bool]) -> bool:
    """Try once a second whether the store answers and takes all, for so long and at least once; whether it did."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(StoreAway):
            if attempt():
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(1.0)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a journal; what is longer than any of ours comes in parts, which are no entries."""
    return iter(lambda: file.readline(LONGEST_LINE), b"")


def _append(file: Path, line: bytes) -> None:
    """Add a line and have it on the disk. Raises StoreError where there is no place for it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_file(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StoreError(
            f"MLflow is away, and what it misses cannot be kept in {file} either ({error.strerror}): make room or make "
            "the folder writable. Finished runs are kept in their folders; run the study again to go on."
        ) from error


def _entries(journal: Path) -> int:
    """How many entries an earlier sweep left in the file. A last line that was cut short is taken off: its writer did
    not live to rely on it.
    """
    try:
        with open_file(journal, os.O_RDWR) as file:
            count = end = 0
            for line in _lines(file):
                if line.endswith(b"\n") or len(line) == LONGEST_LINE:
                    count, end = count + 1, end + len(line)
            file.truncate(end)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(f"{journal} cannot be read ({error.strerror}): make it readable and writable.") from error
    if not count:
        journal.unlink()
    return count
