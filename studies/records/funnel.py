"""How many of the rows that were read are trained on, and where the others went: in words, from a run's facts."""

from __future__ import annotations

from collections.abc import Mapping

from studies.records import Scalar

DROPPED, DROPPED_BY = "rows_dropped", "rows_dropped_by"
"""Facts: bad rows that were left out, and of which kinds they were, in words."""
NOTES = "rows_notes"
"""Fact: what a reader should know of the rows that are trained on, in sentences."""
LOOKED_AT, LIMITS, OUT = "rows_looked_at", "length_limits", "rows_out"
"""Facts: rows that were tokenised; the limits that they must fit; those left out for another reason, in words."""


def funnel(facts: Mapping[str, Scalar]) -> str:
    """`760 read, 359 fit max_length 128, 261 train, 96 held out, 31 prompts`; empty of runs that do not tell."""
    if LOOKED_AT not in facts:
        return ""

    def number(name: str) -> int:
        return int(facts.get(name) or 0)

    read, dropped, looked_at, shared = map(number, ("rows_read", DROPPED, LOOKED_AT, "prompt_held_out"))
    whole = read - dropped <= looked_at + shared
    train, held_out = number("train_rows"), number("eval_rows")
    fit = train + held_out + number("dealt_equal") + (shared if whole else 0)
    parts = [
        f"{read:,} read",
        f"{dropped:,} bad and left out ({facts.get(DROPPED_BY)})" if dropped else "",
        "" if whole else f"{looked_at:,} looked at",
        f"{fit:,} fit {facts[LIMITS]}" if facts.get(LIMITS) else "",
        f"{facts[OUT]}" if facts.get(OUT) else "",
        f"{shared:,} of held-out prompts" if shared else "",
        f"{train:,} train",
        f"{held_out:,} held out",
        f"{number('prompts'):,} prompts",
    ]
    return ", ".join(part for part in parts if part)
