"""How long a step takes with each variant: from the loss alone, which is decided in seconds, and from whole steps,
which is the check. Knows no study and no process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Final

from studies.records.speed import Ratio, Timings
from trainers.speed.bench import Bench
from trainers.speed.rounds import Clock, Task, Times, by_difference, by_ratio, one_round

LOSS_SECONDS: Final = 12.0
STEP_SECONDS: Final = 3.0
"""Of measuring: the loss, and whole steps of the baseline. A step that takes longer than that is measured twice."""
CHECK_SECONDS: Final = 1800.0
NARROW: Final = 0.001
"""The half width of an interval, of a step, at which it is narrow enough."""
_WARM_UPS, _FEWEST, _EACH = 3, 50, 25
_MOST_STEPS: Final = 30
_AGAIN: Final = " again"  # no variant's name has a space

Say = Callable[[str, float | None], None]
"""Hears what is measured, and how many seconds are left of it at most."""


def step_seconds(bench: Bench, baseline: str, clock: Clock) -> float:
    """Of a whole step of the baseline: the fastest of each of its parts that was seen."""
    part = bench.micro_batch(baseline, bench.batches[0])
    part()
    bench.update()
    began, parts, updates = time.monotonic(), list[float](), list[float]()
    while len(parts) < _MOST_STEPS and (len(parts) < 2 or time.monotonic() - began < STEP_SECONDS):
        parts.append(clock(part))
        updates.append(clock(bench.update))
    return bench.together * min(parts) + min(updates)


def time_losses(
    tasks: Mapping[str, Task], baseline: str, part: float, clock: Clock, say: Say, most: float = LOSS_SECONDS
) -> Timings:
    """From tasks that compute the loss of a micro-batch, for which a step takes `part` seconds: in rounds, until every
    interval is narrow or `most` seconds are over.
    """

    def found(rounds: Sequence[Times]) -> dict[str, Ratio]:
        return {name: by_difference(rounds, name, baseline, part) for name in rounds[0] if name != baseline}

    def enough(rounds: Sequence[Times]) -> bool:
        if len(rounds) < _FEWEST or len(rounds) % _EACH:
            return False
        return all(ratio.high - ratio.low < 2 * NARROW for ratio in found(rounds).values())

    return _timed(lambda _: tasks, baseline, found, enough, clock, partial(say, "the losses alone"), most)


def time_steps(
    tasks: Callable[[int], Mapping[str, Task]],
    baseline: str,
    number: int,
    clock: Clock,
    say: Say,
    most: float = CHECK_SECONDS,
) -> Timings:
    """From whole steps: so many rounds, or as many as `most` seconds allow. `tasks`: of each round."""

    def found(rounds: Sequence[Times]) -> dict[str, Ratio]:
        return {name: by_ratio(rounds, name, baseline) for name in rounds[0] if name != baseline}

    def enough(rounds: Sequence[Times]) -> bool:
        return len(rounds) >= number

    return _timed(tasks, baseline, found, enough, clock, partial(say, f"{number} rounds of whole steps"), most, number)


def _timed(
    tasks: Callable[[int], Mapping[str, Task]],
    baseline: str,
    found: Callable[[Sequence[Times]], dict[str, Ratio]],
    enough: Callable[[Sequence[Times]], bool],
    clock: Clock,
    say: Callable[[float], None],
    most: float,
    number: int | None = None,
) -> Timings:
    """Rounds of all tasks, with the baseline's a second time under a name of its own, until there are enough."""
    null, draw, rounds = f"{baseline}{_AGAIN}", Random(0), list[Times]()

    def arms(of: int) -> dict[str, Task]:
        own = tasks(of)
        return {**own, null: own[baseline]}

    for _ in range(_WARM_UPS):
        one_round(arms(0), clock, draw)
    began = time.monotonic()
    with _without_collection():
        while not rounds or (not enough(rounds) and time.monotonic() - began < most):
            passed = time.monotonic() - began
            left = most - passed if number is None or not rounds else passed / len(rounds) * (number - len(rounds))
            say(min(left, most - passed))
            rounds.append(one_round(arms(len(rounds)), clock, draw))
    ratios = found(rounds)
    return Timings(null=ratios.pop(null), ratios=ratios, rounds=len(rounds), seconds=time.monotonic() - began)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Without the garbage collection that whichever task happens to run would pay for."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
