"""A metric along a training, read where the policy is a given distance from its start. Pure.

Losses are fairly compared at equal drift: what a loss gains is bought with KL, and which config stops where is the luck
of its learning rate (2210.10760 plots gold against the root of the KL; 2406.02900 does so for DPO). A run passes every
drift below its last on its way, so one training tells them all, where its learning rate does not decay towards an end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studies.records.metrics import Measurement

NEAR = 0.3
"""A drift K is well read where an evaluation lies within 30 % of it in the root of the KL, .49 K to 1.69 K."""

_STARTS: Mapping[str, float] = {
    "ranking_gain": 0.0,
    "margin": 0.0,
    "margin_share": 0.0,
    "accuracy": 0.5,
    "sign_accuracy": 0.5,
}
READABLE = frozenset({"gold", *_STARTS})
"""Metrics whose value before training is known, so that they can be read between it and the first evaluation."""

Path = Sequence[tuple[int, float, float]]
"""(step, KL in nats a sequence, value) of every evaluation, by step."""


@dataclass(frozen=True)
class Reading:
    """A metric where a run first is `drift` nats a sequence from its start.

    `value`: interpolated between the evaluations around it, linearly in the root of the KL, as gold goes for a small
    drift (a tilt by t gains in proportion to t and costs t squared). `step`: of the evaluation nearest to it, where a
    user would stop, and what was measured there: `at_step`, `drift_at_step`. `is_near`: whether that is within `NEAR`.
    """

    drift: float
    value: float
    step: int
    at_step: float
    drift_at_step: float
    is_near: bool


def start_of(metric: str, facts: Mapping[str, object]) -> float | None:
    """What the metric is before training; of gold, as the run recorded it. None where nobody knows."""
    if metric in _STARTS:
        return _STARTS[metric]
    recorded = facts.get("reference_gold") if metric == "gold" else None
    return None if recorded is None else float(str(recorded))


def path_of(metric: str, measurements: Sequence[Measurement]) -> Path:
    """The path of a metric, from all measurements of a run."""
    return joined(*([(m.step, m.value) for m in measurements if m.name == name] for name in ("kl", metric)))


def joined(kl: Sequence[tuple[int, float]], values: Sequence[tuple[int, float]]) -> Path:
    """The path from (step, KL) and (step, value), at the steps that have both."""
    at = dict(values)
    return [(step, drift, at[step]) for step, drift in sorted(kl) if step in at]


def furthest(path: Path) -> float:
    """The largest KL on the path, 0 where it has none."""
    return max((drift for _, drift, _ in path), default=0.0)


def read_at(path: Path, drift: float, start: float) -> Reading | None:
    """The metric at a drift; None where the run never gets there, or where something on the way is no number.

    `start`: the value before training, at a KL of 0.
    """
    before, value_before = 0.0, start
    for i, (_, kl, value) in enumerate(path):
        if not (math.isfinite(kl) and math.isfinite(value)):
            return None
        if kl >= drift:
            share = (math.sqrt(drift) - _root(before)) / (_root(kl) - _root(before)) if kl > before else 1.0
            step, near, at_step = min(path[max(i - 1, 0) : i + 1], key=lambda at: abs(_root(at[1]) - math.sqrt(drift)))
            return Reading(
                drift=drift,
                value=value_before + share * (value - value_before),
                step=step,
                at_step=at_step,
                drift_at_step=near,
                is_near=abs(_root(near) / math.sqrt(drift) - 1.0) <= NEAR,
            )
        before, value_before = max(kl, 0.0), value
    return None


def _root(kl: float) -> float:
    """The root of a KL; an estimate below 0 is noise about 0."""
    return math.sqrt(max(kl, 0.0))
