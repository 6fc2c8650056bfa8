"""Facts about the layouts of published sets: which columns hold the texts, and what is told where none does."""

from __future__ import annotations

import gzip
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


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (["N", "M"], "'rejected' is a list of 2 texts, and a row has one; write a row for each pair of answers"),
        ([5, 6, 7], "'rejected' is a list of 3 numbers, such as ids of tokens; write the text that they stand for"),
    ],
)
def test_a_list_that_is_none_of_messages_is_told_as_what_it_is(answer: Any, told: str) -> None:
    row, _ = as_row({"prompt": "Q", "chosen": "Y", "rejected": answer}, {})
    assert isinstance(row, Fault)
    assert row.text == told


@pytest.mark.parametrize("names", ["score_chosen score_rejected", "chosen_rating rejected_rating"])
def test_scores_that_say_the_opposite_of_the_columns_are_told(tmp_path: Path, names: str) -> None:
    better, worse = names.split()
    rows = [{"prompt": f"Q{i}", "chosen": "Y", "rejected": "N", better: i, worse: 3} for i in range(9)]
    (note,) = read(write(tmp_path, *rows)).notes
    assert f"in 3 rows {better!r} is below {worse!r}, so that the answers may stand the wrong way round" in note
    assert read(write(tmp_path, *rows[3:])).notes == ()


@pytest.mark.parametrize(
    "before",
    [
        "\n\nHuman: Where?\n\nAssistant:",
        "### Instruction: Where?\n\n### Response:",
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n",
        "<|user|>\nWhere?\n<|assistant|>\n",
        "[INST] Where? [/INST]",
    ],
)
def test_answers_that_begin_alike_where_there_is_no_prompt_are_told(tmp_path: Path, before: str) -> None:
    """As in the first set of help and harm: both say `I am`, which is then taken for the prompt."""
    alike = [{"chosen": f"{before} I am {i} here", "rejected": f"{before} I am {i} there"} for i in range(9)]
    told = "what both answers begin with, which is taken for it, as by TRL, goes on into the answers in 9 rows"
    assert told in " ".join(read(write(tmp_path, *alike)).notes)
    within = [{"chosen": f"{before} Certain {i}", "rejected": f"{before} Certainly {i}"} for i in range(9)]
    assert "in 9 rows" in " ".join(read(write(tmp_path, *within)).notes)
    questions = ("What is the answer: 3 or 4?", f"Give a short response: a word.{before}", "Be an assistant\nof mine.")
    for sound_before in (before, *questions):
        sound = [{"chosen": f"{sound_before} Yes {i}", "rejected": f"{sound_before} No {i}"} for i in range(9)]
        assert read(write(tmp_path, *sound)).notes == ()


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("p.tsv", b"prompt\tchosen\trejected\n", "is not one of .jsonl, "),
        ("p.tsv", b"prompt\tchosen\trejected\n", "; name it .csv, where tabs are read too"),
        ("p.xlsx", b"PK", "; save its sheet as .csv"),
        ("p.pkl", b"", "; write its rows as .jsonl"),
        ("p.jsonl.gz", b"no gzip", "it is cut or damaged, so get it again"),
        ("p.jsonl.gz", gzip.compress(b'{"chosen": "a"}' * 99)[:40], "it is cut or damaged, so get it again"),
        ("p.jsonl.zst", b"\x28\xb5\x2f\xfd\x04", "it is cut or damaged, so get it again"),
        ("p.parquet", b"PAR1" + bytes(99), "get it again, or write its rows anew"),
        ("p.csv", b"Where?,Here.,There.\nWho?,I.,You.\n", "as the first line names them: write one above it"),
        ("P.CSV", b"Where?,Here.,There.\nWho?,I.,You.\n", "as the first line names them: write one above it"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (told,) = check_data(DataConfig(path=str(tmp_path / name)))
    assert remedy in told


def test_a_first_line_of_names_is_asked_of_files_of_csv_alone(tmp_path: Path) -> None:
    (tmp_path / "my.csv-old").mkdir()
    (tmp_path / "my.csv-old" / "p.jsonl").write_text(json.dumps({"Where?": 1, "Here.": 2, "There.": 3}))
    (told,) = check_data(DataConfig(path=str(tmp_path / "my.csv-old" / "p.jsonl")))
    assert "the columns are Where?, Here., There.: a row is" in told
