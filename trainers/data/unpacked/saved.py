"""What `datasets.save_to_disk` wrote is looked at before `datasets` reads it, which unpacks all of it at once."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from studies.text.files import read_json
from trainers.data.unpacked.bounds import check_parts, check_rows

# Arrow's Message.fbs: the fields of a message and of a batch of records, by number; kinds of headers.
_KIND, _HEADER, _DATA, _LENGTH, _NODES, _COMPRESSION = 1, 2, 1, 0, 1, 3
_DICTIONARY, _RECORDS = 2, 3
_NODE_BYTES: Final = 16  # a FieldNode: how many values a column or a part of one has, and how many of them are null

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


class _Counts(NamedTuple):
    """The rows of a file, and all values in its columns and in the lists and objects in these."""

    rows: int
    parts: int


def check_saved(folder: Path) -> None:
    """Raises ValueError for a saved dataset that unpacks to more than it is, or names files elsewhere. `save_to_disk`
    packs nothing.
    """
    files = list(_files(folder))
    counts = [_counts(file) for file in files]
    packed = sum(file.stat().st_size for file in set(files))  # one may be named many times
    check_rows(sum(one.rows for one in counts), packed)
    check_parts(sum(one.parts for one in counts), packed)


def _files(folder: Path) -> Iterator[Path]:
    """The files that `datasets` reads, of all splits."""
    if all((folder / name).is_file() for name in (_STATE, _INFO)):
        yield from _files_of_split(folder)
        return
    for name in _listed(folder / _SPLITS, "splits"):
        split = _inside(folder, name, _SPLITS)
        if not stat.S_ISDIR(split.lstat().st_mode):
            raise ValueError(f"{_SPLITS} names {name!r}, which is no real folder{_ANEW}")
        yield from _files_of_split(split)


def _files_of_split(folder: Path) -> Iterator[Path]:
    for entry in _listed(folder / _STATE, "_data_files"):
        name = entry.get("filename") if isinstance(entry, dict) else None
        file = _inside(folder, name, _STATE)
        if file.suffix != ".arrow":
            raise ValueError(f"{_STATE} names {name!r}, which does not end in .arrow{_ANEW}")
        if not stat.S_ISREG(file.lstat().st_mode):
            raise ValueError(f"{_STATE} names {name!r}, which is a link or no regular file{_ANEW}")
        yield file


_ANEW: Final = ": save_to_disk writes no such name, so save it again, or write its rows as .jsonl or .parquet"


def _listed(file: Path, name: str) -> list[Any]:
    content = read_json(file)
    listed = content.get(name) if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{file.name} has no list {name!r}: it is cut or damaged, so get it again")
    return listed


def _inside(folder: Path, name: Any, named_in: str) -> Path:
    """What lies in a folder itself under a name that a file in it gives."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
        raise ValueError(f"{named_in} names {name!r}, which is not the name of something beside it{_ANEW}")
    return folder / name


def _counts(file: Path) -> _Counts:
    import pyarrow

    rows = parts = 0
    try:
        with pyarrow.memory_map(str(file)) as stream:
            for message in pyarrow.ipc.MessageReader.open_stream(stream):
                batch = _batch(memoryview(message.metadata))
                if batch is None:
                    continue
                if batch.has(_COMPRESSION):
                    raise ValueError(
                        f"{file.name} is packed, which save_to_disk never does: write its rows as .jsonl or .parquet"
                    )
                lengths = [batch.long(_LENGTH), *batch.first_of_pairs(_NODES)]
                if min(lengths) < 0:
                    raise ValueError(f"{file.name} has columns of fewer than no values: it is damaged, so get it again")
                rows += lengths[0]
                parts += sum(lengths[1:])
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file.name} is no Arrow stream ({error})") from error
    return _Counts(rows, parts)


class _Table:
    """A table of a flatbuffer: where its fields lie is said by another table before it."""

    def __init__(self, content: memoryview, at: int) -> None:
        self._content, self._at = content, at
        self._fields = at - self._number(at, 4)

    def has(self, field: int) -> bool:
        return self._place(field) != 0

    def table(self, field: int) -> _Table:
        place = self._place(field)
        return _Table(self._content, place + self._number(place, 4))

    def byte(self, field: int) -> int:
        return self._number(self._place(field), 1) if self.has(field) else 0

    def long(self, field: int) -> int:
        return self._number(self._place(field), 8) if self.has(field) else 0

    def first_of_pairs(self, field: int) -> list[int]:
        """The first number of each pair in a list of pairs of 8 bytes each."""
        if not self.has(field):
            return []
        place = self._place(field)
        begin = place + self._number(place, 4)
        count = self._number(begin, 4)
        if not 0 <= count <= len(self._content) // _NODE_BYTES:
            raise ValueError("it says that it has more columns than fit into it: it is damaged, so get it again")
        return [self._number(begin + 4 + _NODE_BYTES * i, 8) for i in range(count)]

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        if entry >= self._number(self._fields, 2):
            return 0
        offset = self._number(self._fields + entry, 2)
        return self._at + offset if offset else 0

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._content[at : at + size], "little", signed=size > 2)


def _batch(content: memoryview) -> _Table | None:
    """The batch of records in a message, None where it holds another thing."""
    message = _Table(content, int.from_bytes(content[:4], "little"))
    kind = message.byte(_KIND)
    if kind == _RECORDS:
        return message.table(_HEADER)
    return message.table(_HEADER).table(_DATA) if kind == _DICTIONARY else None
