"""Pairs as the tables that TRL trains on, in memory and on disk: what is text stays the text that it is.

Knows how `datasets` guesses types and files, and leaves it nothing to guess.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import datasets
import pyarrow

from trainers.data.pairs import Pairs
from trainers.data.sources import DataError, Row

_TEXT: Final = datasets.Value("string")
# `datasets` takes files of these names before all others in a folder, so the JSON lines beside them are for people and
# other programs. A README that names the files would do too, but `datasets` does not look at the age of files that a
# README names: after a second export into the same folder it would give the rows of the first from its cache.
_TABLES: Final = {"train": "data/train-00000-of-00001.parquet", "test": "data/test-00000-of-00001.parquet"}
_LINES: Final = {"train": "train.jsonl", "test": "eval.jsonl"}


def as_table(rows: Sequence[Row]) -> datasets.Dataset:
    """The rows as TRL's trainer takes them, every value as it is and every message with its own keys.

    (By itself a table gives all messages all keys, and chat templates see nulls in the place of what is not there.)
    """
    messages = [message for row in rows for text in row.values() if isinstance(text, list) for message in text]
    if not messages:
        return _typed(rows, _TEXT)
    if all(message.keys() == {"role", "content"} for message in messages):
        return _typed(rows, datasets.List({"role": _TEXT, "content": _TEXT}))
    if all(isinstance(value, str | int | float | None) for message in messages for value in message.values()):
        try:
            table = datasets.Dataset.from_list(list(rows))
        except (pyarrow.ArrowException, OverflowError):  # one key, values of several types
            table = None
        if table is not None and _first_other(rows, table) is None:
            return table
    return _typed([_as_json(row) for row in rows], datasets.List(datasets.Json()))


def write_pairs(pairs: Pairs, folder: Path) -> tuple[Path, Path]:
    """Write the training and evaluation rows of `pairs`, in their order, into `folder`, where none are yet.

    `datasets` reads it as splits `train` and `test`, so stock TRL trains on the same rows in the same order, flips and
    length limits included: `trl dpo --dataset_name FOLDER --dataset_test_split test`. `train.jsonl` and `eval.jsonl`
    hold the same rows as text; their paths are given back. Raises DataError where plain TRL would read anything else.
    """
    datasets.disable_progress_bars()
    (folder / "data").mkdir(parents=True)
    table = as_table((*pairs.train, *pairs.evaluation))  # `datasets` wants the same types in both splits
    train, test = table.select(range(len(pairs.train))), table.select(range(len(pairs.train), len(table)))
    splits = {"train": (pairs.train, train), "test": (pairs.evaluation, test)}
    for split, (rows, part) in splits.items():
        with (folder / _TABLES[split]).open("wb") as stream:
            part.to_parquet(stream)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / _LINES[split]).write_text(lines, encoding="utf-8")
    read = _read_back(folder)
    for split, (rows, _) in splits.items():
        place = _first_other(rows, read[split])
        if place is not None:
            raise DataError(
                [
                    f"plain TRL would read row {place + 1} of the {split} rows otherwise than the run did: write what "
                    "its messages hold beside role and content as text, or leave it out"
                ]
            )
    return folder / _LINES["train"], folder / _LINES["test"]


def _typed(rows: Sequence[Any], feature: Any) -> datasets.Dataset:
    features = datasets.Features(dict.fromkeys(("prompt", "chosen", "rejected"), feature))
    return datasets.Dataset.from_list(list(rows), features=features)


def _as_json(row: Row) -> dict[str, list[str]]:
    """The row with every message written out, which `datasets.Json` keeps as it is."""
    return {name: [json.dumps(message) for message in text] for name, text in row.items() if isinstance(text, list)}


def _first_other(rows: Sequence[Row], table: Any) -> int | None:
    """The place of the first row that the table does not hold just so, types of values included."""
    if len(rows) != len(table):
        return min(len(rows), len(table))
    written = (json.dumps(row, sort_keys=True) for row in rows)
    return next((i for i, (own, row) in enumerate(zip(written, table, strict=True)) if own != _written(row)), None)


def _written(row: Any) -> str:
    """A row as JSON; what has become of a text that JSON cannot hold, such as a date, is told by its type."""
    return json.dumps(row, sort_keys=True, default=repr)


def _read_back(folder: Path) -> Any:
    """The folder as plain TRL reads it, by an empty cache."""
    with TemporaryDirectory() as cache:
        try:
            return datasets.load_dataset(str(folder), cache_dir=cache, keep_in_memory=True)
        except (OSError, ValueError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                [
                    f"`datasets` cannot read {folder.name} where it would lie ({error}): it takes *, ?, [, ] and :: in "
                    "the path of a folder for patterns; export to another with --output"
                ]
            ) from error
