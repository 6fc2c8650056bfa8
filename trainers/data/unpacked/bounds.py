"""How much a file of rows may unpack to: one thing a million times takes a kilobyte, so it is counted first."""

from __future__ import annotations

from typing import Final

ALWAYS_UNPACKED, MOST_UNPACKED = 256 << 20, 100
"""A packed file may unpack to so many bytes, or to so many times its size (texts take 2 to 10)."""
ALWAYS_ROWS: Final = 200_000
"""It may have so many rows, or one for each of its bytes: as many that differ do not fit into fewer."""
ALWAYS_PARTS, MOST_PARTS = 2_000_000, 4
"""It may have so many lists, objects, items and cells, or so many for each of its bytes: an empty one takes two bytes,
and a hundred in memory.
"""
VALUE_BYTES: Final = 8
"""Of a value in a list of Python, whatever it is; a file of columns says a million of no bytes in a few."""


def check_unpacked(size: int, packed: int, rows: int | None = None) -> None:
    """Raises ValueError where a file unpacks to so much more than it is that no texts of people can be in it."""
    if size > max(ALWAYS_UNPACKED, MOST_UNPACKED * packed):
        raise ValueError(
            f"{f'its {rows} rows unpack' if rows else 'it unpacks'} to {mib(size)} or more from a file of "
            f"{mib(packed)}, over {MOST_UNPACKED} times as much: where that is meant, write it as .jsonl, else get "
            "the file again"
        )


def check_rows(rows: int, packed: int) -> None:
    """Raises ValueError where rows are so many for the file that they must be copies of a few."""
    if rows > max(ALWAYS_ROWS, packed):
        raise ValueError(
            f"its {rows:,} rows unpack to more than a file of {mib(packed)} can tell apart, so that they are copies "
            "of a few: where that is meant, write it as .jsonl, else get the file again"
        )


def check_parts(parts: int, packed: int) -> None:
    """Raises ValueError where lists, objects, items and cells are so many for the file that they hold nothing."""
    if parts > max(ALWAYS_PARTS, MOST_PARTS * packed):
        raise ValueError(
            f"its {parts:,} lists, objects, items and cells unpack to more than texts in a file of {mib(packed)} have: "
            "where that is meant, write it as .jsonl, else get the file again"
        )


def mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
