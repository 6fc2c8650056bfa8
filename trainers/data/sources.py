"""Reads preference rows from where they live and says what is wrong with them, place by place.

Knows no tokenizer, no model and no block. `data_files` reads local files, `datasets` saved folders and the Hub.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from studies.records import EMBEDDED_MODELS, DataConfig
from studies.schema.paths import existing
from studies.text.lines import first_line_of
from trainers.data import readers as data_files
from trainers.data.raw.columns import ALIASES, best_question
from trainers.data.raw.oddities import Oddities, Seen
from trainers.data.readers import CONVERT, ENDINGS, NOT_UTF8, Placed, numbered, read_file
from trainers.data.rows import (
    SIDES,
    Fault,
    Row,
    Text,
    as_row,
    counted,
    in_plain_text,
    is_conversational,
    length,
)
from trainers.data.split_files import is_saved, split_files, split_names
from trainers.data.unpacked.bounds import mib
from trainers.data.unpacked.saved import check_saved

__all__ = ["ENDINGS", "DataError", "Row", "Rows", "Text", "UnreadableData", "kind_of", "read_rows"]

Kind = Literal["embedded", "file", "folder", "hub", "missing"]

_MOST_NAMED: Final = 10
_MOST_NAMED_OF_A_KIND: Final = 3
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Faulty(NamedTuple):
    """Bad rows of one kind: where the first ones stand, and what is wrong with the first of them, with its remedy."""

    places: tuple[str, ...]
    text: str


class Rows(NamedTuple):
    """What a source holds; `evaluation` is None where it has no evaluation split of its own.

    `train_places`, `evaluation_places`: where each row stands, in words; `read`: rows read in all; `dropped`: how many
    of them were left out as bad, by kind; `notes`: what a reader should know of the others; `faults`: of each kind of
    bad rows, what is wrong with the first ones.
    """

    train: list[Row]
    evaluation: list[Row] | None
    train_places: list[str]
    evaluation_places: list[str]
    read: int
    dropped: Counter[str]
    notes: tuple[str, ...]
    faults: Mapping[str, Faulty] = {}


class DataError(Exception):
    """Data that cannot be used; `problems` holds every mistake found, each with its place and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnreadableData(DataError):
    """Data of which no row could be looked at: there is nothing, or it cannot be read as what it says it is."""


def kind_of(path: str) -> Kind:
    """What `data.path` names. What exists on disk is not a Hub id; what ends like a data file is never one."""
    place = existing(path)
    if path in EMBEDDED_MODELS:
        return "embedded"
    if place is not None:
        return "file" if place.is_file() else "folder" if place.is_dir() else "missing"  # a pipe or device is neither
    return "hub" if _HUB_ID.fullmatch(path) and not path.lower().endswith(ENDINGS) else "missing"


def read_rows(data: DataConfig) -> Rows:
    """All rows of a file, folder or Hub dataset, prompts made explicit. Raises DataError naming every bad row, or,
    where these are dropped, that none is left.
    """
    train = _checked(_read(data, data.path, data.split), f"data {data.path}", data)
    if data.eval_split is None:
        held_out = _Checked()
    else:
        in_file = kind_of(data.path) == "file"
        where = data.eval_split if in_file else f"{data.path}, split {data.eval_split}"
        raw = _read(data, data.eval_split if in_file else data.path, data.eval_split)
        held_out = _checked(raw, f"data {where}", data)
        both = bool(train.rows and held_out.rows)
        if both and is_conversational(train.rows[0]) != is_conversational(held_out.rows[0]):
            held_out.problems.append(
                f"data {where}: one split is plain text and the other messages; make them the same"
            )
    if train.problems or held_out.problems:
        raise DataError([*train.problems, *held_out.problems])
    return Rows(
        train=train.rows,
        evaluation=None if data.eval_split is None else held_out.rows,
        train_places=train.places,
        evaluation_places=held_out.places,
        read=train.read + held_out.read,
        dropped=train.bad + held_out.bad,
        notes=tuple(dict.fromkeys([*train.notes, *held_out.notes])),
        faults={**held_out.faults, **train.faults},
    )


