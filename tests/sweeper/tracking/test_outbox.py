"""What waits for a store that is away: kept in order, delivered once it is back, never twice to any effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.connection import StoreAway, StoreError, StoreRefused
from sweeper.tracking import outbox
from sweeper.tracking.outbox import Entry, Outbox


class Store:
    """Takes entries while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.taken: list[tuple[Any, bool]] = []
        self.refuses: set[Any] = set()
        self.asked = 0

    def deliver(self, entry: Entry, again: bool) -> None:
        self.asked += 1
        if not self.up:
            raise StoreAway("MLflow is away.")
        if entry["n"] in self.refuses:
            raise StoreRefused("no such run")
        self.taken.append((entry["n"], again))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 0.0)
    return Store()


def opened(folder: Path, store: Store, told: list[str]) -> Outbox:
    return Outbox(folder / "study" / "journal.jsonl", store.deliver, told.append)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_while_the_store_answers_nothing_is_written_to_disk(store: Store, tmp_path: Path) -> None:
    told: list[str] = []
    box = opened(tmp_path, store, told)
    box.send({"n": 1})
    assert (store.taken, box.waiting, told, files(tmp_path)) == ([(1, False)], 0, [], [])


def test_what_is_missed_is_delivered_in_order_and_told_once_each_way(store: Store, tmp_path: Path) -> None:
    told: list[str] = []
    box = opened(tmp_path, store, told)
    store.up = False
    for n in range(5):
        box.send({"n": n})
    assert box.waiting == 5
    assert len(told) == 1
    assert "journal.jsonl" in told[0]
    store.up = True
    box.send({"n": 5})
    assert store.taken == [(n, True) for n in range(6)]
    assert (box.waiting, files(tmp_path)) == (0, [])
    assert len(told) == 2
    assert "back" in told[1]


def test_a_store_that_is_away_is_not_asked_at_every_record(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 1000.0)
    box = opened(tmp_path, store, [])
    store.up = False
    for n in range(50):
        box.send({"n": n})
    assert store.asked == 1
    assert not box.catch_up(now=True)
    assert store.asked == 2


def test_a_later_process_delivers_what_an_earlier_one_could_not(store: Store, tmp_path: Path) -> None:
    store.up = False
    box = opened(tmp_path, store, [])
    box.send({"n": 1})
    box.send({"n": 2})
    again = opened(tmp_path, store, [])
    assert again.waiting == 2
    assert not again.catch_up(now=True)
    store.up = True
    assert again.catch_up(now=True)
    assert store.taken == [(1, True), (2, True)]


def test_a_line_that_was_cut_short_by_a_crash_is_taken_off(store: Store, tmp_path: Path) -> None:
    store.up = False
    opened(tmp_path, store, []).send({"n": 1})
    journal = tmp_path / "study" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"n": 2, "par')
    box = opened(tmp_path, store, [])
    box.send({"n": 3})
    assert [json.loads(line)["n"] for line in journal.read_text().splitlines()] == [1, 3]
    assert box.waiting == 2


def test_what_will_never_be_taken_does_not_hold_up_the_rest(store: Store, tmp_path: Path) -> None:
    told: list[str] = []
    store.up = False
    box = opened(tmp_path, store, told)
    for n in range(3):
        box.send({"n": n})
    (tmp_path / "study" / "journal.jsonl").open("ab").write(b"\xff damaged\n")
    box = opened(tmp_path, store, told)
    store.up, store.refuses = True, {1}
    assert box.catch_up(now=True)
    assert [n for n, _ in store.taken] == [0, 2]
    aside = (tmp_path / "study" / "journal.refused.jsonl").read_bytes().splitlines()
    assert [json.loads(aside[0])["n"], aside[1]] == [1, b"\xff damaged"]
    assert "no such run" in told[-2]
    assert "damaged" in told[-1]


def test_a_journal_that_cannot_be_written_is_an_error_in_words(store: Store, tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file where a folder should be")
    store.up = False
    with pytest.raises(StoreError):
        opened(tmp_path, store, []).send({"n": 1})
