"""A SQLite store as the page reads it: without a lock where that can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from dashboards.live.reading.unlocked import Busy, Unlocked
from dashboards.store.sqlite_runs import open_to_read

Value = TypeVar("Value")


class Database:
    """An open file. Belongs to one thread. `locked`: how often it could be read with a lock alone."""

    def __init__(self, file: Path) -> None:
        """Raises OSError."""
        self._unlocked, self._locking = Unlocked(file), open_to_read(file)
        self.locked = 0

    @classmethod
    def of(cls, file: Path, open_now: Database | None) -> Database | None:
        """The file as it is now: another one may have taken its name. None where there is none."""
        with suppress(OSError):
            if open_now is not None and open_now._unlocked.is_there:
                return open_now
            if open_now is not None:
                open_now.close()
            return cls(file)
        return None

    def version(self) -> object:
        """What changes when somebody writes; nothing that was before, while somebody does."""
        return self._unlocked.state() or object()

    def read(self, read: Callable[[sqlite3.Connection], Value]) -> Value:
        """What `read` finds. Raises sqlite3.Error."""
        try:
            return self._unlocked.read(read)
        except Busy:
            self.locked += 1
            return read(self._locking)

    def close(self) -> None:
        """Close it."""
        self._locking.close()
        self._unlocked.close()