# ---- reading ------------------------------------------------------------------------------------------------------


def _read(data: DataConfig, path: str, split: str) -> Iterator[Placed]:
    """The raw rows of a split, one after the other. Raises UnreadableData where nothing, or no more, can be read."""
    kind = kind_of(path)
    if kind == "missing":
        raise UnreadableData([f"data {path}: there is no such file or folder"])
    if kind == "file":
        yield from _read_files([Path(path).expanduser()], path)
        return
    folder = Path(path).expanduser()
    try:
        if kind == "folder" and not is_saved(folder):
            files = split_files(folder, split, data.name, ENDINGS)
        else:
            files = []
            if kind == "folder" and data.name is not None:
                raise ValueError(f"a saved dataset has no configurations, so data.name {data.name!r} does nothing")
            dataset = _saved_split(folder, split) if kind == "folder" else _hub_split(data, split)
    except (OSError, ValueError) as error:
        names = split_names(folder, ENDINGS) if kind == "folder" else ()
        remedy = f"; name one of them, such as --set data.split={names[0]}" if names and split not in names else ""
        raise UnreadableData([f"data {path}: cannot load split {split!r} ({first_line_of(error)}){remedy}"]) from error
    yield from _read_files(files, path, folder) if files else numbered(dataset)


def _read_files(files: Sequence[Path], path: str, folder: Path | None = None) -> Iterator[Placed]:
    """The raw rows of files, in their order; where they lie in a folder, their places name them."""
    _check_size(sum(file.stat().st_size for file in files), f"data {path}")
    for file in files:
        name = "" if folder is None else f"{file.relative_to(folder).as_posix()}, "
        ending = next((e for e in ENDINGS if file.name.lower().endswith(e)), None)
        if ending is None:
            known, write = ", ".join(ENDINGS), _REWRITE.get(file.suffix.lower(), "write its rows as .jsonl")
            raise UnreadableData([f"data {path}: ending {file.suffix or 'none'!r} is not one of {known}; {write}"])
        try:
            for placed in read_file(file, ending):
                yield placed._replace(place=name + placed.place) if name else placed
        except (OSError, ValueError, EOFError, zlib.error) as error:
            # Python's own unpackers, and pyarrow's, say what they met, and no system did.
            cut = "" if isinstance(error, ValueError) or getattr(error, "errno", None) else _CUT
            told = _why_unreadable(file) or f"{error}{cut}"
            raise UnreadableData([f"data {path}: {name}cannot be read as {ending} ({told})"]) from error


_CUT: Final = ": it is cut or damaged, so get it again"
_REWRITE: Final = {
    ".tsv": "name it .csv, where tabs are read too",
    ".ndjson": "name it .jsonl",
    ".jsonlines": "name it .jsonl",
    ".xlsx": "save its sheet as .csv",
    ".xls": "save its sheet as .csv",
    ".ods": "save its sheet as .csv",
}


def _why_unreadable(file: Path) -> str | None:
    """What a clone leaves in the place of a large file that it did not fetch."""
    with suppress(OSError), file.open("rb") as content:
        if content.read(40).startswith(b"version https://git-lfs.github.com/spec"):
            return "it is a pointer of Git LFS to the file; fetch that with `git lfs pull`"
    return None


def _check_size(size: int, where: str) -> None:
    """Raises UnreadableData where rows hold more than a study keeps in memory."""
    if size > data_files.MOST_BYTES:
        raise UnreadableData(
            [
                f"{where}: holds {mib(size)} or more, and a study, which draws its rows from all of them, keeps "
                f"{mib(data_files.MOST_BYTES)} in memory at most: write the rows that you want to a file of their own"
            ]
        )


