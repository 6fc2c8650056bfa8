"""Reads preference rows from where they live and says what is wrong with them, place by place.

Knows no tokenizer, no model and no block. Local files are read with the standard library or pyarrow, so that places
are exact and neither torch nor datasets is loaded; `datasets` reads saved folders and the Hub.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypedDict

from studies.places import existing
from studies.records import DataConfig

Text = str | list[dict[str, Any]]
"""A prompt or an answer: plain text, or a list of messages with `role` and `content`."""

Kind = Literal["embedded", "file", "folder", "hub", "missing"]

_MOST_NAMED: Final = 10
_LONGEST_CELL: Final = 1 << 30  # the csv module's own limit is 128 KiB, and it has no other than a global one
_MOST_BYTES: Final = 4 << 30
"""Of text in a split: as much stays in the memory of every worker."""
_ALWAYS_UNPACKED, _MOST_UNPACKED = 256 << 20, 100
"""A Parquet file may unpack to so many bytes, or to so many times its size (texts take 2 to 10)."""
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Row(TypedDict):
    """One preference pair in TRL's explicit-prompt form; all three are plain text or all three are messages."""

    prompt: Text
    chosen: Text
    rejected: Text


class Rows(NamedTuple):
    """What a source holds; `evaluation` is None where it has no evaluation split of its own."""

    train: list[Row]
    evaluation: list[Row] | None


class DataError(Exception):
    """Data that cannot be used; `problems` holds every mistake found, each with its place and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _Placed(NamedTuple):
    """A raw row, where it stands ('line 7', 'row 3'; counted from 1), and why it could not be read at all."""

    place: str
    value: Any
    fault: str | None = None


def kind_of(path: str) -> Kind:
    """What `data.path` names. What exists on disk is not a Hub id; what ends like a data file is never one."""
    place = existing(path)
    if path == "embedded":
        return "embedded"
    if place is not None:
        return "file" if place.is_file() else "folder" if place.is_dir() else "missing"  # a pipe or device is neither
    return "hub" if _HUB_ID.fullmatch(path) and Path(path).suffix.lower() not in _READERS else "missing"


def read_rows(data: DataConfig) -> Rows:
    """All rows of a file, folder or Hub dataset, prompts made explicit. Raises DataError naming every bad row."""
    train, problems = _checked(_read(data, data.path, data.split), f"data {data.path}")
    if data.eval_split is None:
        evaluation = None
    else:
        in_file = kind_of(data.path) == "file"
        where = data.eval_split if in_file else f"{data.path}, split {data.eval_split}"
        raw = _read(data, data.eval_split if in_file else data.path, data.eval_split)
        evaluation, more = _checked(raw, f"data {where}")
        problems += more
        if not problems and _is_conversational(train[0]) != _is_conversational(evaluation[0]):
            problems.append(f"data {where}: one split is plain text and the other messages; make them the same")
    if problems:
        raise DataError(problems)
    return Rows(train, evaluation)


# ---- reading ------------------------------------------------------------------------------------------------------


def _read(data: DataConfig, path: str, split: str) -> Iterator[_Placed]:
    """The raw rows of a split, one after the other. Raises DataError where nothing, or no more, can be read."""
    kind = kind_of(path)
    if kind == "file":
        file = Path(path).expanduser()
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            raise DataError([f"data {path}: ending {file.suffix or 'none'!r} is not one of {', '.join(_READERS)}"])
        try:
            _check_size(file.stat().st_size, f"data {path}")
            yield from reader(file)
        except (OSError, ValueError) as error:
            raise DataError([f"data {path}: cannot be read as {file.suffix.lower()} ({error})"]) from error
        return
    if kind == "missing":
        raise DataError([f"data {path}: there is no such file or folder"])
    try:
        dataset = _saved_split(path, split) if kind == "folder" else _hub_split(data, split)
    except (OSError, ValueError) as error:
        raise DataError([f"data {path}: cannot load split {split!r} ({_first_line(error)})"]) from error
    yield from _numbered(dataset)


def _numbered(rows: Iterable[Any]) -> Iterator[_Placed]:
    """Raw rows with their places."""
    for i, row in enumerate(rows, start=1):
        yield _Placed(f"row {i}", row)


def _read_jsonl(file: Path) -> Iterator[_Placed]:
    """One JSON value a line; blank lines are passed over."""
    with file.open(encoding="utf-8-sig") as lines:
        for i, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_line(i, line.removesuffix("\n"))


def _json_line(number: int, line: str) -> _Placed:
    """One line as JSON, or why it is none."""
    try:
        return _Placed(f"line {number}", _parsed(line))
    except ValueError as error:
        return _Placed(f"line {number}", None, f"not JSON ({error}); repair or remove the line")


def _read_json(file: Path) -> Iterator[_Placed]:
    """A JSON list of objects, or JSON lines under this ending."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return _read_jsonl(file)
    return _numbered(_parsed(text))


