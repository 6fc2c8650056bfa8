"""The language of the embedded world: words, prompts, reviews and their bigrams; knows no gold and no model.

A prompt is ``a warm review of the new film :`` and a review is one or two sentences such as ``the plot is
quite superb . fans loved its tender score .``. The mood word steers the polarity of the graded words; without
it, an adapter finds no direction of polarity in the model to move along and DPO learns next to nothing.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

Mood = Literal["cold", "plain", "warm"]
Kind = Literal["heart", "craft", "verb"]

MOODS: Final[tuple[Mood, ...]] = get_args(Mood)
AGES: Final = ("new", "old", "latest")
TOPICS: Final = ("film", "play", "novel", "song", "game", "show", "series", "opera", "drama", "comedy")

START: Final = ":"
"""The last word of every prompt: the left neighbour of a review's first word."""
END: Final = "<end>"
"""The end of a review, as text: also the tokenizer's end-of-sequence token."""
MAX_WORDS: Final = 32
"""Longest completion that is sampled, in tokens with the end; the longest review of the grammar has 21."""


@dataclass(frozen=True)
class Graded:
    """A word that judges: ``grade`` is its strength with its sign, one of +-.5, +-1, +-1.5."""

    grade: float
    kind: Kind


GRADED: Final[Mapping[str, Graded]] = {
    "pleasant": Graded(0.5, "heart"),
    "gentle": Graded(0.5, "heart"),
    "charming": Graded(1.0, "heart"),
    "tender": Graded(1.0, "heart"),
    "moving": Graded(1.5, "heart"),
    "wonderful": Graded(1.5, "heart"),
    "neat": Graded(0.5, "craft"),
    "decent": Graded(0.5, "craft"),
    "clever": Graded(1.0, "craft"),
    "polished": Graded(1.0, "craft"),
    "brilliant": Graded(1.5, "craft"),
    "superb": Graded(1.5, "craft"),
    "bland": Graded(-0.5, "heart"),
    "tame": Graded(-0.5, "heart"),
    "dreary": Graded(-1.0, "heart"),
    "joyless": Graded(-1.0, "heart"),
    "miserable": Graded(-1.5, "heart"),
    "heartless": Graded(-1.5, "heart"),
    "slow": Graded(-0.5, "craft"),
    "patchy": Graded(-0.5, "craft"),
    "clumsy": Graded(-1.0, "craft"),
    "muddled": Graded(-1.0, "craft"),
    "terrible": Graded(-1.5, "craft"),
    "dreadful": Graded(-1.5, "craft"),
    "liked": Graded(0.5, "verb"),
    "enjoyed": Graded(1.0, "verb"),
    "loved": Graded(1.5, "verb"),
    "disliked": Graded(-0.5, "verb"),
    "regretted": Graded(-1.0, "verb"),
    "hated": Graded(-1.5, "verb"),
}

ADJECTIVES: Final = tuple(word for word, graded in GRADED.items() if graded.kind != "verb")
VERBS: Final = tuple(word for word, graded in GRADED.items() if graded.kind == "verb")
PARTS: Final = (
    "plot", "cast", "score", "ending", "script", "pace", "hero", "dialogue",
    "setting", "tone", "style", "finale", "story", "theme", "opening", "message",
)  # fmt: skip
ADVERBS: Final = ("quite", "rather", "very", "truly", "mostly", "often", "simply")
PEOPLE: Final = ("i", "we", "critics", "fans", "friends", "people", "readers", "guests")
COPULAS: Final = ("is", "was", "feels", "seems")

CONTENT_WORDS: Final = frozenset((*GRADED, *PARTS, *ADVERBS))
"""The words whose repetition within a review is a fault."""

Slot = tuple[str, ...]
"""The words that can stand in one place of a sentence."""


