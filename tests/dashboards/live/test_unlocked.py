"""A file that others write is read without a lock, whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dashboards.live.reading import unlocked
from dashboards.live.reading.unlocked import Busy, Unlocked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "store.db"
    with closing(sqlite3.connect(made)) as database:
        database.execute("create table pairs (one integer, other integer, filling text)")
        database.executemany("insert into pairs values (?, ?, ?)", [(0, 0, "x" * 500)] * 300)
        database.commit()
    return made


@pytest.fixture
def opened(file: Path) -> Iterator[Unlocked]:
    made = Unlocked(file)
    yield made
    made.close()


def pairs(database: sqlite3.Connection) -> set[tuple[int, int]]:
    return set(database.execute("select one, other from pairs").fetchall())


def write(database: sqlite3.Connection, number: int) -> None:
    database.execute("update pairs set one = ?, other = ?", (number, number))
    database.commit()


def test_a_commit_does_not_wait_for_who_reads_and_what_was_read_meanwhile_is_read_again(
    file: Path, opened: Unlocked
) -> None:
    with closing(sqlite3.connect(file, timeout=0)) as writer:
        told: list[int] = []

        def read(database: sqlite3.Connection) -> set[tuple[int, int]]:
            rows = database.execute("select one, other from pairs")
            first = rows.fetchone()
            if not told:
                write(writer, 1)  # which would be refused while this reads with a lock
                told.append(1)
            return {first, *rows.fetchall()}

        assert opened.read(read) == {(1, 1)}
        with closing(sqlite3.connect(file)) as reader:
            rows = reader.execute("select one from pairs")
            rows.fetchone()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                write(writer, 2)


def test_a_file_is_opened_again_only_where_somebody_has_written(
    file: Path, opened: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, connections = sqlite3.connect, list[str]()

    def connect(file: str, **how: Any) -> sqlite3.Connection:
        connections.append(file)
        return opening(file, **how)

    with closing(sqlite3.connect(file)) as writer:
        monkeypatch.setattr(sqlite3, "connect", connect)
        for number, times in ((0, 1), (1, 2), (2, 3)):
            if number:
                write(writer, number)
            assert [opened.read(pairs) for _ in range(3)] == [{(number, number)}] * 3
            assert len(connections) == times


def test_nobody_sees_half_of_a_commit(file: Path, opened: Unlocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlocked, "PATIENCE_SECONDS", 600.0)
    end = threading.Event()

    def keep_writing() -> None:
        with closing(sqlite3.connect(file, timeout=0)) as database:
            number = 0
            while not end.is_set():
                number += 1
                write(database, number)  # refused at no time
                end.wait(0.01)

    writing = threading.Thread(target=keep_writing)
    writing.start()
    seen = [opened.read(pairs) for _ in range(20)]
    end.set()
    writing.join()
    assert all(len(found) == 1 and all(one == other for one, other in found) for found in seen)


def test_what_torn_pages_make_of_a_reading_is_no_error_and_what_a_file_at_rest_makes_of_it_is(
    file: Path, opened: Unlocked
) -> None:
    told: list[int] = []

    def read(database: sqlite3.Connection) -> int:
        if not told:
            with closing(sqlite3.connect(file)) as writer:
                write(writer, 1)
            told.append(1)
            raise KeyError("a run that nobody asked for")
        return len(pairs(database))

    assert opened.read(read) == 1
    with pytest.raises(ZeroDivisionError):
        opened.read(lambda _: 1 // 0)


def test_what_others_have_half_written_or_left_so_is_not_read(
    file: Path, opened: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlocked, "STILL_SECONDS", 0.1)
    before = opened.state()
    assert before is not None
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("update pairs set one = 7")
        assert opened.state() is None
        with pytest.raises(Busy):
            opened.read(pairs)
        writer.execute("rollback")
        assert opened.read(pairs) == {(0, 0)}
        write(writer, 3)
    assert opened.state() not in (None, before)


def test_a_file_at_rest_that_is_no_database_is_said_and_one_without_a_rollback_journal_is_not_read(
    tmp_path: Path, file: Path, opened: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlocked, "STILL_SECONDS", 0.1)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(file.read_bytes()[:4096] + b"\0" * 9000)
    with closing(Unlocked(damaged)) as broken, pytest.raises(sqlite3.Error):
        broken.read(pairs)
    with closing(sqlite3.connect(file)) as database:
        database.execute("pragma journal_mode = wal")
        with pytest.raises(Busy):
            opened.read(pairs)
