"""What a scenario does to training pairs: rejected answers from elsewhere, labels exchanged.

Knows rows and numbers, and that embedded models can be sampled; knows no source, no tokenizer and no other model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Final

import numpy as np

from trainers.data.sources import DataError, Row

# Streams of random numbers of a block, beside that of `trainers.data.draws`, so that no draw moves another.
_FLIPS: Final = 1
_DEALS: Final = 2


def with_sampled_rejected(rows: Sequence[Row], block: int, model: str) -> tuple[Row, ...]:
    """The rows with samples of an embedded model under their own prompts, of plain text, as rejected answers."""
    from trainers.world.own_answers import own_answers

    sampled = own_answers([(str(row["prompt"]), str(row["chosen"])) for row in rows], block, model)
    return tuple(
        Row(prompt=row["prompt"], chosen=row["chosen"], rejected=text) for row, text in zip(rows, sampled, strict=True)
    )


def deal_rejected(rows: Sequence[Row], prompts: Sequence[Hashable], block: int) -> tuple[Row, ...]:
    """The rows with their rejected answers dealt anew, so that none keeps one that belongs to its own prompt.

    `prompts` [rows]: equal for rows of one prompt. Every rejected answer is dealt once. The deal is drawn for the block
    and then mended by exchanges. Raises DataError where no deal exists: fewer than two prompts, or one with more than
    half of the pairs.
    """
    n, most = len(rows), max(Counter(prompts).values(), default=0)
    if 2 * most > n:
        number = len(set(prompts))
        raise DataError(
            [
                f"data.rejected_from is 'another', but one prompt has {most} of the {n} training pairs"
                + (" and there is no other" if number < 2 else ", more than half")
                + ", so its rejected answers cannot be dealt to other prompts; give pairs of more prompts"
            ]
        )
    rng = np.random.default_rng((_DEALS, block))
    giver = [int(i) for i in rng.permutation(n)]
    for place in range(n):
        if prompts[giver[place]] == prompts[place]:
            other = _partner(place, giver, prompts, start=int(rng.integers(n)))
            giver[place], giver[other] = giver[other], giver[place]
    return tuple(
        Row(prompt=row["prompt"], chosen=row["chosen"], rejected=rows[source]["rejected"])
        for row, source in zip(rows, giver, strict=True)
    )


def _partner(place: int, giver: Sequence[int], prompts: Sequence[Hashable], start: int) -> int:
    """The first row from `start` on, going round, with which an exchange leaves neither with its own prompt's answer.

    There is one: with m rows of this prompt, at most m rows are of it and at most m hold an answer of it, `place` both,
    which is fewer than all where 2 m is at most their number.
    """
    own, n = prompts[place], len(giver)
    round_from_start = ((start + step) % n for step in range(n))
    return next(i for i in round_from_start if prompts[i] != own and prompts[giver[i]] != own)


def places_to_flip(n: int, rate: float, block: int, first: Collection[int] = ()) -> frozenset[int]:
    """Which of `n` training rows have their answers exchanged: the first `round(rate * n)` of an order drawn for the
    block, in which the rows `first` come before the others. So those of a lower rate are among those of a higher one.
    """
    order = [int(i) for i in np.random.default_rng((_FLIPS, block)).permutation(n)]
    order.sort(key=lambda i: i not in first)  # keeps the drawn order within each of the two
    return frozenset(order[: round(rate * n)])


def exchange(row: Row) -> Row:
    """The row with its answers exchanged."""
    return Row(prompt=row["prompt"], chosen=row["rejected"], rejected=row["chosen"])
