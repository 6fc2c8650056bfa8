"""A SQLite store as the page reads it: without a lock where that can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from dashboards.live.reading.unlocked import Busy, Unlocked
from dashboards.store.sqlite_runs import (
    Reading,
    SqliteReader,
    history_of,
    open_to_read,
    runs_of,
    some_of,
    tags_of,
)

CHUNK: Final = 100  # runs that are read at once

Value = TypeVar("Value")


class OfFile(Protocol):
    """Finds something in a file; None where SQLite alone cannot say."""

    def __call__(self, file: Path, find: Callable[[Reading], Value | None], /) -> Value | None:
        """What is found."""


def reader_by(of: OfFile) -> SqliteReader:
    """Reads a store by it, in short pieces."""
    return SqliteReader(
        runs=lambda file, study, kind: of(file, lambda read: runs_of(read, study, kind, CHUNK)),
        some=lambda file, run_ids: of(file, lambda read: some_of(read, run_ids, CHUNK)),
        tags=lambda file, study: of(file, lambda read: read(partial(tags_of, experiment=study))),
        history=lambda file, run, name: of(file, lambda read: read(partial(history_of, run_id=run, name=name))),
    )


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


class OpenFile:
    """The SQLite file that was asked for last, kept open. Belongs to one thread."""

    def __init__(self) -> None:
        self._database: Database | None = None

    @property
    def locked(self) -> int:
        """How often it could be read with a lock alone."""
        return 0 if self._database is None else self._database.locked

    def of(self, file: Path) -> Database | None:
        """The file as it is now, None where there is none. Raises sqlite3.Error."""
        self._database = Database.of(file, self._database)
        return self._database

    def find(self, file: Path, find: Callable[[Reading], Value | None], /) -> Value | None:
        """What is found in it; None where SQLite alone cannot say."""
        with suppress(sqlite3.Error):
            database = self.of(file)
            return None if database is None else find(database.read)
        return None

    def close(self) -> None:
        """Close what is open."""
        if self._database is not None:
            self._database.close()
        self._database = None


class Beside:
    """Reads what views ask for, whatever their threads, in one of its own, which alone has the file open: who opens and
    closes it again drops the locks that others of this process have on it.
    """

    def __init__(self) -> None:
        self._thread, self._open = ThreadPoolExecutor(1, "beside"), OpenFile()
        self.reader = reader_by(self._of_file)

    def close(self) -> None:
        """End, when what was asked is read."""
        self._thread.submit(self._open.close)
        self._thread.shutdown(wait=False)

    def _of_file(self, file: Path, find: Callable[[Reading], Value | None], /) -> Value | None:
        return self._thread.submit(lambda: self._open.find(file, find)).result()
