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
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from trainers.data.raw.columns import ALIASES
from trainers.data.rows import SIDES, Fault
from trainers.data.unpacked.bounds import check_parts, check_rows, check_unpacked, mib
from trainers.data.unpacked.parquet import parquet_rows

MOST_BYTES: Final = 4 << 30
"""Of text in a split: as much stays in the memory of every worker."""
_LONGEST_CELL: Final = 1 << 30  # the csv module's own limit is 128 KiB, and it has no other than a global one


class Placed(NamedTuple):
    """A raw row, where it stands ('line 7', 'row 3'; counted from 1), and why it could not be read at all."""

    place: str
    value: Any
    fault: Fault | None = None


def _read_json(file: Path) -> Iterator[Placed]:
    """One JSON object a line, or over several lines, or a JSON list of them, whatever the file is called."""
    with _opened(file) as content:
        first = next((line for line in content if line.strip()), b"")
        more = any(line.strip() for line in content)
    return _by_lines(file) if more and _is_json(first) else _whole(file)


def _whole(file: Path) -> Iterator[Placed]:
    """The rows of a list, or of objects one after the other; lines, where it is neither."""
    with _opened(file) as content:
        packed = content.read()
    if not packed.lstrip(_SPACE).startswith((b"{", b"[")):
        return _by_lines(file)
    if packed.lstrip(_SPACE).startswith(b"["):
        rows = _listed(_utf8(packed))
    else:
        try:
            text = _utf8(packed)
            for _ in _one_after_the_other(text):  # whether it is that to its end
                pass
        except ValueError:
            return _by_lines(file)
        rows = _one_after_the_other(text)
    first = list(islice(rows, 2))
    if len(first) == 1 and isinstance(first[0].value, dict) and _is_table(first[0].value):
        raise ValueError(
            f"it is one JSON object, with {', '.join(map(repr, first[0].value))}, and no row: write its rows as "
            "objects of their own, one a line, as pandas does by to_json(orient='records', lines=True)"
        )
    return chain(first, rows)


def _listed(text: str) -> Iterator[Placed]:
    """The values of a JSON list, each as it is asked for: a list of a few bytes a row takes a hundred times as much
    where all of it is read at once. Raises ValueError.
    """
    at, row = _after(text, text.index("[") + 1), 0
    while text[at : at + 1] != "]" or row:
        value, at = _decoded(text, at)
        row += 1
        yield Placed(f"row {row}", value)
        at = _after(text, at)
        if text[at : at + 1] != ",":
            break
        at = _after(text, at + 1)
    if text[at : at + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if _after(text, at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, _after(text, at + 1))


def _one_after_the_other(text: str) -> Iterator[Placed]:
    """JSON values with white space between them, each at the line where it begins. Raises ValueError."""
    at, line, told = 0, 1, 0
    while (at := _after(text, at)) < len(text):
        line, told = line + text.count("\n", told, at), at
        value, at = _decoded(text, at)
        yield Placed(f"line {line}", value)


def _after(text: str, at: int) -> int:
    """Where white space from `at` on ends."""
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a place, and where it ends. Raises ValueError."""
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in one another") from error


_BLANK: Final = re.compile(r"\s*")
_DECODER: Final = json.JSONDecoder()


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
            lines = parts = 0
            for piece in iter(lambda: content.read(1 << 20), b""):
                lines += piece.count(b"\n")
                parts += sum(map(piece.count, _PART_BEGINS))
        check_rows(lines, file.stat().st_size)
        check_parts(parts, file.stat().st_size)


_PART_BEGINS: Final = (b"[", b"{", b",", b";", b"\t", b"|")  # of a list, an object, an item or a cell


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
        check_unpacked(self._size, self._packed)
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


_READERS: Final[Mapping[str, Callable[[Path], Iterator[Placed]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": lambda file: numbered(parquet_rows(file)),
}
ENDINGS: Final = (*_READERS, *(f"{e}{packed}" for packed in _PACKED for e in (".jsonl", ".json", ".csv")))
"""Of the files that are read."""
