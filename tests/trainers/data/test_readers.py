"""Facts about files of rows as other programs write them: read right where one meaning is possible, else refused once,
with a remedy.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from studies.records import DataConfig
from trainers.data.pairs import check_data
from trainers.data.sources import read_rows

ROWS = [{"prompt": f"Straße {i}?", "chosen": f" gut, é{i}; ja", "rejected": f" böse\t{i}"} for i in range(6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
LIST = json.dumps(ROWS, ensure_ascii=False)
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS)


def table(separator: str, before: str = "", end: str = "\n", index: bool = False) -> str:
    rows = [list(ROWS[0])] + [list(row.values()) for row in ROWS]
    rows = [[*(["" if i == 0 else str(i - 1)] if index else []), *row] for i, row in enumerate(rows)]
    quoted = [separator.join(f'"{cell}"' if i else cell for cell in row) for i, row in enumerate(rows)]
    return before + end.join(quoted) + end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.jsonl", LINES),
        ("lines.json", LINES),
        ("windows.jsonl", LINES.replace("\n", "\r\n")),
        ("old-mac.jsonl", LINES.replace("\n", "\r")),
        ("list.json", LIST),
        ("list.jsonl", LIST),
        ("list-of-lines.jsonl", "[\n" + LINES.strip().replace("\n", ",\n") + "\n]\n"),
        ("pretty-list.jsonl", json.dumps(ROWS, indent=1)),
        ("pretty.jsonl", PRETTY),
        ("pretty.json", PRETTY),
        ("blank-lines.jsonl", "\n\n" + LINES.replace("\n", "\n\n")),
        ("commas.csv", table(",")),
        ("semicolons.csv", table(";")),
        ("tabs.csv", table("\t")),
        ("bars.csv", table("|")),
        ("said.csv", table(";", before="sep=;\n")),
        ("windows.csv", table(";", end="\r\n")),
        ("index.csv", table(",", index=True)),
    ],
)
def test_what_has_one_meaning_is_read(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_rows(DataConfig(path=str(tmp_path / name))).train == ROWS


@pytest.mark.parametrize(
    ("name", "packed"), [("p.jsonl", True), ("p.csv", True), ("p.jsonl.gz", True), ("p.jsonl.gz", False)]
)
def test_what_is_packed_is_known_by_its_first_bytes(tmp_path: Path, name: str, packed: bool) -> None:
    text = (table(";") if ".csv" in name else LINES).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    assert read_rows(DataConfig(path=str(tmp_path / name))).train == ROWS


def test_an_index_column_is_no_text(tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "__index_level_0__": range(6)}), tmp_path / "p.parquet")
    assert read_rows(DataConfig(path=str(tmp_path / "p.parquet"))).train == ROWS
    del columns["chosen"]
    pyarrow.parquet.write_table(pyarrow.table({**columns, "__index_level_0__": range(6)}), tmp_path / "p.parquet")
    [problem] = check_data(DataConfig(path=str(tmp_path / "p.parquet")))
    assert "the columns are prompt, rejected:" in problem


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl", LINES.encode("latin-1"), "6 of 6 lines are not UTF-8 text, the first is line 1: convert the file"),
        ("p.json", LIST.encode("latin-1"), "it is not UTF-8 text (byte 0xdf, invalid continuation byte): convert the"),
        ("p.csv", table(",").encode("cp1252"), "it is not UTF-8 text (byte 0xdf, invalid continuation byte)"),
        ("p.json", json.dumps({"data": ROWS}).encode(), "it is one JSON object, with 'data', and no row: write its"),
        ("p.jsonl", json.dumps({k: [k] * 3 for k in ROWS[0]}, indent=1).encode(), "and no row: write its rows as"),
        ("p.json", json.dumps({k: {"0": k} for k in ROWS[0]}).encode(), "to_json(orient='records', lines=True)"),
        ("p.jsonl", b"prompt: p\nchosen: c\nrejected: r\n", "none of its 3 lines is JSON: write a JSON object a line"),
        ("p.jsonl", PRETTY.replace(",", "").encode(), "lines is JSON: write a JSON object a line"),
        ("p.csv", b"prompt,chosen,chosen\np,c,r\n", "two of its columns are called 'chosen': rename or remove one"),
        ("p.csv", b"PK\x03\x04" + b"\0" * 20, "it is a zip archive, as spreadsheets are: save its rows as .csv"),
        ("p.jsonl", b"PAR1" + b"\0" * 20, "it is a Parquet file: name it .parquet"),
        ("p.jsonl", b"", "there are no rows"),
        ("p.json", b" \n", "there are no rows"),
        ("p.json", b"[]", "there are no rows"),
        ("p.csv", b"", "there are no rows"),
        ("p.csv", b"prompt,chosen,rejected\n", "there are no rows"),
        ("p.jsonl.gz", gzip.compress(b""), "there are no rows"),
        ("p.jsonl.gz", b"", "there are no rows"),
        ("p.parquet", b"", "cannot be read as .parquet"),
    ],
)
def test_what_has_none_is_refused_in_one_message(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    [problem] = check_data(DataConfig(path=str(tmp_path / name)))
    assert told in problem


def test_a_few_lines_of_another_encoding_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    odd = [LINES.splitlines()[i].encode("latin-1") for i in (1, 2)]
    file.write_bytes(LINES.encode() + b"\n".join(odd) + b"\n")
    [problem] = check_data(DataConfig(path=str(file)))
    assert "2 of 8 lines are not UTF-8 text, the first is line 7" in problem
    assert problem.endswith("or leave these out with --set data.bad_rows=drop")
    assert read_rows(DataConfig(path=str(file), bad_rows="drop")).train == ROWS


def test_the_place_of_an_object_over_several_lines_is_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(PRETTY + '\n{\n "prompt": "p",\n "chosen": "c"\n}\n')
    [problem] = check_data(DataConfig(path=str(tmp_path / "p.jsonl")))
    assert ", line 31: 'rejected' is missing" in problem


def a_table_of_copies(file: Path) -> None:
    columns = {name: pyarrow.array([text]).take(pyarrow.array([0] * 3_000_000)) for name, text in ROWS[0].items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def lines_of_copies(file: Path) -> None:
    file.write_bytes(gzip.compress(LINES.encode() * 150_000, compresslevel=1))


@pytest.mark.parametrize(("name", "write"), [("p.parquet", a_table_of_copies), ("p.jsonl.gz", lines_of_copies)])
def test_a_small_file_of_many_copies_is_refused_before_they_are_read(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    before = time.process_time()
    [problem] = check_data(DataConfig(path=str(tmp_path / name)))
    assert "00,000 rows unpack to more than" in problem
    assert time.process_time() - before < 5.0