def _parsed(text: str) -> Any:
    """What JSON text says. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in one another") from error


def _read_csv(file: Path) -> Iterator[_Placed]:
    """A header line and rows of plain text; a cell that is not there is None."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from _numbered(csv.DictReader(stream))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(before)


def _read_parquet(file: Path) -> Iterator[_Placed]:
    """A Parquet table, a part at a time; a text that many rows share is there once. A file can say it a million times
    in a kilobyte, so what it unpacks to is counted before it is unpacked.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            metadata, columns = table.metadata, [table.schema.column(i) for i in range(len(table.schema))]
        groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
        size, packed = sum(group.total_byte_size for group in groups), file.stat().st_size
        _check_unpacked(size, packed, metadata.num_rows)
        texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in _TEXT_TYPES]
        flat = [path for path in texts if "." not in path]  # pyarrow cannot read the others as dictionaries
        at_once = 1024 if flat == texts else 16 if size < _MOST_UNPACKED // 4 * packed else 1
        with pyarrow.parquet.ParquetFile(file, read_dictionary=flat) as table:
            yield from _numbered(_unpacked(table, at_once, packed))
    except pyarrow.ArrowException as error:
        raise ValueError(_first_line(error)) from error


_TEXT_TYPES: Final = ("STRING", "NONE")


def _unpacked(table: Any, at_once: int, packed: int) -> Iterator[dict[str, Any]]:
    """The rows of an opened Parquet file of `packed` bytes, so many of them at once."""
    size = 0
    for batch in table.iter_batches(batch_size=at_once):
        size += sum(map(_bytes_in, batch.columns))
        _check_unpacked(size, packed, table.metadata.num_rows)
        columns = {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        for i in range(batch.num_rows):
            yield {name: values[i] for name, values in columns.items()}


def _bytes_in(column: Any) -> int:
    """What the values of an Arrow array take where each is written out."""
    import pyarrow
    import pyarrow.compute as compute

    if pyarrow.types.is_dictionary(column.type):
        lengths = compute.binary_length(column.dictionary)
        return int(compute.sum(compute.cast(lengths.take(column.indices), "int64")).as_py() or 0)
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        return _bytes_in(column.flatten())
    if pyarrow.types.is_struct(column.type):
        return sum(map(_bytes_in, column.flatten()))
    return int(column.nbytes)


def _values(column: Any) -> list[Any]:
    """The values of an Arrow array; equal ones of a dictionary are one object."""
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    used = column.indices.unique()
    texts = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
    return [texts[i] for i in column.indices.to_pylist()]


def _check_unpacked(size: int, packed: int, rows: int) -> None:
    """Raises ValueError where a file unpacks to so much more than it is that no texts of people can be in it."""
    if size > max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed):
        raise ValueError(
            f"its {rows} rows unpack to {_mib(size)} or more from a file of {_mib(packed)}, over {_MOST_UNPACKED} "
            "times as much: where that is meant, write it as .jsonl, else get the file again"
        )


def _check_size(size: int, where: str) -> None:
    """Raises DataError where rows hold more than a study keeps in memory."""
    if size > _MOST_BYTES:
        raise DataError(
            [
                f"{where}: holds {_mib(size)} or more, and a study, which draws its rows from all of them, keeps "
                f"{_mib(_MOST_BYTES)} in memory at most: write the rows that you want to a file of their own"
            ]
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


_READERS: Final[Mapping[str, Callable[[Path], Iterator[_Placed]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _saved_split(path: str, split: str) -> Any:
    """A folder written by `Dataset.save_to_disk` (one split) or `DatasetDict.save_to_disk` (several)."""
    import datasets

    saved = datasets.load_from_disk(str(Path(path).expanduser()))
    if not isinstance(saved, datasets.DatasetDict):
        if split != "train":
            raise ValueError(f"the folder holds one unnamed dataset, which is read as 'train'; remove {split!r}")
        return saved
    if split not in saved:
        raise ValueError(f"it has {', '.join(saved)}")
    return saved[split]


def _hub_split(data: DataConfig, split: str) -> Any:
    """A split of a Hub dataset at its revision, from the cache where it is there."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if data.path in _PACKAGED_DATASETS_MODULES:  # a way to read files, which would look for some in the working folder
        raise ValueError("this is a format and no dataset: name a file, a folder or ORG/NAME")
    return datasets.load_dataset(data.path, data.name, revision=data.revision, split=split)


def _first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- checking -----------------------------------------------------------------------------------------------------


