"""Facts about `sweeper check-data`: what it finds in rows, at which place, with which remedy, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sweeper.conftest import Sweeper


@pytest.fixture
def rows() -> list[Any]:
    return [{"prompt": f"Q{i}", "chosen": f" yes {i} indeed", "rejected": f" no {i}"} for i in range(40)]


def write(file: Path, rows: list[Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_wrong_is_told_by_kind_and_place(
    sweeper: Sweeper, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows[3], rows[5] = {**rows[3], "chosen": ""}, {**rows[5], "rejected": " yes 5 indeed"}
    rows[7] = rows[6]
    rows[9] = {"prompt": "Q8", "chosen": " no 8", "rejected": " yes 8 indeed"}
    rows[11] = {**rows[11], "rejected": " Yes 11, indeed"}
    write(tmp_path / "p.jsonl", rows)
    found = sweeper(tmp_path, "check-data", "p.jsonl")
    assert found.returncode == 0, found.stderr
    assert max(map(len, found.stdout.splitlines())) <= 80
    told = " ".join(found.stdout.split())
    for said in (
        "p.jsonl: 38 rows of plain text",
        "Bad rows: 2 of 40.",
        "1 empty (line 4): 'chosen' is empty; fill it in or remove the row.",
        "1 equal answers (line 6):",
        "Repeated: 1 row is",
        "Contradictions: 1 row prefers",
        "Nearly tied: in 1 row the",
        "Lengths in tokens, guessed as characters / 4, of 38 rows:",
        "always picking the longer answer is right in",
        "38 rows are few",
        "sweeper init mine.yaml --data p.jsonl",
        "sweeper tune --model MODEL --data p.jsonl --hours 8",
    ):
        assert said in told, said
    assert [place.name for place in tmp_path.iterdir()] == ["p.jsonl"]


def test_rows_of_one_split_in_another_are_told(sweeper: Sweeper, rows: list[Any], tmp_path: Path) -> None:
    write(tmp_path / "d" / "train.jsonl", rows[:30])
    write(tmp_path / "d" / "test.jsonl", [*rows[28:], {**rows[0], "chosen": " other"}])
    told = " ".join(sweeper(tmp_path, "check-data", "d").stdout.split())
    assert "Of the 13 rows of test, 2 are in train too, and 3 have a prompt of it." in told
    assert "test: take what is in train too out of one of them." in told


def test_data_that_no_run_could_use_end_with_1(sweeper: Sweeper, rows: list[Any], tmp_path: Path) -> None:
    write(tmp_path / "named.jsonl", [{"prompt": "Q", "good": "a", "bad": "b"}])
    write(tmp_path / "empty.jsonl", [{**row, "chosen": ""} for row in rows])
    write(tmp_path / "one.jsonl", [{**row, "prompt": "Q"} for row in rows])
    for file, why in (
        ("named", "name them with --set data.columns.chosen=good"),
        ("empty", "none is sound"),
        ("one", "all rows have one prompt"),
    ):
        found = sweeper(tmp_path, "check-data", f"{file}.jsonl")
        assert found.returncode == 1, (file, found.stdout, found.stderr)
        assert why in " ".join(found.stdout.split())
        assert "A study of it" not in found.stdout


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("no.jsonl", "there is no such file or folder"),
        ("notes.txt", "ending '.txt' is not one of"),
        ("folder", "neither a saved dataset nor files of rows"),
        ("embedded", "draws its own pairs"),
        ("a\nb", "write it on one line"),
    ],
)
def test_data_that_cannot_be_read_end_with_2(sweeper: Sweeper, tmp_path: Path, given: str, why: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    found = sweeper(tmp_path, "check-data", given)
    assert (found.returncode, found.stdout) == (2, "")
    assert why in found.stderr


def test_a_model_without_a_template_is_told_what_to_do_with_messages(sweeper: Sweeper, tmp_path: Path) -> None:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    chat = [
        {"prompt": said("user", f"Q{i}"), "chosen": said("assistant", "yes"), "rejected": said("assistant", "no")}
        for i in range(30)
    ]
    write(tmp_path / "p.jsonl", chat)
    found = sweeper(tmp_path, "check-data", "p.jsonl", "--model", "embedded")
    assert "data: {messages: text}" in " ".join(found.stdout.split())
