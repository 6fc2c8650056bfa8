"""Files that unpack to more than they are, or hold more than fits: refused with sizes and remedy, before it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from studies.records import DataConfig
from trainers.data import readers as data_files
from trainers.data.pairs import check_data
from trainers.data.sources import DataError, read_rows
from trainers.data.unpacked import bounds
from trainers.data.unpacked.parquet import parquet_rows

MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
PEAK = """
import re, sys
from studies.records import DataConfig
from trainers.data.pairs import check_data
print(*check_data(DataConfig(path=sys.argv[1], rows=8, eval_rows=8)))
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def same(text: str, rows: int) -> Any:
    """A column that says one text in every row, and takes a few bytes."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([text]))


def flat(file: Path) -> None:
    columns = {"prompt": same("p", 300_000), "chosen": same("c" * 2000, 300_000), "rejected": same("r" * 2000, 300_000)}
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")


def few_and_long(file: Path) -> None:
    columns = {"prompt": same("p", 2000), "chosen": same("c" * 10**6, 2000), "rejected": same("r" * 10**6, 2000)}
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")


def of_messages(file: Path) -> None:
    def message(text: str) -> Any:
        rows = pyarrow.array([{"role": "user", "content": text}] * 300, MESSAGES.value_type)
        return pyarrow.ListArray.from_arrays(pyarrow.array(range(301), pyarrow.int32()), rows)

    columns = {"prompt": message("p"), "chosen": message("c" * 10**6), "rejected": message("r" * 10**6)}
    table = pyarrow.table(columns, schema=pyarrow.schema(dict.fromkeys(columns, MESSAGES)))
    pyarrow.parquet.write_table(table, file, compression="zstd", dictionary_pagesize_limit=64 << 20)


def one_cell(file: Path) -> None:
    columns = {"prompt": ["p"], "chosen": ["c" * (300 << 20)], "rejected": ["r"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")


def in_a_column_of_its_own(file: Path) -> None:
    columns = {
        "prompt": ["p"] * 3000,
        "chosen": ["c"] * 3000,
        "rejected": ["r"] * 3000,
        "more": same("x" * 10**6, 3000),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")


@pytest.mark.parametrize(
    "write",
    [
        flat,
        few_and_long,
        pytest.param(of_messages, marks=pytest.mark.slow),
        pytest.param(one_cell, marks=pytest.mark.slow),
        in_a_column_of_its_own,
    ],
)
def test_a_small_parquet_file_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(file := tmp_path / "bomb.parquet")
    command = [sys.executable, "-P", "-c", PEAK, str(file)]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "unpack to" in said
    assert "MiB" in said
    assert "write it as .jsonl" in said
    assert int(peak) < 400 << 10


@pytest.mark.parametrize("kind", [pyarrow.bool_(), pyarrow.null(), pyarrow.string()])
def test_a_list_of_a_million_values_that_are_not_there_is_counted_as_what_it_takes(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1_000_000  # and as many thousands of them take no more of the file
    none = pyarrow.ListArray.from_arrays(pyarrow.array([0, count], pyarrow.int32()), pyarrow.nulls(count, kind))
    table = pyarrow.table({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"], "more": none})
    pyarrow.parquet.write_table(table, file := tmp_path / "pairs.parquet", compression="zstd")
    assert len(read_rows(DataConfig(path=str(file))).train) == 1
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 4 << 20)
    monkeypatch.setattr("trainers.data.unpacked.parquet._unpacked", None)  # it is counted before
    (problem,) = check_data(DataConfig(path=str(file)))
    assert "its 1 rows unpack to 7.6 MiB or more" in problem


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_saved_dataset_that_is_packed_is_refused_before_it_is_unpacked(tmp_path: Path, compression: str) -> None:
    datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}).save_to_disk(tmp_path / "saved")
    assert check_data(DataConfig(path=str(tmp_path / "saved"), rows=1, eval_rows=0)) is not None
    (file,) = (tmp_path / "saved").glob("*.arrow")
    packed = pyarrow.table({name: ["a" * 10**6] * 9 for name in ("prompt", "chosen", "rejected")})
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_stream(str(file), packed.schema, options=options) as stream:
        stream.write_table(packed)
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert f"{file.name} is packed, which save_to_disk never does" in problem


def test_a_saved_dataset_of_rows_that_hold_nothing_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    nothing = pyarrow.table({"prompt": pyarrow.nulls(10**9)})
    with pyarrow.ipc.new_stream(str(file), nothing.schema) as stream:
        stream.write_table(nothing)
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert "1,000,000,000 rows unpack to more" in problem


def one_pair(folder: Path) -> Path:
    """A saved dataset, and the file that it consists of."""
    datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}).save_to_disk(folder)
    (file,) = folder.glob("*.arrow")
    return file


def write_stream(file: Path, table: Any) -> None:
    with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)


def nothings(count: int) -> Any:
    """A list of so many items that take no byte."""
    return pyarrow.ListArray.from_arrays(pyarrow.array([0, count], pyarrow.int32()), pyarrow.nulls(count))


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(nothings(20_000_000), id="list"),
        pytest.param(pyarrow.StructArray.from_arrays([nothings(20_000_000)], ["x"]), id="list in an object"),
    ],
)
def test_a_saved_dataset_of_one_row_of_millions_of_nothings_is_refused(tmp_path: Path, column: Any) -> None:
    file = one_pair(tmp_path / "saved")
    write_stream(file, pyarrow.table({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"], "more": column}))
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert "lists, objects, items and cells unpack to more" in problem


def test_a_saved_dataset_that_says_of_fewer_than_no_values_is_refused(tmp_path: Path) -> None:
    file = one_pair(tmp_path / "saved")
    write_stream(file, pyarrow.table({"more": pyarrow.nulls(0x123456)}))
    length = (0x123456).to_bytes(8, "little")
    content = file.read_bytes()
    assert content.count(length) >= 2  # of the batch, and of its column
    file.write_bytes(content.replace(length, (-1).to_bytes(8, "little", signed=True)))
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert f"{file.name} has columns of fewer than no values" in problem


def test_a_saved_dataset_that_names_one_file_many_times_is_counted_as_often(tmp_path: Path) -> None:
    file = one_pair(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": file.name}] * 250
    write_stream(file, pyarrow.table({"more": pyarrow.nulls(1000)}))
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert "250,000 rows unpack to more" in problem


def _rename(folder: Path, name: str) -> None:
    (file,) = folder.glob("*.arrow")
    (folder / name).parent.mkdir(exist_ok=True)
    file.rename(folder / name)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))


def _link(folder: Path) -> None:
    (file,) = folder.glob("*.arrow")
    file.rename(folder.parent / "elsewhere.arrow")
    file.symlink_to(folder.parent / "elsewhere.arrow")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: _rename(folder, "../elsewhere/data.arrow"), "not the name of something beside it"),
        (lambda folder: _rename(folder, "deep/data.arrow"), "not the name of something beside it"),
        (lambda folder: _rename(folder, "data.bin"), "does not end in .arrow"),
        (_link, "is a link or no regular file"),
        (lambda folder: (folder / "state.json").write_text("{}"), "has no list '_data_files'"),
    ],
    ids=["elsewhere", "deeper", "another ending", "link", "no list"],
)
@pytest.mark.parametrize("split", [None, "train"])
def test_a_saved_dataset_that_names_other_files_than_save_to_disk_writes_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], told: str, split: str | None
) -> None:
    saved: Any = datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]})
    (saved if split is None else datasets.DatasetDict({split: saved})).save_to_disk(tmp_path / "saved")
    spoil(tmp_path / "saved" / (split or ""))
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert told in problem


def test_a_saved_dataset_that_names_splits_elsewhere_is_refused(tmp_path: Path) -> None:
    pair = datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]})
    datasets.DatasetDict({"train": pair}).save_to_disk(tmp_path / "saved")
    pair.save_to_disk(tmp_path / "elsewhere")
    splits = tmp_path / "saved" / "dataset_dict.json"
    splits.write_text(json.dumps({"splits": ["train", "../elsewhere"]}))
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert "dataset_dict.json names '../elsewhere'" in problem
    splits.write_text(json.dumps({"splits": ["train", "link"]}))
    (tmp_path / "saved" / "link").symlink_to(tmp_path / "elsewhere")
    (problem,) = check_data(DataConfig(path=str(tmp_path / "saved")))
    assert "'link', which is no real folder" in problem


def test_a_text_of_many_rows_is_kept_once(tmp_path: Path) -> None:
    columns = {"prompt": same("p" * 99, 5000), "chosen": same("c" * 9999, 5000), "rejected": same("r" * 9999, 5000)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    rows = read_rows(DataConfig(path=str(tmp_path / "pairs.parquet"))).train
    assert len(rows) == 5000
    assert len({id(row["chosen"]) for row in rows}) < 10


@pytest.mark.parametrize(
    "how", [{}, {"use_dictionary": False}, {"row_group_size": 7}, {"store_schema": False}, {"compression": "zstd"}]
)
def test_a_parquet_file_gives_the_rows_that_pyarrow_gives(tmp_path: Path, how: dict[str, Any]) -> None:
    count = 3000
    messages = [
        [{"role": "user", "content": f"é{i % 7}"}, {"role": None, "content": "b" * (i % 9)}] for i in range(count)
    ]
    table = pyarrow.table(
        {
            "prompt": [None if i % 11 == 0 else f"p{i % 13}" for i in range(count)],
            "large": pyarrow.array([f"p{i}" for i in range(count)], pyarrow.large_string()),
            "bytes": [b"\xff%d" % i for i in range(count)],
            "chosen": pyarrow.array([None if i % 4 == 0 else m for i, m in enumerate(messages)], MESSAGES),
            "dictionary": pyarrow.array([f"d{i % 3}" for i in range(count)]).dictionary_encode(),
            "when": [datetime(2026, 1, 1)] * count,
            "nested": [[["a"], ["b", "c"]]] * count,
            "number": [1.5] * count,
        }
    )
    pyarrow.parquet.write_table(table, file := tmp_path / "rows.parquet", **how)
    expected = pyarrow.parquet.read_table(file).to_pylist()
    assert list(parquet_rows(file)) == expected


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_file_of_more_than_fits_is_refused_by_its_size(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"pairs.{ending}"
    with file.open("wb") as stream:
        stream.truncate(5 << 30)  # takes no room on disk
    (problem,) = check_data(DataConfig(path=str(file), rows=8))
    assert "5,120.0 MiB" in problem
    assert "4,096.0 MiB in memory at most" in problem


def test_rows_of_more_text_than_fits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"prompt": same("p", 999), "chosen": same("c" * 999, 999), "rejected": same("r" * 999, 999)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    monkeypatch.setattr(data_files, "MOST_BYTES", 1 << 20)
    with pytest.raises(DataError, match="write the rows that you want to a file of their own"):
        read_rows(DataConfig(path=str(tmp_path / "pairs.parquet")))
