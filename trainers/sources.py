"""Reads preference rows from where they live and says what is wrong with them, place by place.

Knows no tokenizer, no model and no block. Local files are read with the standard library or pyarrow, so that places
are exact and neither torch nor datasets is loaded; `datasets` reads saved folders and the Hub.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypedDict

from studies.places import existing
from studies.records import DataConfig

Text = str | list[dict[str, Any]]
"""A prompt or an answer: plain text, or a list of messages with `role` and `content`."""

Kind = Literal["embedded", "file", "folder", "hub", "missing"]

_MOST_NAMED: Final = 10
_LONGEST_CELL: Final = 1 << 30  # the csv module's own limit is 128 KiB, and it has no other than a global one
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


def _read(data: DataConfig, path: str, split: str) -> list[_Placed]:
    """The raw rows of a split. Raises DataError where nothing can be read."""
    kind = kind_of(path)
    if kind == "file":
        file = Path(path).expanduser()
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            raise DataError([f"data {path}: ending {file.suffix or 'none'!r} is not one of {', '.join(_READERS)}"])
        try:
            return reader(file)
        except (OSError, ValueError) as error:
            raise DataError([f"data {path}: cannot be read as {file.suffix.lower()} ({error})"]) from error
    if kind == "missing":
        raise DataError([f"data {path}: there is no such file or folder"])
    try:
        dataset = _saved_split(path, split) if kind == "folder" else _hub_split(data, split)
    except (OSError, ValueError) as error:
        raise DataError([f"data {path}: cannot load split {split!r} ({_first_line(error)})"]) from error
    return [_Placed(f"row {i}", row) for i, row in enumerate(dataset, start=1)]


def _read_jsonl(file: Path) -> list[_Placed]:
    """One JSON value a line; blank lines are passed over."""
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return [_json_line(i, line) for i, line in enumerate(lines, start=1) if line.strip()]


def _json_line(number: int, line: str) -> _Placed:
    """One line as JSON, or why it is none."""
    try:
        return _Placed(f"line {number}", _parsed(line))
    except ValueError as error:
        return _Placed(f"line {number}", None, f"not JSON ({error}); repair or remove the line")


def _read_json(file: Path) -> list[_Placed]:
    """A JSON list of objects, or JSON lines under this ending."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return _read_jsonl(file)
    return [_Placed(f"row {i}", value) for i, value in enumerate(_parsed(text), start=1)]


def _parsed(text: str) -> Any:
    """What JSON text says. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in one another") from error


def _read_csv(file: Path) -> list[_Placed]:
    """A header line and rows of plain text; a cell that is not there is None."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return [_Placed(f"row {i}", row) for i, row in enumerate(csv.DictReader(stream), start=1)]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(before)


def _read_parquet(file: Path) -> list[_Placed]:
    """A Parquet table."""
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(_first_line(error)) from error
    return [_Placed(f"row {i}", row) for i, row in enumerate(rows, start=1)]


_READERS: Final[Mapping[str, Callable[[Path], list[_Placed]]]] = {
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

    return datasets.load_dataset(data.path, data.name, revision=data.revision, split=split)


def _first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- checking -----------------------------------------------------------------------------------------------------


def _checked(raw: Sequence[_Placed], where: str) -> tuple[list[Row], list[str]]:
    """The rows that are sound, and what is wrong with the others (ten named, the rest counted)."""
    if not raw:
        return [], [f"{where}: there are no rows"]
    objects = [placed.value for placed in raw if isinstance(placed.value, dict)]
    columns = dict.fromkeys(key for value in objects for key in value)
    missing = [name for name in ("chosen", "rejected") if name not in columns]
    if objects and missing:
        lacking = " and ".join(map(repr, missing))
        return [], [f"{where}: no row has {lacking}; the columns are {', '.join(map(str, columns))}: rename them"]
    rows: list[Row] = []
    faults: list[str] = []
    for placed in raw:
        fault = placed.fault or _row_fault(placed.value)
        row = None if fault else _explicit(placed.value)
        fault = fault or _explicit_fault(row, rows[0] if rows else None)
        if fault:
            faults.append(f"{where}, {placed.place}: {fault}")
        elif row:
            rows.append(row)
    named, others = faults[:_MOST_NAMED], len(faults) - _MOST_NAMED
    return rows, [*named, f"{where}: ... and {others} more bad rows"] if others > 0 else named


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
