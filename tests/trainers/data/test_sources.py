"""Facts about reading preference rows and naming the bad ones."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from trl.data_utils import maybe_extract_prompt

from studies.records import DataConfig
from trainers.data.pairs import check_data
from trainers.data.sources import DataError, kind_of, read_rows

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"

GOOD = {"prompt": "The sky is", "chosen": " blue", "rejected": " green"}
USER = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}


def jsonl(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def write_json(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text(json.dumps(rows, indent=1))


def write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)


def write_saved(file: Path, rows: list[dict[str, str]]) -> None:
    Dataset.from_list(rows).save_to_disk(str(file))


@pytest.mark.parametrize(
    ("name", "write"),
    [("p.json", write_json), ("p.csv", write_csv), ("p.parquet", write_parquet), ("p", write_saved)],
)
def test_every_form_of_file_holds_the_same_rows(
    name: str, write: Callable[[Path, list[dict[str, str]]], None], tmp_path: Path
) -> None:
    rows = [{**GOOD, "prompt": f'The sky, "{i}",\nis'} for i in range(12)]
    write(tmp_path / name, rows)
    assert read_rows(DataConfig(path=str(tmp_path / name))).train == rows
    assert read_rows(DataConfig(path=jsonl(tmp_path / "same.jsonl", rows))).train == rows


def test_splits_of_a_saved_folder_are_found_by_name(tmp_path: Path) -> None:
    other = {**GOOD, "prompt": "The sea is"}
    splits = {"train": Dataset.from_list([GOOD]), "held": Dataset.from_list([other])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "d"))
    rows = read_rows(DataConfig(path=str(tmp_path / "d"), eval_split="held"))
    assert (rows.train, rows.evaluation) == ([GOOD], [other])
    [problem] = check_data(DataConfig(path=str(tmp_path / "d"), split="test"))
    assert "cannot load split 'test'" in problem
    assert "it has train, held" in problem


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"chosen": [USER, BLUE, USER, BLUE], "rejected": [USER, BLUE, USER, GREEN]},
        {"prompt": "What colour is the sky?", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": "The sky is blue", "rejected": "The sky is green"},
        {"chosen": "The sky is blue", "rejected": "The sky is black"},
        {"chosen": "The sky is blue and green", "rejected": "The sky is blue"},
        {"chosen": [USER, BLUE, USER, BLUE], "rejected": [USER, BLUE]},
        GOOD,
    ],
)
def test_a_prompt_is_taken_out_of_the_answers_as_trl_does(row: dict[str, Any], tmp_path: Path) -> None:
    rows = read_rows(DataConfig(path=jsonl(tmp_path / "p.jsonl", [row])))
    assert rows.train == [maybe_extract_prompt(dict(row))]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**GOOD, "chosen": None}, "'chosen' is null; fill it in"),
        ({**GOOD, "rejected": "  \n"}, "'rejected' is empty; fill it in or remove the row"),
        ({"prompt": "a", "chosen": " b"}, "'rejected' is missing"),
        ({**GOOD, "chosen": " green"}, "'chosen' and 'rejected' are equal, which teaches nothing; remove the row"),
        ({**GOOD, "chosen": 3}, "'chosen' is of type int, not text"),
        ({**GOOD, "prompt": ""}, "'prompt' is empty"),
        ({**GOOD, "prompt": None}, "'prompt' is null"),
        (["a", "b"], "a row must be an object with columns, this is of type list"),
        ({**GOOD, "chosen": [BLUE]}, "one answer is plain text and the other messages"),
        ({**GOOD, "prompt": [USER]}, "plain text and messages are mixed in one split"),
        ({"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}, "plain text and messages are mixed"),
        ({"prompt": [USER], "chosen": [{"role": "assistant"}], "rejected": [GREEN]}, "message 1 of 'chosen' lacks"),
        ({"prompt": [USER], "chosen": [], "rejected": [GREEN]}, "'chosen' is an empty list"),
        ({"prompt": [USER], "chosen": [{**BLUE, "content": " "}], "rejected": [GREEN]}, "ends with an empty message"),
        ({"chosen": "blue", "rejected": "green"}, "no common beginning to take it from; add a 'prompt'"),
        ({"prompt": "sky", "chosen": [USER], "rejected": [GREEN]}, "no common beginning"),
        (
            {"prompt": [{**USER, "content": [{"type": "image"}]}], "chosen": [BLUE], "rejected": [GREEN]},
            "message 1 of 'prompt' has its content in parts (image), and only text is trained on",
        ),
        ({**GOOD, "chosen": {"text": "blue"}}, "'chosen' is of type dict, not text"),
        ({**GOOD, "tools": [{"name": "f"}]}, "'tools' is not supported yet"),
        ({**GOOD, "chosen": " blue\ud83d"}, "'chosen' holds half of a character (a lone surrogate)"),
        (
            {"prompt": [USER], "chosen": [{**BLUE, "name": "\udc00"}], "rejected": [GREEN]},
            "message 1 of 'chosen' holds half of a character",
        ),
        ({"chosen": " blue", "rejected": " green"}, "no common beginning to take it from"),
    ],
)
def test_a_bad_row_is_named_by_its_line_with_a_remedy(row: Any, told: str, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", [GOOD, GOOD, row, GOOD])
    [problem] = check_data(DataConfig(path=file))
    assert problem.startswith(f"data {file}, line 3: ")
    assert told in problem


def test_all_faults_of_a_row_are_told(tmp_path: Path) -> None:
    [problem] = check_data(
        DataConfig(path=jsonl(tmp_path / "p.jsonl", [{"prompt": "", "chosen": None, "rejected": ""}]))
    )
    assert all(told in problem for told in ("'prompt' is empty", "'chosen' is null", "'rejected' is empty"))


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_lists_that_lie_too_deep_are_refused(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"p{ending}"
    file.write_text("[" * 200_000)
    [problem] = check_data(DataConfig(path=str(file)))
    assert "too deep" in problem


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    write_parquet(file, [GOOD] * 12)
    content = file.read_bytes()
    for end in (4, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:end])
        [problem] = check_data(DataConfig(path=str(file)))
        assert "cannot be read as .parquet" in problem


def test_a_message_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    write_parquet(file, [{"prompt": [USER], "chosen": [{**BLUE, "at": date(2020, 1, 1)}], "rejected": [GREEN]}])
    [problem] = check_data(DataConfig(path=str(file)))
    assert "row 1: message 1 of 'chosen' holds what JSON cannot" in problem


def test_a_line_that_is_not_json_is_named_and_blank_lines_are_not(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(GOOD) + "\n\n{'prompt': 1}\n" + json.dumps(GOOD))
    [problem] = check_data(DataConfig(path=str(file)))
    assert f"data {file}, line 3: not JSON" in problem


def test_ten_bad_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    problems = check_data(DataConfig(path=jsonl(tmp_path / "p.jsonl", [GOOD] + 25 * [{**GOOD, "chosen": ""}])))
    assert len(problems) == 2
    assert problems[0].split(": ")[0].endswith(", ".join(f"line {i}" for i in range(2, 12)))
    assert "... and 15 more bad rows; 25 of 26 rows are bad (25 empty)" in problems[1]


def test_bad_rows_of_both_splits_are_told_at_once(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [{**GOOD, "chosen": ""}])
    held = jsonl(tmp_path / "held.jsonl", [GOOD, {**GOOD, "rejected": ""}])
    problems = check_data(DataConfig(path=train, eval_split=held))
    assert [p.split(": ")[0] for p in problems] == [f"data {train}, line 1", f"data {held}, line 2"]


def test_other_column_names_are_told_once_and_not_for_each_row(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", 5 * [{"question": "a", "good": "b", "rejected": "c"}])
    assert check_data(DataConfig(path=file)) == [
        f"data {file}: no row has 'chosen'; the columns are question, good, rejected: rename them, or name them with "
        "--set data.columns.chosen=good --set data.columns.prompt=question"
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completion": "So.", "label": True},
        {"prompt": "Why?", "response_0": "So.", "response_1": "No.", "better_response_id": 1},
        {"instruction": "Why?", "input": "", "output": ["So.", "No."]},
    ],
)
def test_rows_that_are_no_pairs_are_told_what_a_pair_is(row: Any, tmp_path: Path) -> None:
    [problem] = check_data(DataConfig(path=jsonl(tmp_path / "p.jsonl", 5 * [row])))
    assert "a row is a prompt, a better and a worse answer: write these as 'chosen' and 'rejected'" in problem


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"path": "nowhere/pairs.jsonl"}, "there is no such file or folder"),
        ({"path": "a/b/c"}, "not the form of a Hub id"),
        ({"path": "embedded", "revision": "main"}, "data.revision is 'main', which does nothing for embedded"),
        ({"path": "embedded", "eval_split": "test"}, "data.eval_split is 'test', which does nothing"),
        (
            {"path": "trl-lib/ultrafeedback_binarized", "pairs_from": "better"},
            "data.pairs_from is 'better', which does",
        ),
        (
            {"path": "trl-lib/ultrafeedback_binarized", "rejected_from": "model"},
            "data.rejected_from is 'model', which samples the embedded model and cannot for",
        ),
        ({"label_flip": 1.5}, "data.label_flip is 1.5; it is a share"),
        ({"rows": 0}, "data.rows is 0; it must be 1 or more"),
        ({"max_length": -1}, "data.max_length is -1"),
        ({"pairs_from": "mine"}, "must be one of same, better, worse"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: dict[str, Any], told: str) -> None:
    [problem] = check_data(DataConfig(**options))
    assert told in problem


def test_a_file_must_have_rows_a_known_ending_and_be_readable(tmp_path: Path) -> None:
    assert "there are no rows" in check_data(DataConfig(path=jsonl(tmp_path / "p.jsonl", [])))[0]
    (tmp_path / "p.txt").write_text("x")
    assert "ending '.txt' is not one of .jsonl, .json" in check_data(DataConfig(path=str(tmp_path / "p.txt")))[0]
    (tmp_path / "p.parquet").write_text("x")
    assert "cannot be read as .parquet" in check_data(DataConfig(path=str(tmp_path / "p.parquet")))[0]
    (tmp_path / "p.json").write_bytes(b"[\xff]")
    assert "cannot be read as .json" in check_data(DataConfig(path=str(tmp_path / "p.json")))[0]
    (tmp_path / "folder").mkdir()
    assert "cannot load split 'train'" in check_data(DataConfig(path=str(tmp_path / "folder")))[0]


def test_what_exists_on_disk_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [kind_of(p) for p in ("org/pairs", "pairs", "p.jsonl", "../pairs")] == ["hub", "hub", "missing", "missing"]
    jsonl(tmp_path / "p.jsonl", [GOOD])
    (tmp_path / "pairs").mkdir()
    assert [kind_of(p) for p in ("pairs", "p.jsonl")] == ["folder", "file"]


def test_a_hub_dataset_that_cannot_be_reached_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"data no-such/pairs: cannot load split 'train' \("):
        read_rows(DataConfig(path="no-such/pairs"))


@pytest.mark.parametrize("name", ["json", "parquet", "text", "imagefolder"])
def test_a_format_is_no_dataset_and_reads_nothing_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    jsonl(tmp_path / "private.jsonl", [GOOD])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is a format and no dataset"):
        read_rows(DataConfig(path=name))


def test_checking_a_file_loads_neither_torch_nor_datasets(tmp_path: Path) -> None:
    code = (
        "import sys; from studies.records import DataConfig; from trainers.data.pairs import check_data\n"
        f"assert check_data(DataConfig(path={jsonl(tmp_path / 'p.jsonl', [GOOD])!r})) == []\n"
        "assert check_data(DataConfig()) == []\n"
        "print([m for m in ('torch', 'datasets', 'transformers', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_preference_files_have_no_bad_rows() -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared data beside the repository")
    found = {file.name: check_data(DataConfig(path=str(file))) for file in SHARED.glob("*.jsonl")}
    assert found == {name: [] for name in found}
