"""What the columns of a raw row say by their names: which texts go by another, which belong to the prompt and would be
lost, and which judge the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

_TEXTS: Final = ("prompt", "chosen", "rejected")
# Columns that hold what belongs to the prompt, the likeliest first, in the sets that people publish.
_QUESTIONS: Final = ("question", "instruction", "query", "input")
_CONVERSATIONS: Final = ("conversations", "conversation", "messages")
_BESIDE: Final = ("system", "system_prompt", "history", "context", *_CONVERSATIONS)
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": _QUESTIONS,
    "chosen": (
        "accepted",
        "preferred",
        "good",
        "better",
        "winner",
        "positive",
        "chosen_response",
        "response_chosen",
        "preferred_output",
        "response_j",
    ),
    "rejected": (
        "dispreferred",
        "bad",
        "worse",
        "loser",
        "negative",
        "rejected_response",
        "response_rejected",
        "non_preferred_output",
        "response_k",
    ),
}


def lost_columns(value: Mapping[str, Any]) -> Iterator[str]:
    """Columns that by their names belong to the prompt and hold text that no part of the row has."""
    names = _like_prompts(tuple(value))
    if not names:
        return
    texts = " ".join(" ".join(_leaves(value.get(text))) for text in _TEXTS)
    for name in names:
        if any(leaf not in texts for leaf in _leaves(value[name])):
            yield name


@lru_cache(maxsize=8)
def _like_prompts(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name.lower() in (*_QUESTIONS, *_BESIDE))


def _leaves(value: Any) -> Iterator[str]:
    """All text in a value but the roles of messages, its white space as single spaces."""
    if isinstance(value, str):
        yield from [" ".join(value.split())] if value.strip() else []
    elif isinstance(value, dict):
        for name, held in value.items():
            yield from _leaves(held) if name not in ("role", "from") else ()
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _leaves(held)


def best_question(names: Mapping[str, int]) -> str | None:
    """The one of these columns that is most likely the prompt."""
    by_name = {name.lower(): name for name in names}
    return next((by_name[name] for name in (*_QUESTIONS, *_CONVERSATIONS) if name in by_name), None)


# What sets call the numbers that judges gave to both answers.
_SCORES: Final = ("score", "rating", "reward", "scores", "ratings")


def scored_otherwise(value: Mapping[str, Any]) -> tuple[str, str] | None:
    """The columns of a raw row by which its chosen answer has the lower score; None where they say no such thing."""
    for chosen, rejected in _like_scores(tuple(value)):
        better, worse = value[chosen], value[rejected]
        if isinstance(better, int | float) and isinstance(worse, int | float) and better < worse:
            return chosen, rejected
    return None


@lru_cache(maxsize=8)
def _like_scores(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    both = [(f"{word}_{{}}", f"{{}}_{word}") for word in _SCORES]
    pairs = [(form.format("chosen"), form.format("rejected")) for forms in both for form in forms]
    return tuple(pair for pair in pairs if {*pair} <= {*names})
