"""Numbers of things in words: `1 run`, `2 runs`."""

from __future__ import annotations


def so_many(number: int, noun: str, one: str = "", more: str = "") -> str:
    """So many of something, whose name takes an s for more than one; `one`, `more`: the verb behind it, for each."""
    named, verb = (noun, one) if number == 1 else (f"{noun}s", more)
    return f"{number:,} {named} {verb}".rstrip()


def duration_in_words(seconds: float) -> str:
    """About how long, as people say it: `40 seconds`, `9 minutes`, `2.5 hours`."""
    if seconds < 90:
        return so_many(max(round(seconds), 1), "second")
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else so_many(round(seconds / 60), "minute")
