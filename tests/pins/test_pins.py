"""What users' stores and scripts rest on stays: run keys, stored words, the command line, tables of old studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.tracking.journal import checked
from tests.pins.keys import EDITS
from tests.pins.record import FACTS
from tests.pins.snapshots import FOLDER, difference, file_of


@pytest.mark.parametrize("name", FACTS)
def test_a_pinned_fact_is_what_it_was(name: str, tmp_path: Path) -> None:
    changed = difference(name, FACTS[name](tmp_path))
    if changed:
        where = f"Stores and scripts of users rest on this. Where it is meant: python -m tests.pins.record {name}"
        pytest.fail(f"{changed}\n\n{where}", pytrace=False)


def test_an_edit_that_trains_something_else_has_a_key_of_its_own() -> None:
    """So that no pinned key is one by accident: what is asked otherwise and trained the same is named here."""
    keys = json.loads(file_of("keys").read_text(encoding="utf-8"))["edits"]
    same = {name for name in EDITS if name != "plain" and keys[name]["key"] == keys["plain"]["key"]}
    assert same == {"another study", "kl asked for"}


def test_a_journal_that_a_sweep_of_today_left_can_be_delivered() -> None:
    lines = [json.loads(line) for line in (FOLDER / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert json.loads(json.dumps([checked(line) for line in lines])) == lines
    assert {line["do"] for line in lines} == {
        *("start", "curve", "finish", "adopt", "supersede", "files", "adapter", "close")
    }
