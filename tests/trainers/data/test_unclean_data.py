"""Facts about data as people have it: bad rows among good ones, other names of columns, packed files and folders."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from studies.records import DataConfig, EvaluationConfig, RunConfig
from trainers.data import readers as data_files
from trainers.data.pairs import check_data
from trainers.data.readers import read_file
from trainers.data.sources import DataError, Row, read_rows
from trainers.data.unpacked import bounds

USER = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}


def good(number: int) -> Row:
    return {"prompt": f"The sky over {number} is", "chosen": " blue", "rejected": " green"}


def lines(file: Path, rows: list[Any]) -> str:
    file.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return str(file)


def of_six_kinds(file: Path) -> str:
    bad: list[Any] = [
        {**good(1), "chosen": ""},
        {**good(2), "chosen": " same", "rejected": " same"},
        {**good(3), "rejected": None},
        b'{"prompt": "half a line\n',
        b'{"prompt": "p", "chosen": " \xff", "rejected": " c"}\n',
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {**good(4), "chosen": "  "},
    ]
    rows: list[Any] = [good(i) for i in range(700)]
    for i, row in enumerate(bad):
        rows.insert(100 * i, row)  # the first row of the file is bad too
    return lines(file, rows)


def test_bad_rows_are_left_out_and_counted_by_kind(tmp_path: Path) -> None:
    rows = read_rows(DataConfig(path=of_six_kinds(tmp_path / "p.jsonl"), bad_rows="drop"))
    assert rows.train == [good(i) for i in range(700)]
    assert rows.train_places[:2] == ["line 2", "line 3"]
    assert rows.read == 707
    assert dict(rows.dropped) == {
        "empty": 2,
        "equal answers": 1,
        "null": 1,
        "not JSON": 1,
        "not UTF-8": 1,
        "mixed forms": 1,
    }


def test_a_refusal_counts_bad_rows_by_kind_and_says_how_to_leave_them_out(tmp_path: Path) -> None:
    problems = check_data(DataConfig(path=of_six_kinds(tmp_path / "p.jsonl")))
    assert [p.split(": ")[0].partition("p.jsonl, ")[2] for p in problems[:6]] == [
        *("line 1, line 601", "line 101", "line 201", "line 301", "line 401", "line 501")
    ]
    assert "7 of 707 rows are bad (2 empty, " in problems[6]
    assert problems[6].endswith("leave them out with --set data.bad_rows=drop")


def test_where_no_row_is_sound_there_is_nothing_to_leave_out(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [{**good(i), "chosen": ""} for i in range(30)])
    for bad_rows in ("refuse", "drop"):
        problems = check_data(DataConfig(path=file, bad_rows=bad_rows))
        assert problems[-1].endswith("none is sound (30 empty)")
        assert not any("bad_rows=drop" in problem for problem in problems)


def test_what_is_not_asked_of_data_makes_no_other_run() -> None:
    def key(data: DataConfig) -> str:
        own: dict[str, Any] = {"study": "s", "variant": "v", "scenario": "clean", "trial": 0, "block": 0, "seed": 0}
        return RunConfig(**own, settings={}, knobs={}, data=data, evaluation=EvaluationConfig()).key

    asked: list[dict[str, Any]] = [{}, {"columns": {}}, {"bad_rows": "drop"}, {"columns": {"prompt": "question"}}]
    keys = [key(DataConfig(path="p.jsonl", **changes)) for changes in asked]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# ---- names of columns ------------------------------------------------------------------------------------------------


def test_columns_of_other_names_are_read_as_they_are_mapped(tmp_path: Path) -> None:
    other = [{"question": r["prompt"], "yes": r["chosen"], "no": r["rejected"]} for r in map(good, range(9))]
    columns: Any = {"prompt": "question", "chosen": "yes", "rejected": "no"}
    rows = read_rows(DataConfig(path=lines(tmp_path / "p.jsonl", other), columns=columns))
    assert rows.train == [good(i) for i in range(9)]


def test_a_mapped_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [good(1)])
    [problem] = check_data(DataConfig(path=file, columns={"prompt": "qestion"}))
    assert problem.endswith(
        "data.columns.prompt is 'qestion', which no row has; the columns are prompt, chosen, rejected"
    )
    assert "only the prompt may be" in check_data(DataConfig(path=file, columns={"chosen": None}))[0]
    assert "does nothing for embedded" in check_data(DataConfig(columns={"prompt": "q"}))[0]


SURE = [
    {"system": "be good", "question": f"and {i}?", "chosen": f"Sure, a{i}", "rejected": f"Sure, b{i}"} for i in range(9)
]


def test_a_question_under_another_name_is_not_dropped_in_silence(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", SURE)
    [problem] = check_data(DataConfig(path=file))
    assert "'system' and 'question' of 9 of 9 rows hold text that would not be trained on" in problem
    assert "--set data.columns.prompt=question" in problem
    assert check_data(DataConfig(path=file, columns={"prompt": None})) == []
    rows = read_rows(DataConfig(path=file, columns={"prompt": "question"}))
    assert rows.train[1]["prompt"] == "and 1?"
    [note] = rows.notes
    assert "text in 'system' of 9 rows is not trained on" in note


@pytest.mark.parametrize("column", ["instruction", "input", "history", "Context"])
def test_columns_that_repeat_the_conversation_lose_nothing(tmp_path: Path, column: str) -> None:
    row = {column: USER["content"], "messages": [USER, BLUE], "chosen": [USER, BLUE], "rejected": [USER, GREEN]}
    assert check_data(DataConfig(path=lines(tmp_path / "p.jsonl", [row] * 3))) == []
    lost = {**row, column: [["something", "else"]]}
    assert repr(column) in check_data(DataConfig(path=lines(tmp_path / "p.jsonl", [lost] * 3)))[0]


# ---- messages as text ------------------------------------------------------------------------------------------------

CHAT = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}


def write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(file: Path, rows: list[dict[str, str]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.mark.parametrize("write", [lines, write_csv, write_parquet])
def test_messages_as_json_text_are_read_as_messages_and_said_so(tmp_path: Path, write: Callable[..., Any]) -> None:
    file = tmp_path / {lines: "p.jsonl", write_csv: "p.csv", write_parquet: "p.parquet"}[write]
    write(file, [{name: json.dumps(text) for name, text in CHAT.items()}] * 3)
    rows = read_rows(DataConfig(path=str(file)))
    assert rows.train == [CHAT] * 3
    [note] = rows.notes
    assert "3 rows hold lists of messages as JSON text; they are read as messages" in note


HUMAN, GPT = ({"from": who, "value": text} for who, text in (("human", USER["content"]), ("gpt", BLUE["content"])))
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "look"}}]}


@pytest.mark.parametrize(
    ("row", "columns", "read", "told"),
    [
        (
            {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": GREEN["content"]}},
            {"prompt": "conversations"},
            CHAT,
            ["messages as 'from' and 'value' (human is read as user, gpt as assistant)", "one message in the place of"],
        ),
        (
            {n: [{**t[0], "content": [{"type": "text", "text": t[0]["content"]}]}] for n, t in CHAT.items()},
            {},
            CHAT,
            ["the text of messages in parts"],
        ),
        ({**CHAT, "chosen": BLUE["content"], "rejected": GREEN["content"]}, {}, CHAT, ["answers in plain text"]),
        ({**CHAT, "prompt": USER["content"]}, {}, CHAT, ["a plain prompt before messages"]),
        (
            {**CHAT, "chosen": [CALL]},
            {},
            {**CHAT, "chosen": [{**CALL, "content": ""}]},
            ["calls of tools without content"],
        ),
    ],
    ids=["ShareGPT", "parts", "plain answers", "a plain prompt", "a call of a tool"],
)
def test_messages_in_other_forms_are_read_as_messages_and_said_so(
    row: Any, columns: Any, read: Any, told: list[str], tmp_path: Path
) -> None:
    rows = read_rows(DataConfig(path=lines(tmp_path / "p.jsonl", [row] * 3), columns=columns))
    assert rows.train == [read] * 3
    assert all(any(f"3 rows hold {form}" in note or form in note for note in rows.notes) for form in told)
    assert len(rows.notes) == len(told)


def test_a_conversation_beside_the_answers_is_named_as_the_prompt(tmp_path: Path) -> None:
    row = {"conversations": [HUMAN], "chosen": [GPT], "rejected": [{**GPT, "value": "no"}]}
    [problem] = check_data(DataConfig(path=lines(tmp_path / "p.jsonl", [row] * 3)))
    assert "--set data.columns.prompt=conversations" in problem


def test_a_split_of_another_name_is_offered(tmp_path: Path) -> None:
    DatasetDict(train_prefs=Dataset.from_list([good(1), good(2)])).save_to_disk(str(tmp_path / "d"))
    [problem] = check_data(DataConfig(path=str(tmp_path / "d")))
    assert problem.endswith("(it has train_prefs); name one of them, such as --set data.split=train_prefs")


def test_messages_as_python_text_are_refused_by_row(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [CHAT, {name: str(text) for name, text in CHAT.items()}])
    [problem] = check_data(DataConfig(path=file))
    assert "line 2: 'prompt' is a list of messages written as text, and not as JSON" in problem
    assert "json.dumps" in problem


def test_text_that_merely_holds_json_stays_text(tmp_path: Path) -> None:
    row = {"prompt": "List the roles", "chosen": '[{"name": "a"}]', "rejected": "[1, 2]"}
    assert read_rows(DataConfig(path=lines(tmp_path / "p.jsonl", [row]))).train == [row]


def test_a_row_of_too_many_cells_is_none(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\na, b, c\na, b, with a comma, c\n")
    [problem] = check_data(DataConfig(path=str(tmp_path / "p.csv")))
    assert "row 2: it has more cells than the first line" in problem


@pytest.mark.parametrize("rejected", ["The sky of today is red", "red"])
def test_a_prompt_that_stands_again_in_an_answer_is_told(tmp_path: Path, rejected: str) -> None:
    row = {"prompt": "The sky of today is", "chosen": "The sky of today is blue", "rejected": rejected}
    [note] = read_rows(DataConfig(path=lines(tmp_path / "p.jsonl", [row] * 4))).notes
    assert "in 4 rows an answer begins with the prompt" in note


# ---- packed files ----------------------------------------------------------------------------------------------------


def pack(file: Path, content: bytes) -> str:
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(content))
    else:
        with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(content)
    return str(file)


def content_of(ending: str, rows: list[Row], folder: Path) -> bytes:
    if ending == ".json":
        return json.dumps(rows).encode()
    if ending == ".csv":
        write_csv(folder / "p.csv", [dict(row) for row in rows])
        return (folder / "p.csv").read_bytes()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_packed_files_hold_the_same_rows(tmp_path: Path, ending: str, packed: str) -> None:
    rows = [good(i) for i in range(12)]
    file = pack(tmp_path / f"pairs{ending}{packed}", content_of(ending, rows, tmp_path))
    assert read_rows(DataConfig(path=file, eval_split=file)).train == rows


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_damaged_packed_file_is_refused(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"pairs.jsonl{packed}"
    pack(file, content_of(".jsonl", [good(i) for i in range(99)], tmp_path))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:60] + b"\0" * 20 + whole[80:], b"nothing of the kind"):
        file.write_bytes(content)
        [problem] = check_data(DataConfig(path=str(file)))
        assert f"cannot be read as .jsonl{packed} (" in problem


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_small_packed_file_that_unpacks_to_much_more_is_refused(
    tmp_path: Path, ending: str, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 1 << 20)
    file = pack(tmp_path / f"pairs{ending}{packed}", b" " * (64 << 20))
    [problem] = check_data(DataConfig(path=file))
    assert "it unpacks to" in problem
    assert "get the file again" in problem


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".json.gz", b"[" + b"{}," * 3_000_000 + b"{}]"),
        (".json.gz", b'{"prompt": [' + b"[]," * 3_000_000 + b"[]]}"),
        (".csv.gz", b"prompt,chosen,rejected\n" + b"," * 3_000_000 + b"\n"),
        (".jsonl.zst", b'{"prompt": "a", "chosen": "b", "rejected": "c", "x": [' + b"[]," * 3_000_000 + b"[]]}"),
    ],
    ids=["rows", "a-row", "cells", "beside-texts"],
)
def test_a_small_packed_file_of_millions_of_nothings_is_refused_before_it_is_parsed(
    tmp_path: Path, ending: str, content: bytes
) -> None:
    file = pack(tmp_path / f"pairs{ending}", content)
    [problem] = check_data(DataConfig(path=file))
    assert "lists, objects, items and cells unpack to more" in problem


def test_rows_of_a_json_list_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_bytes(b"[" + b"{}," * 20_000 + b"{}]")
    rows = read_file(tmp_path / "pairs.json", ".json")
    tracemalloc.start()
    try:
        assert sum(placed.value == {} for placed in rows) == 20_001
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # all at once take four
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["[", "[{}", "[{},", "[{},]", "[,]", "[{}]x", "[{} {}]", "[{}, nul]"])
def test_a_json_list_that_is_none_is_refused_as_python_refuses_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(ValueError, match=r".*") as told:
        list(read_file(tmp_path / "pairs.json", ".json"))
    with pytest.raises(ValueError, match=r".*") as expected:
        json.loads(text)
    assert str(told.value).partition(":")[0] in (str(expected.value).partition(":")[0], "Expecting value")


def test_a_packed_file_of_more_than_fits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 1 << 20)
    file = pack(tmp_path / "pairs.jsonl.gz", b" " * (2 << 20))
    [problem] = check_data(DataConfig(path=file))
    assert "it unpacks to over 1.0 MiB" in problem


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_cloned_repository_of_shards_is_read_by_its_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Pairs\n")
    (tmp_path / "train.jsonl").write_text("beside the shards, as our own export has it\n")
    for i in range(2):
        write_parquet(tmp_path / f"data/train-0000{i}-of-00002.parquet", [dict(good(i))])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [dict(good(7))])
    rows = read_rows(DataConfig(path=str(tmp_path), eval_split="test"))
    assert (rows.train, rows.evaluation) == ([good(0), good(1)], [good(7)])
    assert rows.train_places == ["data/train-00000-of-00002.parquet, row 1", "data/train-00001-of-00002.parquet, row 1"]
    [problem] = check_data(DataConfig(path=str(tmp_path), split="validation"))
    assert "cannot load split 'validation' (it has test, train)" in problem


@pytest.mark.parametrize("names", [("train.jsonl", "test.jsonl"), ("training/a.jsonl", "eval/a.jsonl")])
def test_files_and_folders_named_by_split_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines(tmp_path / name, [good(i)])
    rows = read_rows(DataConfig(path=str(tmp_path), eval_split="test"))
    assert (rows.train, rows.evaluation) == ([good(0)], [good(1)])


README = """---
configs:
- config_name: helpful
  default: true
  data_files:
  - split: train
    path: helpful/*.jsonl.gz
- config_name: harmless
  data_files: {train: harmless/one.jsonl}
- config_name: outside
  data_files: ../*.jsonl
---
"""


def test_a_readme_names_the_files_of_a_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    for i, name in enumerate(("helpful", "harmless")):
        (folder / name).mkdir(parents=True)
        lines(folder / name / "one.jsonl", [good(i + 5)])
    pack(folder / "helpful/two.jsonl.gz", content_of(".jsonl", [good(1)], tmp_path))
    lines(tmp_path / "secret.jsonl", [good(0)])
    (folder / "README.md").write_text(README)
    assert read_rows(DataConfig(path=str(folder))).train == [good(1)]
    assert read_rows(DataConfig(path=str(folder), name="harmless")).train == [good(6)]
    for name, told in (("outside", "names files outside of it"), ("no", "helpful, harmless, outside, not 'no'")):
        assert told in check_data(DataConfig(path=str(folder), name=name))[0]


def test_a_pipe_in_place_of_a_readme_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines(folder / "train.jsonl", [good(1)])
    os.mkfifo(folder / "README.md")
    assert read_rows(DataConfig(path=str(folder))).train == [good(1)]


def test_files_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    [problem] = check_data(DataConfig(path=str(tmp_path)))
    assert "train.parquet, cannot be read as .parquet (it is a pointer of Git LFS" in problem


def test_a_folder_without_configurations_has_no_name(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [good(1)])
    assert "names no configuration" in check_data(DataConfig(path=str(tmp_path), name="helpful"))[0]
    Dataset.from_list([dict(good(1))]).save_to_disk(str(tmp_path / "saved"))
    assert "has no configurations" in check_data(DataConfig(path=str(tmp_path / "saved"), name="helpful"))[0]


def test_a_split_in_two_formats_is_not_read_twice(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [good(1)])
    write_parquet(tmp_path / "train.parquet", [dict(good(1))])
    with pytest.raises(DataError, match=r"as \.jsonl and as \.parquet: name one of the files"):
        read_rows(DataConfig(path=str(tmp_path)))