def _saved_split(folder: Path, split: str) -> Any:
    """A folder written by `Dataset.save_to_disk` (one split) or `DatasetDict.save_to_disk` (several)."""
    import datasets

    check_saved(folder)
    saved = datasets.load_from_disk(str(folder))
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


# ---- checking -----------------------------------------------------------------------------------------------------


@dataclass
class _Checked:
    """The sound rows of a split and their places, how many were read, and what is wrong or odd with the others."""

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    read: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: dict[str, Faulty] = field(default_factory=dict)

    def bad_row(self, place: str, fault: Fault) -> None:
        """Count a row that is none, and name it where it is among the first of its kind."""
        self.bad[fault.kind] += 1
        places, text = self.faults.get(fault.kind, ((), fault.text))
        if len(places) < _MOST_NAMED_OF_A_KIND:
            self.faults[fault.kind] = Faulty((*places, place), text)


def _checked(raw: Iterable[Placed], where: str, data: DataConfig) -> _Checked:
    """The rows that are sound; of the others ten are named and the rest counted, or all are only counted where they
    are dropped.
    """
    found = _Checked()
    columns: dict[str, None] = {}
    faults: list[tuple[int, str, Fault]] = []  # and the place of the row: by number, and in words
    numbers: list[int] = []  # of the sound rows
    odd = Oddities()
    last: KeysView[str] = columns.keys()  # of the row before, mostly the same
    objects = size = 0
    for placed in raw:
        found.read += 1
        if isinstance(placed.value, dict):
            objects += 1
            if placed.value.keys() != last:
                columns |= dict.fromkeys(map(str, placed.value))
                last = placed.value.keys()
        row, seen = (placed.fault, Seen()) if placed.fault else as_row(placed.value, data.columns)
        odd.count(seen, sound=not isinstance(row, Fault))
        if isinstance(row, Fault):
            found.bad_row(placed.place, row)
            faults += [(found.read, placed.place, row)] if len(faults) < _MOST_NAMED else []
        elif row is not None:
            found.rows.append(row)
            found.places.append(placed.place)
            numbers.append(found.read)
            size += sum(length(text) for text in row.values())
            _check_size(size, where)
    faults = sorted([*faults, *_of_other_form(found, numbers)])[:_MOST_NAMED]
    if data.messages == "text":
        found.rows = [in_plain_text(row) for row in found.rows]
    if not found.read:
        found.problems = [f"{where}: there are no rows"]
    elif objects and (missing := _missing_columns(columns, data)):
        found.problems = [f"{where}: {missing}"]
    elif odd.lost and not odd.prompts and "prompt" not in data.columns:
        found.problems = [f"{where}: {_lost_prompt(odd.lost, objects)}"]
    elif faults and (data.bad_rows == "refuse" or not found.rows):
        found.problems = _bad_rows(found, faults, where)
    found.notes = list(odd.notes(where))
    return found


def _of_other_form(found: _Checked, numbers: Sequence[int]) -> list[tuple[int, str, Fault]]:
    """Take the rows out that are plain text among messages, or messages among plain text: the fewer ones."""
    forms = [is_conversational(row) for row in found.rows]
    few = 2 * sum(forms) <= len(forms)
    out = [i for i, form in enumerate(forms) if form == few]
    if not out or len(out) == len(forms):
        return []
    told = "plain text and messages are mixed in one split; write all rows in the same form"
    fault = Fault("mixed forms", told)
    faults = [(numbers[i], found.places[i], fault) for i in out]
    for _, place, _ in faults:
        found.bad_row(place, fault)
    kept = [i for i, form in enumerate(forms) if form != few]
    found.rows, found.places = [found.rows[i] for i in kept], [found.places[i] for i in kept]
    return faults


