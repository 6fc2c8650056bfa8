"""What gold is worth in the embedded world: tasks, their reference and their oracle, as numbers; knows no model.

The numbers come from `world.json`, which `python -m trainers.world.scale` writes from the model itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from studies.records import DataConfig

FILE: Final = Path(__file__).parents[1] / "world.json"
SOURCE: Final = "embedded"
"""`DataConfig.path` of the embedded world, and the fact `source` of its runs."""
BY_PROMPT: Final = "embedded, gold by prompt"
"""The fact `source` of runs on the embedded world where gold asks the prompt: it has a reference and an oracle of its
own.
"""
UNIT_BUDGET: Final = "2"
"""Nats per sequence at which the oracle is worth 1."""


@dataclass(frozen=True)
class Task:
    """One gold task: mean gold of the untrained model, and the most that any policy reaches at a KL budget (nats
    per sequence, as text: `2`, `0.5`).
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
def tasks(by_prompt: bool = False) -> tuple[Task, ...]:
    """All gold tasks in the order in which blocks go round them; `by_prompt`: as they are where gold asks it."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))["tasks_by_prompt" if by_prompt else "tasks"]
    return tuple(Task(**task) for task in listed)


def source_of(data: DataConfig) -> str:
    """Where pairs come from, as the fact `source` of a run says it: their path, or `BY_PROMPT`."""
    return BY_PROMPT if data.path == SOURCE and data.gold == "prompt" else data.path


def task_of_block(block: int) -> int:
    """The gold task of a block, as in `trainers.world.pairs.task_of`: blocks go round the tasks."""
    return block % len(tasks())
