"""Facts about the layouts of published sets: which columns hold the texts, and what is told where none does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies.records import DataConfig
from trainers.data.pairs import DataError, check_data, read_local
from trainers.data.rows import Fault, Row, as_row
from trainers.data.sources import Rows

ASKED, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "Y"), ("assistant", "N"))
)


def write(folder: Path, *rows: Any) -> DataConfig:
    file = folder / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(file))


def read(data: DataConfig) -> Rows:
    rows = read_local(data)
    assert rows is not None
    return rows


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"winner": "model_a", "model_a": "x", "answer_a": "Y", "answer_b": "N"}, "COLUMN COLUMN"),
        ({"prompt": "Q", "better": 0, "response_0": "Y", "response_1": "N"}, "COLUMN COLUMN"),
        ({"question": "Q", "response_j": "Y", "response_k": "N"}, "response_j response_k"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "preferred_output non_preferred_output"),
    ],
)
def test_columns_are_named_as_the_answers_where_both_are_there(tmp_path: Path, row: Any, names: str) -> None:
    """One alone, such as `winner`, says which answer is the better one and is none."""
    (told,) = check_data(write(tmp_path, row))
    chosen, rejected = names.split()
    assert f"--set data.columns.chosen={chosen} --set data.columns.rejected={rejected}" in told


def test_messages_inside_an_object_are_read_and_said(tmp_path: Path) -> None:
    """As in files for preference tuning by an API."""
    row = {"input": {"messages": [ASKED], "tools": []}, "preferred_output": [YES], "non_preferred_output": [NO]}
    data = write(tmp_path, row).model_copy(
        update={"columns": {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"}}
    )
    rows = read(data)
    assert rows.train == [Row(prompt=[ASKED], chosen=[YES], rejected=[NO])]
    assert "1 rows hold messages inside an object; they are read as messages" in rows.notes[0]
    row["input"]["tools"] = [{"type": "function"}]
    with pytest.raises(DataError, match="'prompt' is of type dict"):
        read(write(tmp_path, row).model_copy(update={"columns": data.columns}))


def test_a_list_of_answers_is_told_as_what_it_is() -> None:
    row, _ = as_row({"prompt": "Q", "chosen": "Y", "rejected": ["N", "M"]}, {})
    assert isinstance(row, Fault)
    assert row.text == "'rejected' is a list of 2 texts, and a row has one; write a row for each pair of answers"


@pytest.mark.parametrize("names", ["score_chosen score_rejected", "chosen_rating rejected_rating"])
def test_scores_that_say_the_opposite_of_the_columns_are_told(tmp_path: Path, names: str) -> None:
    better, worse = names.split()
    rows = [{"prompt": f"Q{i}", "chosen": "Y", "rejected": "N", better: i, worse: 3} for i in range(9)]
    (note,) = read(write(tmp_path, *rows)).notes
    assert f"in 3 rows {better!r} is below {worse!r}, so that the answers may stand the wrong way round" in note
    assert read(write(tmp_path, *rows[3:])).notes == ()


@pytest.mark.parametrize("before", ["\n\nHuman: Where?\n\nAssistant:", "### Instruction: Where?\n\n### Response:"])
def test_answers_that_begin_alike_where_there_is_no_prompt_are_told(tmp_path: Path, before: str) -> None:
    """As in the first set of help and harm: both say `I am`, which is then taken for the prompt."""
    alike = [{"chosen": f"{before} I am {i} here", "rejected": f"{before} I am {i} there"} for i in range(9)]
    told = "what both answers begin with, which is taken for it, as by TRL, goes on into the answers in 9 rows"
    assert told in " ".join(read(write(tmp_path, *alike)).notes)
    within = [{"chosen": f"{before} Certain {i}", "rejected": f"{before} Certainly {i}"} for i in range(9)]
    assert "in 9 rows" in " ".join(read(write(tmp_path, *within)).notes)
    sound = [{"chosen": f"{before} Yes {i}", "rejected": f"{before} No {i}"} for i in range(9)]
    assert read(write(tmp_path, *sound)).notes == ()
