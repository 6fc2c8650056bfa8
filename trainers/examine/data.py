"""What a data set is: form, prompts, repetitions, pairs that say the opposite, length, rows of one split in another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.data.draws import canonical
from trainers.data.rows import Row, Text, is_conversational
from trainers.data.tokens import plain


@dataclass(frozen=True)
class DataFacts:
    """The sound rows of a split.

    `prompts`: distinct ones; `repeated`: rows that are there before; `reversed`: rows that prefer what another row of
    the prompt rejects; `alike`: pairs whose answers differ in case, spaces and punctuation alone.
    """

    messages: bool
    rows: int
    prompts: int
    repeated: int
    reversed: int
    alike: int


@dataclass(frozen=True)
class Shared:
    """What two splits have in common: rows of the second that the first has too, and those whose prompts it has."""

    rows: int
    prompts: int


def look_at_rows(rows: Sequence[Row]) -> DataFacts:
    """What the rows of a split are."""
    seen: set[tuple[str, str, str]] = set()
    repeated = opposite = alike = 0
    for row in rows:
        prompt, chosen, rejected = (canonical(row[text]) for text in ("prompt", "chosen", "rejected"))
        repeated += (prompt, chosen, rejected) in seen
        opposite += (prompt, rejected, chosen) in seen
        seen.add((prompt, chosen, rejected))
        alike += _bare(row["chosen"]) == _bare(row["rejected"])
    prompts = {prompt for prompt, _, _ in seen}
    return DataFacts(bool(rows) and is_conversational(rows[0]), len(rows), len(prompts), repeated, opposite, alike)


def shared(first: Sequence[Row], second: Sequence[Row]) -> Shared:
    """What of `second` is in `first`."""
    rows, prompts = {canonical(row) for row in first}, {canonical(row["prompt"]) for row in first}
    return Shared(
        sum(canonical(row) in rows for row in second), sum(canonical(row["prompt"]) in prompts for row in second)
    )


def _bare(answer: Text) -> str:
    return re.sub(r"[\W_]+", " ", plain(answer).casefold()).strip()
