"""What gold is worth in the embedded world: tasks, their reference and their oracle, as numbers; knows no model.

The numbers are of what the untrained model writes, so each embedded model has its own: `world.json` and
`world-gpt2.json`, which `python -m trainers.world.scale` writes from the models themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from studies.records import EMBEDDED, EMBEDDED_GPT2, EMBEDDED_MODELS, REPLICATE_BLOCKS, DataConfig

_STUDIES: Final = Path(__file__).parents[1]
FILES: Final[Mapping[str, Path]] = {
    EMBEDDED: _STUDIES / "world.json",
    EMBEDDED_GPT2: _STUDIES / "world-gpt2.json",
}
"""By embedded model."""
SOURCE: Final = EMBEDDED
"""`DataConfig.path` of the embedded world in a study. In a run, and in the fact `source` of it, it is the name of the
embedded model that wrote the pairs.
"""
_BY_PROMPT: Final = ", gold by prompt"
BY_PROMPT: Final = f"{SOURCE}{_BY_PROMPT}"
"""The fact `source` of runs on the embedded world where gold asks the prompt: it has a reference and an oracle of its
own.
"""
CUT: Final = "embedded, answers cut"
"""Of studies of the embedded world whose samples are cut before `WHOLE_ANSWER` tokens: references and oracles are of
whole ones.
"""
WHOLE_ANSWER: Final = 32
"""Tokens of the longest answer: to that many the references and oracles were sampled."""
MOST_NEW_TOKENS: Final[Mapping[str, int]] = {EMBEDDED_GPT2: 57}
"""By embedded model, the tokens that can be sampled behind a prompt, where positions end."""
FIRST_TASKS: Final = 6
"""Tasks that blocks below `REPLICATE_BLOCKS` go round."""
BLOCKS_A_TASK: Final = 2
"""Of replicates: one draw to tune on and one to judge on."""
UNIT_BUDGET: Final = "2"
"""Nats per sequence at which the oracle is worth 1."""


@dataclass(frozen=True)
class Task:
    """One gold task: mean gold of the untrained model, and the most that any policy reaches at a KL budget (nats
    per sequence, as text: `2`, `0.5`).

    The zero of U is the mean of 98,304 samples and not the run's own `reference_gold`: samples of a trained policy
    and of the untrained model under one seed correlate by only .2 at 2 nats, so that subtracting it would more than
    double the variance. The luck of a sampling seed, .01 to .02 U, is common to all blocks below 100; those of
    replicates have each their own.
    """

    name: str
    reference: float
    oracle: Mapping[str, float]

    def utility(self, gold: float, budget: str = UNIT_BUDGET) -> float:
        """U = (gold - reference) / (oracle - reference): 0 for the untrained model, 1 for the oracle at the budget."""
        return self.in_units(gold - self.reference, budget)

    def in_units(self, difference: float, budget: str = UNIT_BUDGET) -> float:
        """A difference of gold, or an error of it, in units of U."""
        return difference / (self.oracle[budget] - self.reference)


@cache
def tasks(by_prompt: bool = False, model: str = EMBEDDED) -> tuple[Task, ...]:
    """All gold tasks by their numbers (`task_of_block`), as they are for an embedded model; `by_prompt`: where gold
    asks it.
    """
    listed = json.loads(FILES[model].read_text(encoding="utf-8"))["tasks_by_prompt" if by_prompt else "tasks"]
    return tuple(Task(**task) for task in listed)


def source_of(data: DataConfig) -> str:
    """Where pairs come from, as the fact `source` of a run says it: their path, or `BY_PROMPT`."""
    return f"{data.path}{_BY_PROMPT}" if data.path in EMBEDDED_MODELS and data.gold == "prompt" else data.path


def writer_of(facts: Mapping[str, str]) -> str:
    """The embedded model that wrote the pairs of a run of the embedded world, by its facts: the first one where they do
    not say, as those of old runs.
    """
    path = str(facts.get("source", SOURCE)).removesuffix(_BY_PROMPT)
    return path if path in EMBEDDED_MODELS else EMBEDDED


def tasks_of_replicates() -> int:
    """How many replicates can have a gold task of their own."""
    return len(tasks()) - FIRST_TASKS


def task_of_block(block: int) -> int:
    """The number of a block's gold task. Raises ValueError for a negative block.

    Blocks below 100 go round the first six tasks. Those from 100 on are draws of replicates, two a task: 100 and 101
    have task 6, 102 and 103 task 7, and so on through all others, of which there are as many as `world.json` holds.
    """
    if block < 0:
        raise ValueError(f"block is {block}; it must be 0 or more")
    if block < REPLICATE_BLOCKS:
        return block % FIRST_TASKS
    return FIRST_TASKS + (block - REPLICATE_BLOCKS) // BLOCKS_A_TASK % tasks_of_replicates()
