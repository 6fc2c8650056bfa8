"""Records -> numbers that can be averaged over blocks: the unit of a metric, the task of a block, and what is a tie.

Knows the embedded world's unit (`studies.records.world_units`); of every other data set, only the metric's own unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from studies.records import METRICS, RunRecord
from studies.records.paths import start_of
from studies.records.world_units import (
    BY_PROMPT,
    CUT,
    SOURCE,
    UNIT_BUDGET,
    Task,
    task_of_block,
    tasks,
    writer_of,
)
from studies.spec import Objective

# Practical equivalence on the embedded world: a thirtieth of what the oracle gains at 2 nats.
TIE_WITHIN_U = 0.03


@dataclass(frozen=True)
class Scale:
    """How a metric is compared.

    `unit`: "U" for gold of the embedded world (0 the untrained model, 1 the oracle at 2 nats), else the metric's own.
    `sign`: 1 where more is better, -1 where less is. `tie_within`: the largest difference that does not matter, None
    where the study gives none. `by_task`: whether blocks belong to the embedded world's tasks; elsewhere every block
    is a draw of its own. `by_prompt`: whether U is that of a gold which asks the prompt; `budget`: nats a sequence at
    which the oracle is worth 1, those that the objective is read at where the oracle is known there.
    """

    metric: str
    unit: str
    sign: Literal[1, -1]
    tie_within: float | None
    by_task: bool
    by_prompt: bool = False
    budget: str = UNIT_BUDGET

    def value(self, record: RunRecord) -> float | None:
        """The record's value in `unit`; None where it was not measured."""
        raw = record.metrics.get(self.metric)
        return None if raw is None else self.in_unit([raw], record)[0]

    def gain(self, record: RunRecord) -> float | None:
        """How much better the record's value is than the untrained model's; None where either was not measured."""
        value, zero = self.value(record), self._untrained(record)
        return None if value is None or zero is None else self.sign * (value - zero)

    def _untrained(self, record: RunRecord) -> float | None:
        """The value of the untrained model, in `unit`: by definition, else as the run recorded it."""
        return 0.0 if self.unit == "U" else start_of(self.metric, record.facts)

    @property
    def starts_at_zero(self) -> bool:
        """Whether the untrained model is at 0, so that better and worse than untrained can be told by the sign."""
        return self.unit == "U" or self.metric in ("ranking_gain", "margin")

    def in_unit(self, values: Sequence[float], record: RunRecord) -> list[float]:
        """Values of the metric that were measured in a run, in `unit`."""
        if self.unit != "U":
            return list(values)
        task = self._worth(record)
        return [task.utility(v, self.budget) for v in values]

    def _worth(self, record: RunRecord) -> Task:
        """What gold is worth in the task of a run, to the embedded model that it trained."""
        return tasks(self.by_prompt, writer_of(record.facts))[task_of_block(record.block)]

    def error(self, record: RunRecord) -> float | None:
        """The standard error of `value` over evaluation samples; None where it is not known."""
        raw = record.errors.get(self.metric)
        if raw is None or self.unit != "U":
            return raw
        return self._worth(record).in_units(raw, self.budget)

    def task(self, block: int) -> int:
        """The task of a block."""
        return task_of_block(block) if self.by_task else block

    def by_block(self, records: Iterable[RunRecord]) -> dict[int, float]:
        """Block -> mean over its runs (seeds); runs without the metric are not in it."""
        found: dict[int, list[float]] = defaultdict(list)
        for record in records:
            value = self.value(record)
            if value is not None:
                found[record.block].append(value)
        return {block: sum(values) / len(values) for block, values in sorted(found.items())}


def scale_of(objective: Objective, source: str) -> Scale:
    """The scale of a study's objective. `source`: as `studies.design.counts.pairs_source` says it."""
    in_u = source in (SOURCE, BY_PROMPT) and objective.metric == "gold"
    unit = METRICS[objective.metric].unit if objective.metric in METRICS else objective.metric
    budget = UNIT_BUDGET if objective.at_drift is None else f"{objective.at_drift:g}"
    return Scale(
        metric=objective.metric,
        unit="U" if in_u else unit,
        sign=1 if objective.direction == "maximize" else -1,
        tie_within=objective.tie_within if objective.tie_within is not None else TIE_WITHIN_U if in_u else None,
        by_task=source in (SOURCE, BY_PROMPT, CUT),
        by_prompt=source == BY_PROMPT,
        budget=budget if in_u and budget in tasks()[0].oracle else UNIT_BUDGET,
    )


def raw_scale(metric: str, by_task: bool, tie_within: float | None = None) -> Scale:
    """The scale of any metric in its own unit, better as `studies.records.METRICS` says (more, where it does not)."""
    about = METRICS[metric]
    return Scale(metric, about.unit, -1 if about.better == "minimize" else 1, tie_within, by_task)


Panel = Mapping[str, Mapping[int, float]]
"""Variant -> block -> value: what comparisons are made of."""