def _bad_rows(found: _Checked, faults: Sequence[tuple[int, str, Fault]], where: str) -> list[str]:
    """The rows that refuse a split, each with its place, and how to go on without them, where there are others."""
    bad = found.bad.total()
    if 1 < bad == found.bad[NOT_UTF8]:
        out = "; or leave these out with --set data.bad_rows=drop" if found.rows else ""
        return [
            f"{where}: {bad:,} of {found.read:,} lines are not UTF-8 text, the first is {faults[0][1]}: {CONVERT}{out}"
        ]
    alike: dict[str, list[str]] = {}
    for _, place, fault in faults:
        alike.setdefault(fault.text, []).append(place)
    named = [f"{where}, {', '.join(places)}: {text}" for text, places in alike.items()]
    if not found.rows:
        more = f"{where}: ... and {bad - len(faults)} more bad rows; none is sound ({counted(found.bad)})"
        return [*named, more] if bad > len(faults) else named
    if bad == 1:
        return [f"{named[0]}; or leave it out, 1 row of {found.read:,}: --set data.bad_rows=drop"]
    others = f"... and {bad - len(faults)} more bad rows; " if bad > len(faults) else ""
    return [
        *named,
        f"{where}: {others}{bad:,} of {found.read:,} rows are bad ({counted(found.bad)}); leave them out with "
        "--set data.bad_rows=drop",
    ]


def _missing_columns(columns: Iterable[str], data: DataConfig) -> str:
    """What is wrong with the names of columns, with the settings that mend it; empty where nothing is."""
    there = ", ".join(name for name in columns if name not in _INDEX)
    wrong = [f"data.columns.{text} is {name!r}" for text, name in data.columns.items() if name and name not in columns]
    if wrong:
        return f"{' and '.join(wrong)}, which no row has; the columns are {there}"
    missing = [side for side in SIDES if side not in data.columns and side not in columns]
    if not missing:
        return ""
    free = [name for name in columns if name not in (*SIDES, "prompt")]
    named = {text: _alias(text, free) for text in (*missing, *(["prompt"] if "prompt" not in columns else []))}
    if not all(named[text] for text in missing):  # one alone, such as 'winner', is the name of something else
        named |= dict.fromkeys(missing)
    remedy = " ".join(f"--set data.columns.{t}={name or 'COLUMN'}" for t, name in named.items() if name or t in missing)
    lacking = " and ".join(map(repr, missing))
    if not named[missing[0]]:
        header = data.path.lower().endswith(tuple(ending for ending in ENDINGS if ".csv" in ending))
        there += " (as the first line names them: write one above it where it is a row)" if header else ""
        return (
            f"no row has {lacking}; the columns are {there}: a row is a prompt, a better and a worse answer: write "
            f"these as 'chosen' and 'rejected', or, where columns hold just them, name those with {remedy}"
        )
    return f"no row has {lacking}; the columns are {there}: rename them, or name them with {remedy}"


_INDEX: Final = ("__index_level_0__", "Unnamed: 0")  # as pandas writes the numbers of rows


def _alias(text: str, columns: Iterable[str]) -> str | None:
    """The column that most likely holds a text which goes by another name."""
    by_name = {name.lower(): name for name in columns}
    return next((by_name[name] for name in (text, *ALIASES[text]) if name in by_name), None)


def _lost_prompt(lost: Counter[str], rows: int) -> str:
    """That there is no prompt while other columns hold what belongs to it."""
    question = best_question(lost)
    names = " and ".join(map(repr, lost))
    take = f"take it with --set data.columns.prompt={question}, " if question else "write it into a column 'prompt', "
    others = [name for name in lost if name != question]
    beside = f" (and write {' and '.join(map(repr, others))} into it)" if question and others else ""
    return (
        f"there is no 'prompt', and {names} of {max(lost.values()):,} of {rows:,} rows hold text that would not be "
        f"trained on, since the prompt would be what both answers begin with: {take.rstrip(', ')}{beside}, or say that "
        "this is meant with --set data.columns.prompt=null"
    )
