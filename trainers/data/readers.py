"""Reads rows out of data files, one after the other, with the place of each; says of a file why it is none.

By the standard library or pyarrow, so that places are exact and neither torch nor datasets is loaded. What is read
right whatever its writer did: byte order marks, UTF-16, separators of spreadsheets, packed files of a plain name, JSON
over several lines. What unpacks to much more than it is, is counted before it is parsed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from trainers.data.raw.columns import ALIASES
from trainers.data.rows import SIDES, Fault

MOST_BYTES: Final = 4 << 30
"""Of text in a split: as much stays in the memory of every worker."""
_LONGEST_CELL: Final = 1 << 30  # the csv module's own limit is 128 KiB, and it has no other than a global one
_ALWAYS_UNPACKED, _MOST_UNPACKED = 256 << 20, 100
"""A packed file may unpack to so many bytes, or to so many times its size (texts take 2 to 10)."""
_ALWAYS_ROWS: Final = 200_000
"""It may have so many rows, or one for each of its bytes: as many that differ do not fit into fewer."""


class Placed(NamedTuple):
    """A raw row, where it stands ('line 7', 'row 3'; counted from 1), and why it could not be read at all."""

    place: str
    value: Any
    fault: Fault | None = None


def _read_json(file: Path) -> Iterator[Placed]:
    """One JSON object a line, or over several lines, or a JSON list of them, whatever the file is called."""
    with _opened(file) as content:
        first = next((line for line in content if line.strip()), b"")
        more = next((line for line in content if line.strip()), b"") if _is_json(first) else b""
    if more:
        return _by_lines(file)
    return _whole(file)


def _whole(file: Path) -> Iterator[Placed]:
    """The rows of a list, or of objects one after the other; lines, where it is neither."""
    with _opened(file) as content:
        packed = content.read()
    if not packed.lstrip(_SPACE).startswith((b"{", b"[")):
        return _by_lines(file)
    if packed.lstrip(_SPACE).startswith(b"["):
        rows = list(numbered(_parsed(_utf8(packed))))
    else:
        try:
            rows = list(_one_after_the_other(_utf8(packed)))
        except ValueError:
            return _by_lines(file)
    if len(rows) == 1 and isinstance(rows[0].value, dict) and _is_table(rows[0].value):
        raise ValueError(
            f"it is one JSON object, with {', '.join(map(repr, rows[0].value))}, and no row: write its rows as objects "
            "of their own, one a line, as pandas does by to_json(orient='records', lines=True)"
        )
    return iter(rows)


def _one_after_the_other(text: str) -> Iterator[Placed]:
    """JSON values with white space between them, each at the line where it begins. Raises ValueError."""
    decoder, at, line, told = json.JSONDecoder(), 0, 1, 0
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text):
            return
        line, told = line + text.count("\n", told, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError as error:
            raise ValueError("lists or objects lie too deep in one another") from error
        yield Placed(f"line {line}", value)


_BLANK: Final = re.compile(r"\s*")


def _is_table(value: Mapping[str, Any]) -> bool:
    """Whether an object holds rows or columns in place of texts."""
    texts = [held for held in value.values() if isinstance(held, str) or _is_messages(held)]
    return len(texts) < len(SIDES) and any(isinstance(held, dict | list) for held in value.values())


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and "role" in one for one in value)


def _by_lines(file: Path) -> Iterator[Placed]:
    """One JSON value a line; blank lines are passed over. Raises ValueError where no line of several is JSON."""
    sound = wrong = 0
    with _opened(file) as lines:
        for i, line in enumerate(lines, start=1):
            if line.strip():
                placed = _json_line(i, line.rstrip(b"\r\n"))
                sound += placed.fault is None or placed.fault.kind == NOT_UTF8
                wrong += placed.fault is not None
                yield placed
    if wrong > 1 and not sound:
        raise ValueError(
            f"none of its {wrong} lines is JSON: write a JSON object a line, as `jq -c .` or json.dumps do"
        )


def _is_json(line: bytes) -> bool:
    """Whether a line is JSON by itself."""
    return bool(line.strip()) and _json_line(1, line.strip()).fault is None


def _json_line(number: int, line: bytes) -> Placed:
    """One line as JSON, or why it is none."""
    try:
        return Placed(f"line {number}", _parsed(line.decode("utf-8-sig" if number == 1 else "utf-8")))
    except UnicodeDecodeError as error:
        fault = Fault(NOT_UTF8, f"not UTF-8 text ({error.reason}); repair or remove the line")
    except ValueError as error:
        fault = Fault("not JSON", f"not JSON ({error}); repair or remove the line")
    return Placed(f"line {number}", None, fault)


NOT_UTF8: Final = "not UTF-8"
CONVERT: Final = "convert the file, such as by `iconv -f WINDOWS-1252 -t UTF-8`"
_SPACE: Final = b"\xef\xbb\xbf \t\r\n"


def _utf8(content: bytes) -> str:
    """Bytes as text. Raises ValueError with a remedy."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"it is not UTF-8 text (byte 0x{error.object[error.start]:02x}, {error.reason}): {CONVERT}"


