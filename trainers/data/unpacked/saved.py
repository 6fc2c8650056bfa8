"""What `datasets.save_to_disk` wrote is looked at before `datasets` reads it, which unpacks all of it at once."""

from __future__ import annotations

from pathlib import Path

from trainers.data.unpacked.bounds import check_rows

# Arrow's Message.fbs: the fields of a message and of a batch of records, by number; kinds of headers.
_KIND, _HEADER, _DATA, _LENGTH, _COMPRESSION = 1, 2, 1, 0, 3
_DICTIONARY, _RECORDS = 2, 3


def check_saved(folder: Path) -> None:
    """Raises ValueError for a saved dataset that unpacks to more than it is. `save_to_disk` packs nothing."""
    files = [file for file in sorted(folder.rglob("*.arrow")) if file.is_file()]
    rows = sum(_rows(file) for file in files)
    check_rows(rows, sum(file.stat().st_size for file in files))


def _rows(file: Path) -> int:
    import pyarrow

    rows = 0
    try:
        with pyarrow.memory_map(str(file)) as stream:
            for message in pyarrow.ipc.MessageReader.open_stream(stream):
                batch = _batch(memoryview(message.metadata))
                if batch is not None and batch.has(_COMPRESSION):
                    raise ValueError(
                        f"{file.name} is packed, which save_to_disk never does: write its rows as .jsonl or .parquet"
                    )
                rows += 0 if batch is None else batch.long(_LENGTH)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file.name} is no Arrow stream ({error})") from error
    return rows


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
