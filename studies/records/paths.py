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
"""A drift K is read only where an evaluation lies within 30 % of it in the root of the KL, .49 K to 1.69 K. Left out
and read from its neighbours, an evaluation of the embedded world comes out low by .01 of what is possible where one of
them is within 15 %, by .025 within 30 %, by .065 within 50 % (`python -m tests.benchmarks.readings`).
"""

_STARTS: Mapping[str, float] = {
    "ranking_gain": 0.0,
    "margin": 0.0,
    "margin_share": 0.0,
    "accuracy": 0.5,
    "sign_accuracy": 0.5,
    "win_rate": 0.5,
    "lc_win_rate": 0.5,
}
READABLE = frozenset({"gold", *_STARTS})
"""Metrics whose value before training is known, so that they can be read between it and the first evaluation."""

Path = Sequence[tuple[int, float, float]]
"""(step, KL in nats a sequence, value) of every evaluation, by step."""


@dataclass(frozen=True)
class Reading:
    """A metric where a run first is `drift` nats a sequence from its start.

    `value`: along alpha d + beta d^2, with d the root of the KL, through the start and the two evaluations around the
    drift: the form that gold has against d (Gao et al., 2210.10760). Before the first evaluation it goes through the
    first two. `step`: of the evaluation nearest to the drift, where a user would stop, and what was measured there:
    `at_step`, `drift_at_step`. `is_near`: whether that is within `NEAR`; what is not near is no good reading.
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
    for i, (_, kl, value) in enumerate(path):
        if not (math.isfinite(kl) and math.isfinite(value)):
            return None
        if kl >= drift:
            around = path[i - 1 : i + 1] if i else path[: 2 if _goes_on(path) else 1]
            step, near, at_step = min(path[max(i - 1, 0) : i + 1], key=lambda at: abs(_root(at[1]) - math.sqrt(drift)))
            return Reading(
                drift=drift,
                value=_along(around, math.sqrt(drift), start),
                step=step,
                at_step=at_step,
                drift_at_step=near,
                is_near=abs(_root(near) / math.sqrt(drift) - 1.0) <= NEAR,
            )
    return None


def weights_at(path: Path, drift: float) -> Mapping[int, float] | None:
    """What each evaluation counts in `read_at` where it is near, by step, 0 being the start: the weights sum to 1. None
    where the run never gets to the drift, or no evaluation is near.
    """
    shape = [(step, kl, 0.0) for step, kl, _ in path]
    found = read_at(shape, drift, 0.0)
    if found is None or not found.is_near:
        return None
    ones = {step: [(s, kl, float(s == step)) for s, kl, _ in shape] for step, _, _ in shape}
    read = {step: reading.value for step, of in ones.items() if (reading := read_at(of, drift, 0.0)) is not None}
    weights = {step: weight for step, weight in read.items() if weight != 0.0}
    return {0: 1.0 - sum(weights.values()), **weights}


def _goes_on(path: Path) -> bool:
    """Whether the second evaluation is a number further from the start than the first."""
    return len(path) > 1 and path[1][1] > path[0][1] and math.isfinite(path[1][2])


def _along(around: Path, root: float, start: float) -> float:
    """The value at a root of the KL, through the start and one evaluation or two."""
    slopes = [(_root(kl), (value - start) / _root(kl)) for _, kl, value in around if _root(kl) > 0.0]
    if len(slopes) == 1:
        return start + slopes[0][1] * root
    (x, first), (y, second) = slopes
    bend = (second - first) / (y - x) if y != x else 0.0
    return start + root * (first + bend * (root - x))


def _root(kl: float) -> float:
    """The root of a KL; an estimate below 0 is noise about 0."""
    return math.sqrt(max(kl, 0.0))