def _parsed(text: str) -> Any:
    """What JSON text says. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in one another") from error


def _read_csv(file: Path) -> Iterator[Placed]:
    """A header line and rows of plain text; a cell that is not there is None."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with _opened(file) as content:
            yield from numbered(_table(io.TextIOWrapper(content, encoding="utf-8-sig", newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from error
    finally:
        csv.field_size_limit(before)


def _table(lines: Iterable[str]) -> Iterator[dict[str | Any, Any]]:
    """The rows of a table under the names of its first line, cut where that says; a spreadsheet may name that itself,
    as `sep=;`. A column without a name, as an index is written, is none.
    """
    lines = iter(lines)
    header = next((line for line in lines if line.strip()), "")
    named = header.strip().strip('"').removeprefix("sep=") if header.strip().strip('"').startswith("sep=") else ""
    if len(named) == 1:
        header = next((line for line in lines if line.strip()), "")
    rows = csv.reader(chain([header], lines), delimiter=named if len(named) == 1 else _separator(header))
    names = [name.strip() for name in next(rows, [])]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of its columns are called {twice!r}: rename or remove one")
    for cells in rows:
        if cells:
            row: dict[Any, Any] = {n: cells[i] if i < len(cells) else None for i, n in enumerate(names) if n}
            yield row | ({None: cells[len(names) :]} if len(cells) > len(names) else {})


def _separator(header: str) -> str:
    """What a first line is cut by: by which it names the most texts of pairs, or else the most columns."""
    known = {name for text, others in ALIASES.items() for name in (text, *others)}

    def names(separator: str) -> tuple[int, int]:
        cells = {cell.strip().lower() for cell in next(csv.reader([header], delimiter=separator), [])}
        return len(cells & known), len(cells)

    return max(_SEPARATORS, key=names)  # the first of equals


_SEPARATORS: Final = (",", ";", "\t", "|")


def _read_parquet(file: Path) -> Iterator[Placed]:
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
        _check_rows(metadata.num_rows, packed)
        texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in _TEXT_TYPES]
        flat = [path for path in texts if "." not in path]  # pyarrow cannot read the others as dictionaries
        at_once = 1024 if flat == texts else 16 if size < _MOST_UNPACKED // 4 * packed else 1
        with pyarrow.parquet.ParquetFile(file, read_dictionary=flat) as table:
            yield from numbered(_unpacked(table, at_once, packed))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{first_line(error).rstrip('.')}: get it again, or write its rows anew") from error


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


def _check_unpacked(size: int, packed: int, rows: int | None = None) -> None:
    """Raises ValueError where a file unpacks to so much more than it is that no texts of people can be in it."""
    if size > max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed):
        raise ValueError(
            f"{f'its {rows} rows unpack' if rows else 'it unpacks'} to {mib(size)} or more from a file of "
            f"{mib(packed)}, over {_MOST_UNPACKED} times as much: where that is meant, write it as .jsonl, else get "
            "the file again"
        )


def _check_rows(rows: int, packed: int) -> None:
    """Raises ValueError where rows are so many for the file that they must be copies of a few."""
    if rows > max(_ALWAYS_ROWS, packed):
        raise ValueError(
            f"its {rows:,} rows unpack to more than a file of {mib(packed)} can tell apart, so that they are copies "
            "of a few: where that is meant, write it as .jsonl, else get the file again"
        )


def mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file as UTF-8 has them, unpacked where it is packed, and no more of them than texts of people
    unpack to.
    """
    with _unpacking(file) as content:
        start = content.peek(4)[:4]
        encoding = json.detect_encoding(start) if len(start) > 1 else "utf-8"
        if encoding.startswith("utf-8"):
            yield content
        else:
            yield io.BytesIO(content.read().decode(encoding).encode())


@contextmanager
def _unpacking(file: Path) -> Iterator[io.BufferedReader]:
    with file.open("rb") as packed:
        kind = _packing(packed.peek(4)[:4], file)
        size = file.stat().st_size
        if kind is None:
            yield packed
        elif kind == ".gz":
            yield io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=packed), size))
        else:
            import pyarrow

            content = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed), "zstd")
            yield io.BufferedReader(_Bounded(content, size))


def _check_packed(file: Path) -> None:
    """Raises ValueError for a packed file that holds too much, before any of it is parsed."""
    with file.open("rb") as packed:
        kind = _packing(packed.peek(4)[:4], file)
    if kind is not None:
        with _unpacking(file) as content:
            lines = sum(part.count(b"\n") for part in iter(lambda: content.read(1 << 20), b""))
        _check_rows(lines, file.stat().st_size)


def _packing(start: bytes, file: Path) -> str | None:
    """How a file is packed, by its first bytes, or by its name where they tell nothing. Raises ValueError for what
    holds no text.
    """
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    for magic, told in _NO_TEXT.items():
        if start.startswith(magic):
            raise ValueError(told)
    ending = file.suffix.lower()
    return None if start[:1] in (b"{", b"[") or ending not in _PACKED else ending


_PACKED: Final = (".gz", ".zst")
_MAGIC: Final = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_NO_TEXT: Final = {
    b"PAR1": "it is a Parquet file: name it .parquet",
    b"PK\x03\x04": "it is a zip archive, as spreadsheets are: save its rows as .csv or .jsonl",
    b"BZh": "it is packed by bzip2: unpack it",
    b"\xfd7zX": "it is packed by xz: unpack it",
}


class _Bounded(io.RawIOBase):
    """The bytes that a stream unpacks to from `packed` ones; ValueError where they are too many."""

    def __init__(self, content: Any, packed: int) -> None:
        self._content, self._packed, self._size = content, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._content.read(len(buffer))
        self._size += len(found)
        _check_unpacked(self._size, self._packed)
        if self._size > MOST_BYTES:
            raise ValueError(f"it unpacks to over {mib(MOST_BYTES)}: write the rows that you want to another file")
        buffer[: len(found)] = found
        return len(found)


def read_file(file: Path, ending: str) -> Iterator[Placed]:
    """The raw rows of a file of one of the `ENDINGS`. Raises OSError, ValueError, EOFError and zlib.error."""
    kind = f".{ending.split('.')[1]}"
    if kind != ".parquet":
        _check_packed(file)
    yield from _READERS[kind](file)


def numbered(rows: Iterable[Any]) -> Iterator[Placed]:
    """Raw rows with their places."""
    for i, row in enumerate(rows, start=1):
        yield Placed(f"row {i}", row)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS: Final[Mapping[str, Callable[[Path], Iterator[Placed]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
ENDINGS: Final = (*_READERS, *(f"{e}{packed}" for packed in _PACKED for e in (".jsonl", ".json", ".csv")))
"""Of the files that are read."""
