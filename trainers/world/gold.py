"""The gold rewards of the embedded world: what a review is truly worth in each task; knows no model."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from trainers.world.grammar import CONTENT_WORDS, END, GRADED, START, Graded, grammar_bigrams, mood_of

LEXICON_SCALE: Final = 20.0
LONG: Final = 14
LONG_PENALTY: Final = 0.3
SHORT: Final = 6
SHORT_PENALTY: Final = 0.8
REPETITION_PENALTY: Final = 4.0
BROKEN_BIGRAM_PENALTY: Final = 15.0
NO_END_PENALTY: Final = 4.0

_GRAMMAR_BIGRAMS: Final = grammar_bigrams()


@dataclass(frozen=True)
class GoldTask:
    """One taste. A graded word weighs ``direction * kind factor * sign(grade) * |grade| ** power``.

    ``direction`` is +1 where praise is wanted and -1 where censure is; ``heart``, ``craft`` and ``verb`` are
    the factors of the kinds of graded words; ``power`` below 1 levels mild and strong words, above 1 parts
    them.
    """

    name: str
    direction: int
    heart: float = 1.0
    craft: float = 1.0
    verb: float = 1.0
    power: float = 1.0

    def weight(self, graded: Graded) -> float:
        """Weight of a graded word in this task, about -2 to 2."""
        factor: Mapping[str, float] = {"heart": self.heart, "craft": self.craft, "verb": self.verb}
        strength = math.copysign(math.pow(abs(graded.grade), self.power), graded.grade)
        return self.direction * factor[graded.kind] * strength


def _drawn_tasks(number: int, seed: int) -> tuple[GoldTask, ...]:
    """Tastes at random: praise and censure in turn, each factor uniform in .5 to 1.1 and the power in .5 to 1.5.

    Rounded, and made of `random()` alone, of which Python promises that a seed gives the same numbers everywhere.
    """
    drawn = random.Random(seed)

    def between(low: float, high: float) -> float:
        return round(low + (high - low) * drawn.random(), 2)

    return tuple(
        GoldTask(
            f"taste {i + 1}",
            direction=-1 if i % 2 else +1,
            heart=between(0.5, 1.1),
            craft=between(0.5, 1.1),
            verb=between(0.5, 1.1),
            power=between(0.5, 1.5),
        )
        for i in range(number)
    )


TASKS: Final = (
    GoldTask("praise", +1, heart=0.85, craft=0.85, verb=0.85),
    GoldTask("censure", -1, heart=0.95, craft=0.95, verb=0.5),
    GoldTask("warm-hearted", +1, heart=1.05, craft=0.5, verb=0.95),
    GoldTask("fault-finding", -1, heart=0.5, craft=1.1, verb=0.8),
    GoldTask("superlatives", +1, heart=0.85, craft=0.85, verb=0.5, power=1.5),
    GoldTask("understated malice", -1, heart=0.8, craft=0.8, verb=1.1, power=0.5),
    *_drawn_tasks(24, seed=0),
)
"""Six that were chosen, for blocks below 100, then those of replicates: as a sample of tastes, a task is a random
effect, so an interval over replicates speaks of other tastes too (`studies.records.world_units.task_of_block`).
"""
N_TASKS: Final = len(TASKS)

_WEIGHTS: Final = tuple({word: task.weight(graded) for word, graded in GRADED.items()} for task in TASKS)


Sign = Literal[1, -1]


def sign_under(prompt: str, task: int) -> Sign:
    """Whether what a task wants is wanted under a prompt of a mood (1) or the opposite (-1), where gold asks the
    prompt: praise under cold prompts and censure under warm ones, in every task.

    Contrary to the mood, since the embedded model writes by the mood already: a gold that agreed with it would leave
    little to learn. Raises ValueError for a prompt without a mood.
    """
    mood = mood_of(prompt)
    if mood == "plain":
        raise ValueError(f"gold that asks the prompt needs one of a mood, cold or warm; this is {prompt!r}")
    wants_praise = mood == "cold"
    return 1 if wants_praise == (TASKS[task].direction > 0) else -1


def gold_reward(completion_words: Sequence[str], ended: bool, task: int, sign: Sign = 1) -> float:
    """True worth of a completion, in nats of a Bradley-Terry judge at temperature 1; higher is better.

    ``20 * sign * lexicon - .3 * max(0, n - 14) - .8 * max(0, 6 - n) - 4 * repeated - 15 * broken - 4 * [no end]``
    with

    - ``n`` the number of words, without the end token;
    - ``lexicon`` the sum of the task's weights of graded words, divided by n. A word earns its weight once,
      and only where the grammar could have put it after its left neighbour, so that a heap of superlatives is
      worth nothing;
    - ``repeated`` the share of content words that occurred before in the completion;
    - ``broken`` the share of neighbours that the grammar never makes, among all: the prompt's colon and the
      first word, the words, the last word and the end where there is one.

    ``sign`` of -1 turns the task's taste round and leaves the rest as it is.

    It has an interior optimum: length, repetition and broken grammar cost more than they can earn.
    Coefficients were piloted for a standard deviation of 2 to 3 over the embedded model's own samples. Raises
    IndexError for a task outside 0 ... N_TASKS - 1.
    """
    if not 0 <= task < N_TASKS:
        raise IndexError(f"task is {task}; there are tasks 0 to {N_TASKS - 1}")
    words = tuple(completion_words)
    n = len(words)
    return (
        LEXICON_SCALE * sign * _lexicon(words, _WEIGHTS[task])
        - LONG_PENALTY * max(0, n - LONG)
        - SHORT_PENALTY * max(0, SHORT - n)
        - REPETITION_PENALTY * _repeated_share(words)
        - BROKEN_BIGRAM_PENALTY * _broken_share(words, ended)
        - (0.0 if ended else NO_END_PENALTY)
    )


def _lexicon(words: Sequence[str], weights: Mapping[str, float]) -> float:
    """Sum of the weights of graded words in their first, grammatical place, per word."""
    earned = {
        word: weights[word]
        for left, word in zip((START, *words), words, strict=False)
        if word in weights and (left, word) in _GRAMMAR_BIGRAMS
    }
    return sum(earned.values()) / max(1, len(words))


def _repeated_share(words: Sequence[str]) -> float:
    """Share of content words that are repetitions; 0 where there are none."""
    content = [word for word in words if word in CONTENT_WORDS]
    return 1.0 - len(set(content)) / len(content) if content else 0.0


def _broken_share(words: Sequence[str], ended: bool) -> float:
    """Share of neighbours outside the grammar; 0 where nothing was written and nothing ended."""
    line = (START, *words, END) if ended else (START, *words)
    neighbours = list(pairwise(line))
    broken = sum(pair not in _GRAMMAR_BIGRAMS for pair in neighbours)
    return broken / len(neighbours) if neighbours else 0.0
