"""Numbers of things in words: `1 run`, `2 runs`."""

from __future__ import annotations


def so_many(number: int, noun: str, one: str = "", more: str = "") -> str:
    """So many of something, whose name takes an s for more than one; `one`, `more`: the verb behind it, for each."""
    named, verb = (noun, one) if number == 1 else (f"{noun}s", more)
    return f"{number} {named} {verb}".rstrip()
