"""Reads a SQLite file that others write without ever taking a lock that they wait for.

A reader of SQLite holds a shared lock, and who commits meanwhile waits: for seconds, where the reader is not given a
processor. Here the file is read as one that never changes, and what was read counts only where nobody has written
meanwhile: its change counter is the same before and after, and there was no journal at either moment. (With a rollback
journal a commit writes pages only while its journal is there, and each commit changes the counter:
https://www.sqlite.org/fileformat.html, sections 1.3.7 and 3.) Else it is read again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

PATIENCE_SECONDS: Final = 10.0  # the page waits, and no sweep
STILL_SECONDS: Final = 1.0  # after which a journal that stays as it is counts as left behind
WAIT_SECONDS: Final = 0.005  # between two of them
_COUNTER: Final = slice(24, 28)
_FORMATS: Final = slice(18, 20)  # 1 each: with a rollback journal
_HEAD: Final = 100

Value = TypeVar("Value")
State = tuple[bytes, int, int]


class Busy(Exception):
    """Others write all the time, a killed process left a journal, or the file has none: only a lock tells."""


class Unlocked:
    """An open file. It stays open until `close`: to close it would drop the locks that this process has on it."""

    def __init__(self, file: Path) -> None:
        """Raises OSError."""
        self._file, self._journal = file, file.with_name(f"{file.name}-journal")
        self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._kept: tuple[State, sqlite3.Connection] | None = None

    @property
    def is_there(self) -> bool:
        """Whether it still has its name. Raises OSError where nothing has."""
        return os.path.samestat(os.fstat(self._descriptor), self._file.stat())

    def state(self) -> State | None:
        """What changes with every commit; None while somebody writes."""
        before = self._state()
        return None if before is None or self._is_written() else before

    def read(self, read: Callable[[sqlite3.Connection], Value]) -> Value:
        """What `read` finds by a connection that takes no lock. Raises Busy; sqlite3.Error where the file is at rest
        and cannot be read.
        """
        began = since = time.monotonic()
        last = self._journal_sign()
        while time.monotonic() - began < PATIENCE_SECONDS and self._state() is not None:
            before = self.state()
            if before is not None:
                found, problem = self._tried(read, before)
                if not self._is_written() and self._state() == before:  # in this order
                    if problem is not None:
                        raise problem
                    return found[0]
                self._forget()
            if (journal := self._journal_sign()) != last or journal is None:
                last, since = journal, time.monotonic()
            elif time.monotonic() - since > STILL_SECONDS:
                break
            time.sleep(WAIT_SECONDS)
        raise Busy

    def close(self) -> None:
        """Close it."""
        self._forget()
        os.close(self._descriptor)

    def _tried(self, read: Callable[[sqlite3.Connection], Value], state: State) -> tuple[list[Value], Exception | None]:
        """What it finds, or why nothing: pages that are just written, which no code expects, or the file itself."""
        try:
            return [read(self._connection(state))], None
        except Exception as error:
            return [], error

    def _connection(self, state: State) -> sqlite3.Connection:
        """One that has seen the file in no other state: it keeps pages, and does not look whether they have changed."""
        if self._kept is None or self._kept[0] != state:
            self._forget()
            uri = f"{self._file.absolute().as_uri()}?mode=ro&immutable=1"
            self._kept = state, sqlite3.connect(uri, uri=True, isolation_level=None)
        return self._kept[1]

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
        self._kept = None

    def _state(self) -> State | None:
        head, stat = os.pread(self._descriptor, _HEAD, 0), os.fstat(self._descriptor)
        return (head[_COUNTER], stat.st_size, stat.st_mtime_ns) if head[_FORMATS] == b"\1\1" else None

    def _journal_sign(self) -> object:
        try:
            stat = self._journal.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _is_written(self) -> bool:
        try:
            return self._journal.stat().st_size > 0
        except OSError:
            return False
