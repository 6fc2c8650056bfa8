"""Reads rows out of Parquet tables, a part at a time; what they unpack to is counted before it is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from studies.text.lines import first_line_of
from trainers.data.unpacked.bounds import MOST_UNPACKED, VALUE_BYTES, check_rows, check_unpacked


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """A Parquet table, a part at a time; a text that many rows share is there once. A file can say it a million times
    in a kilobyte, so what it unpacks to is counted before it is unpacked.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            metadata, columns = table.metadata, [table.schema.column(i) for i in range(len(table.schema))]
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        size, packed = sum(group.total_byte_size for group in groups), file.stat().st_size
        values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
        check_unpacked(VALUE_BYTES * values, packed, metadata.num_rows)
        check_unpacked(size, packed, metadata.num_rows)
        check_rows(metadata.num_rows, packed)
        texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in _TEXT_TYPES]
        flat = [path for path in texts if "." not in path]  # pyarrow cannot read the others as dictionaries
        at_once = 1024 if flat == texts else 16 if size < MOST_UNPACKED // 4 * packed else 1
        with pyarrow.parquet.ParquetFile(file, read_dictionary=flat) as table:
            yield from _unpacked(table, at_once, packed)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{first_line_of(error).rstrip('.')}: get it again, or write its rows anew") from error


_TEXT_TYPES: Final = ("STRING", "NONE")


def _unpacked(table: Any, at_once: int, packed: int) -> Iterator[dict[str, Any]]:
    """The rows of an opened Parquet file of `packed` bytes, so many of them at once."""
    size = 0
    for batch in table.iter_batches(batch_size=at_once):
        size += sum(map(_bytes_in, batch.columns))
        check_unpacked(size, packed, table.metadata.num_rows)
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
    return max(int(column.nbytes), VALUE_BYTES * len(column))


def _values(column: Any) -> list[Any]:
    """The values of an Arrow array; equal ones of a dictionary are one object."""
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    used = column.indices.unique()
    texts = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
    return [texts[i] for i in column.indices.to_pylist()]