def _slots(pattern: str) -> tuple[Slot, ...]:
    """Slots of a sentence pattern: names in capitals stand for word classes, everything else for itself."""
    classes: Mapping[str, Slot] = {
        "PART": PARTS,
        "ADJECTIVE": ADJECTIVES,
        "VERB": VERBS,
        "ADVERB": ADVERBS,
        "PEOPLE": PEOPLE,
        "COPULA": COPULAS,
        "TOPIC": TOPICS,
    }
    return tuple(classes.get(name, (name,)) for name in pattern.split())


TEMPLATES: Final[tuple[tuple[Slot, ...], ...]] = (
    _slots("the PART COPULA ADVERB ADJECTIVE ."),
    _slots("the PART COPULA ADJECTIVE and ADJECTIVE ."),
    _slots("this TOPIC has a ADJECTIVE PART ."),
    _slots("PEOPLE VERB the PART ."),
    _slots("PEOPLE VERB its ADJECTIVE PART ."),
    _slots("it is a ADJECTIVE TOPIC with a ADJECTIVE PART ."),
)

POSITIVE_SHARE: Final[Mapping[Mood, float]] = {"cold": 0.1, "plain": 0.5, "warm": 0.9}
"""Probability that a graded word is a positive one, by mood."""


def vocabulary() -> tuple[str, ...]:
    """Every word of prompts and reviews, once, in a fixed order, without special tokens."""
    prompt_words = (*MOODS, *AGES, *TOPICS, "a", "review", "of", "the", START)
    review_words = (word for template in TEMPLATES for slot in template for word in slot)
    return tuple(dict.fromkeys((*prompt_words, *review_words)))


def prompts(mood: Mood = "plain") -> tuple[str, ...]:
    """All prompts of a mood: one for each age and topic, 30 in all, eight words each."""
    return tuple(prompt(mood, age, topic) for age in AGES for topic in TOPICS)


def prompt(mood: Mood, age: str, topic: str) -> str:
    """The prompt that asks for a review, ending in ``:`` without a space."""
    return f"a {mood} review of the {age} {topic} {START}"


def mood_of(asked: str) -> Mood:
    """The mood of a prompt. Raises ValueError for a text that is no prompt of this world."""
    words = asked.split()
    mood = next((mood for mood in MOODS if words[1:2] == [mood]), None)
    if mood is None:
        raise ValueError(f"{asked!r} names none of the moods {', '.join(MOODS)} as its second word")
    return mood


def write_review(rng: np.random.Generator, mood: Mood, topic: str) -> str:
    """A review of one or two sentences (even odds), as words joined by single spaces, without an end token.

    Content words do not repeat within a review; the topic may.
    """
    review: list[str] = []
    for _ in range(1 + int(rng.integers(2))):
        for slot in TEMPLATES[int(rng.integers(len(TEMPLATES)))]:
            review.append(_fill(rng, slot, mood, topic, used=review))
    return " ".join(review)


def _fill(rng: np.random.Generator, slot: Slot, mood: Mood, topic: str, used: Sequence[str]) -> str:
    """A word for the slot: the topic itself, a graded word of the mood's polarity, or any unused word."""
    if len(slot) == 1:
        return slot[0]
    if slot is TOPICS:
        return topic
    candidates: Sequence[str] = slot
    if slot[0] in GRADED:
        positive = rng.random() < POSITIVE_SHARE[mood]
        candidates = [word for word in slot if (GRADED[word].grade > 0) == positive]
    fresh = [word for word in candidates if word not in used or word not in CONTENT_WORDS]
    return fresh[int(rng.integers(len(fresh)))]


def grammar_bigrams() -> frozenset[tuple[str, str]]:
    """Exactly the pairs of neighbours that :func:`write_review` can make, with START and END as outer
    neighbours.
    """
    within = {
        (left, right)
        for template in TEMPLATES
        for left_slot, right_slot in itertools.pairwise(template)
        for left in left_slot
        for right in right_slot
    }
    first_words = {word for template in TEMPLATES for word in template[0]}
    last_words = {word for template in TEMPLATES for word in template[-1]}
    between = {(last, first) for last in last_words for first in first_words}
    outer = {(START, first) for first in first_words} | {(last, END) for last in last_words}
    return frozenset(within | between | outer)