def _checked(raw: Iterable[_Placed], where: str) -> tuple[list[Row], list[str]]:
    """The rows that are sound, and what is wrong with the others (ten named, the rest counted)."""
    columns: dict[str, None] = {}
    rows: list[Row] = []
    faults: list[str] = []
    read = objects = size = others = 0
    for placed in raw:
        read += 1
        if isinstance(placed.value, dict):
            objects += 1
            columns |= dict.fromkeys(placed.value)
        fault = placed.fault or _row_fault(placed.value)
        row = None if fault else _explicit(placed.value)
        fault = fault or _explicit_fault(row, rows[0] if rows else None)
        if fault and len(faults) < _MOST_NAMED:
            faults.append(f"{where}, {placed.place}: {fault}")
        elif fault:
            others += 1
        elif row:
            rows.append(row)
            size += sum(_length(text) for text in row.values())
            _check_size(size, where)
    if not read:
        return [], [f"{where}: there are no rows"]
    missing = [name for name in ("chosen", "rejected") if name not in columns]
    if objects and missing:
        lacking = " and ".join(map(repr, missing))
        return [], [f"{where}: no row has {lacking}; the columns are {', '.join(map(str, columns))}: rename them"]
    return rows, [*faults, f"{where}: ... and {others} more bad rows"] if others else faults


def _length(text: Any) -> int:
    """Characters of a prompt or an answer."""
    return len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text)


def _row_fault(value: Any) -> str | None:
    """What is wrong with a raw row, with its remedy; None for a sound one."""
    if not isinstance(value, dict):
        return f"a row must be an object with columns, this is of type {type(value).__name__}; remove it"
    faults = [
        _text_fault(side, value[side]) if side in value else f"{side!r} is missing; add it or remove the row"
        for side in ("chosen", "rejected")
    ]
    if "prompt" in value:
        faults.append(_text_fault("prompt", value["prompt"]))
    faults += [
        f"{column!r} is not supported yet; remove the column"
        for column in ("tools", "chat_template_kwargs", "images", "image")
        if value.get(column)
    ]
    found = [fault for fault in faults if fault]
    if found:
        return "; ".join(found)
    if isinstance(value["chosen"], list) != isinstance(value["rejected"], list):
        return "one answer is plain text and the other messages; write both in the same form"
    if isinstance(value.get("prompt"), list) and isinstance(value["chosen"], str):
        return "'prompt' is messages and the answers are plain text; write all three in the same form"
    if value["chosen"] == value["rejected"]:
        return "'chosen' and 'rejected' are equal, which teaches nothing; remove the row"
    return None


def _text_fault(name: str, value: Any) -> str | None:
    """What is wrong with a prompt or an answer; None for a sound one."""
    if value is None:
        return f"{name!r} is null; fill it in or remove the row"
    if isinstance(value, str) and not value.strip():
        return f"{name!r} is empty; fill it in or remove the row"
    if isinstance(value, str):
        return None if _is_whole(value) else f"{name!r} {_HALF}"
    if not isinstance(value, list):
        return f"{name!r} is of type {type(value).__name__}, not text or a list of messages; write it as text"
    if not value:
        return f"{name!r} is an empty list; fill it in or remove the row"
    for i, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            return f"message {i} of {name!r} lacks text in 'role' or 'content'; write it as role and content"
        try:
            whole = _is_whole(json.dumps(message, ensure_ascii=False))
        except TypeError as error:
            return f"message {i} of {name!r} holds what JSON cannot ({error}); write it as text"
        if not whole:
            return f"message {i} of {name!r} {_HALF}"
    if name != "prompt" and not value[-1]["content"].strip():
        return f"{name!r} ends with an empty message; fill it in or remove the row"
    return None


_HALF: Final = "holds half of a character (a lone surrogate), which no tokenizer reads; repair or remove the row"


def _is_whole(text: str) -> bool:
    """Whether text can be written down: what comes from JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explicit(value: Mapping[str, Any]) -> Row:
    """The row with its prompt taken out of the answers where they hold it, as TRL's `maybe_extract_prompt` does.

    That is where there is no prompt, or a prompt as plain text beside answers as messages. The prompt is then the
    longest common beginning: of messages, or of characters (which may end within a word: give a `prompt` to avoid it).
    """
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if prompt is not None and isinstance(prompt, list) == isinstance(chosen, list):
        return Row(prompt=prompt, chosen=chosen, rejected=rejected)
    shorter = min(len(chosen), len(rejected))
    end = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter - 1)
    if end and chosen[end] != rejected[end] and chosen[end - 1] == " ":
        end -= 1
    return Row(prompt=chosen[:end], chosen=chosen[end:], rejected=rejected[end:])


def _explicit_fault(row: Row | None, first: Row | None) -> str | None:
    """What is wrong with a row once its prompt is explicit, given the first sound row; None for a sound one."""
    if row is None:
        return None
    if not row["prompt"] or (isinstance(row["prompt"], str) and not row["prompt"].strip()):
        return "there is no 'prompt' and the answers have no common beginning to take it from; add a 'prompt'"
    if not row["chosen"] or not row["rejected"]:
        return "one answer is the beginning of the other, so nothing is left of it beside the prompt; add a 'prompt'"
    if first is not None and _is_conversational(row) != _is_conversational(first):
        return "plain text and messages are mixed in one split; write all rows in the same form"
    return None


def _is_conversational(row: Row) -> bool:
    """Whether the row is made of messages."""
    return isinstance(row["prompt"], list)
