"""How often the words of stability are said wrongly, and rightly; the surfaces of `simulated_losses`.

Part of `python -m tests.benchmarks.simulated_comparisons`. Breaks hang on the task: the cliff moves by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from dashboards.statistics.compare import ALPHA
from dashboards.statistics.estimates import Floats
from dashboards.statistics.replicated.breaks import mcnemar, score
from dashboards.statistics.replicated.stability import (
    BREAKS_WITHIN,
    MANY_BREAKS,
    MARGIN,
    Stability,
    StabilityWord,
    stability,
)
from tests.benchmarks.simulated_losses import AS_RECORDED, DRAW, PLACE, Bools, Design, Loss, surface, tasks

BASELINE_BREAKS = 0.15
CASES: Mapping[str, tuple[float, float]] = {
    "equal": (0.0, 0.0),
    "gains .10 less, breaks on 10 in 100 more": (-MARGIN, BREAKS_WITHIN),
    "breaks on 25 in 100 more": (0.0, MANY_BREAKS),
    "gains .15 more": (0.15, 0.0),
    "breaks on 50 in 100 more": (0.0, 0.5),
}
"""True differences of what a random setting gains, and of the share that breaks."""


def cliff_at(breaks: float, moves: float) -> float:
    """The cliff beyond which this share of the box breaks, over tasks that move it."""
    z = np.random.default_rng(0).normal(0.0, moves, 200_000)
    low, high = -1.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(1.0 - middle - z, 0.0, 1.0).mean() > breaks else (low, middle)
    return (low + high) / 2


def scored(draws: np.random.Generator, loss: Loss, points: Floats, moves: float) -> tuple[Floats, Bools]:
    """Scores of points [..., n, 2] in new tasks, with 0 for a broken or negative one, and which broke."""
    task = tasks(draws, points.shape[:-2])
    gains, broke = surface(loss, replace(task, cliff=task.cliff * moves / PLACE), points)
    return np.where(broke, 0.0, np.maximum(gains + draws.normal(0.0, DRAW, gains.shape), 0.0)), broke


def answers(
    design: Design, gain: float, breaks: float, moves: float, pool: Floats, repeats: int
) -> Iterator[Stability]:
    """What the project says of hinge against sigmoid, whose random settings gain `gain` more and break so much more.

    Hinge's scores are multiplied by what makes its true gain so, by brute force.
    """
    sigmoid = replace(AS_RECORDED[0], cliff=cliff_at(BASELINE_BREAKS, moves))
    hinge = replace(AS_RECORDED[2], cliff=cliff_at(BASELINE_BREAKS + breaks, moves))
    draws = np.random.default_rng(7)
    many = pool[draws.integers(0, len(pool), 100_000)][:, : design.points]
    its, mine = (scored(draws, loss, many, moves)[0].mean() for loss in (sigmoid, hinge))
    points = pool[draws.integers(0, len(pool), (repeats, design.replicates or 1))][..., : design.points, :]
    baseline, other = (scored(draws, loss, points, moves) for loss in (sigmoid, hinge))
    for repeat in range(repeats):
        scores = {
            "sigmoid": _numbered(baseline[0][repeat]),
            "hinge": _numbered(other[0][repeat] * ((its + gain) / mine)),
        }
        broke = {"sigmoid": _numbered(baseline[1][repeat]), "hinge": _numbered(other[1][repeat])}
        yield stability(scores, broke, "sigmoid")["hinge"]


def _numbered(values: Floats | Bools) -> dict[int, dict[int, Any]]:
    return {r: dict(enumerate(of)) for r, of in enumerate(values.tolist())}


def stability_table(pool: Floats, repeats: int) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a row for each design and for how much the cliff moves by task."""
    head = [
        "Design", "Cliff moves by", "False: gains differ", "gains at most .10 less", "gains less by more than .10",
        "breaks differ", "at most 10 in 100 more", "more than 25 in 100 more", "Good or Better said",
        "Better said", "Poor said",
    ]  # fmt: skip
    rows = []
    for design in (Design(4, 12), Design(8, 6), Design(8, 12), Design(8, 18), Design(16, 12)):
        for moves in (PLACE, 2 * PLACE):
            said = {case: list(answers(design, *true, moves, pool, repeats)) for case, true in CASES.items()}
            equal, edge, many, more, poor = said.values()
            rows.append(
                [
                    design.name,
                    f"{moves:.2f}",
                    _below([one.difference.p for one in equal]),
                    _below([one.p_not_worse for one in edge]),
                    _below([one.p_worse for one in edge]),
                    _both([one.breaks.p for one in equal], [mcnemar(*_alone(one)) for one in equal]),
                    _both(
                        [one.breaks.p_below(BREAKS_WITHIN) for one in edge],
                        [_points(one, BREAKS_WITHIN) for one in edge],
                    ),
                    _both(
                        [one.breaks.p_above(MANY_BREAKS) for one in many],
                        [1 - _points(one, MANY_BREAKS) for one in many],
                    ),
                    _said(equal, "Good", "Better"),
                    _said(more, "Better"),
                    _said(poor, "Poor"),
                ]
            )
    return head, rows


def _alone(found: Stability) -> tuple[int, int]:
    return found.breaks.alone, found.breaks.baseline_alone


def _points(found: Stability, limit: float) -> float:
    """Tango's p alone, that the difference is `limit` or more."""
    return float(special.ndtr(score(*_alone(found), found.breaks.pairs, limit)))


def _below(ps: list[float | None]) -> str:
    return at_most(float(np.mean([p is not None and p < ALPHA for p in ps])), len(ps))


def _both(ps: list[float | None], over_points: list[float | None]) -> str:
    """As it is said, and what points alone would say."""
    return f"{_below(ps)} ({_below(over_points)})"


def _said(found: list[Stability], *words: StabilityWord) -> str:
    return percent(float(np.mean([one.word in words for one in found])))


def percent(value: float) -> str:
    """A share as tables have it."""
    return f"{100 * value:.1f} %"


def at_most(value: float, repeats: int, target: float = 0.05) -> str:
    """A share, bold where it is above its target by more than two standard errors."""
    return bold(value, value > target + 2 * np.sqrt(target * (1 - target) / repeats))


def at_least(value: float, repeats: int, target: float = 0.93) -> str:
    """A share, bold where it is below its target by more than two standard errors."""
    return bold(value, value < target - 2 * np.sqrt(target * (1 - target) / repeats))


def bold(value: float, missed: bool) -> str:
    """A share as tables have it."""
    return f"**{percent(value)}**" if missed else percent(value)
