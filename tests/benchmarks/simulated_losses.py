"""Losses made of surfaces, tasks that move them, and the two designs that tune and judge them; all at once by numpy.

Needs no model and no store. A loss is a surface over (log rate, log strength) with its own best place, width and cliff.
In a new task its best place, its cliff and its worth move. A run differs from what it truly is by its draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from dashboards.statistics.estimates import Floats

Bools = npt.NDArray[np.bool_]

TOP = 0.55  # U that a loss gains at its best setting
DRAW = 0.02  # standard deviation of a run by its draw, U
WORTH = 0.015  # of a loss's worth by task, beside what the move of its best place costs, U
PLACE = 0.07  # of its best place and its cliff by task, in widths of the box
OLD_TASKS, OLD_TUNED, OLD_JUDGED = 6, 2, 18
MOST_POINTS = 16


@dataclass(frozen=True)
class Loss:
    """A surface over the box of learning rate and strength, both 0 to 1.

    Gains fall with the square of the distance from the best place, in `width`s, beyond a plateau of `flat` widths;
    beyond `cliff` on the rate's axis runs break. `stretch`: how many times the range of strengths is what it was.
    """

    name: str
    place: tuple[float, float]
    width: float
    flat: float
    cliff: float
    stretch: float = 1.0


AS_RECORDED = (
    Loss("sigmoid", (0.50, 0.50), 0.36, 0.50, 0.92),
    Loss("ipo", (0.40, 0.60), 0.45, 0.30, 0.87),
    Loss("hinge", (0.60, 0.40), 0.36, 0.50, 0.80),
    Loss("bco_pair", (0.50, 0.50), 0.70, 0.25, 1.20),
    Loss("sppo_hard", (0.60, 0.55), 0.65, 0.25, 1.20),
    Loss("robust", (0.45, 0.40), 0.30, 0.70, 0.85),
)
"""Of the box .23 to .49 lie within 10 % of the best, a random setting gains .23 to .47 U, and tuned losses differ by a
paired .04 U over draws, as `studies/results/guide-small` recorded.
"""
STEEP = (
    Loss("sigmoid", (0.55, 0.50), 0.50, 0.0, 0.90),
    Loss("ipo", (0.40, 0.60), 0.50, 0.0, 0.85),
    Loss("hinge", (0.60, 0.40), 0.40, 0.0, 0.80),
    Loss("bco_pair", (0.50, 0.50), 0.60, 0.4, 1.20),
    Loss("sppo_hard", (0.65, 0.55), 0.60, 0.2, 1.10),
    Loss("robust", (0.50, 0.35), 0.35, 0.1, 0.85),
)
"""Narrow peaks: a twentieth to a twelfth of the box within 10 % of the best, so that tuning is mostly luck."""


def scrambles(count: int, seed: int) -> Floats:
    """Scrambled Sobol sets of 16 points [count, 16, 2]; their first 4 and 8 are sets of their own."""
    draws = np.random.default_rng(seed)
    return np.stack([qmc.Sobol(2, scramble=True, seed=draws).random(MOST_POINTS) for _ in range(count)])


@dataclass(frozen=True)
class Task:
    """What a loss is like in tasks [...]: where its best place and its cliff moved, and what it is worth more."""

    place: Floats
    cliff: Floats
    worth: Floats


def tasks(draws: np.random.Generator, shape: tuple[int, ...]) -> Task:
    """Tasks drawn at random."""
    return Task(draws.normal(0.0, PLACE, (*shape, 2)), draws.normal(0.0, PLACE, shape), draws.normal(0.0, WORTH, shape))


def surface(loss: Loss, task: Task, points: Floats) -> tuple[Floats, Bools]:
    """What a loss truly gains at points [..., n, 2] of tasks [...], and whether it breaks there."""
    stretched = np.stack([points[..., 0], 0.5 + loss.stretch * (points[..., 1] - 0.5)], axis=-1)
    apart = np.linalg.norm(stretched - np.array(loss.place) - task.place[..., None, :], axis=-1) / loss.width
    gains: Floats = TOP * (1.0 - np.maximum(apart - loss.flat, 0.0) ** 2) + task.worth[..., None]
    return gains, points[..., 0] > loss.cliff + task.cliff[..., None]


def replicated(draws: np.random.Generator, loss: Loss, task: Task, points: Floats) -> Floats:
    """What the loss, tuned in each replicate by its points [..., n, 2], is judged as [...]; NaN where all broke."""
    gains, broke = surface(loss, task, points)
    tuned = np.where(broke, -np.inf, gains + draws.normal(0.0, DRAW, gains.shape))
    chosen = np.take_along_axis(gains, tuned.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    judged = chosen + draws.normal(0.0, DRAW, chosen.shape)
    return np.where(broke.all(axis=-1), np.nan, judged)


def once(draws: np.random.Generator, loss: Loss, task: Task, points: Floats) -> Floats:
    """The old design: one set of points [repeats, n, 2] chosen from on two draws and judged on 18 [repeats, 18].

    `task`: [repeats, 6]. NaN where the chosen setting broke, everywhere where each setting broke.
    """
    gains, broke = surface(loss, task, np.repeat(points[:, None], OLD_TASKS, axis=1))
    tuned = gains[:, :OLD_TUNED] + draws.normal(0.0, DRAW, gains[:, :OLD_TUNED].shape)
    fit = np.where(broke[:, :OLD_TUNED].any(axis=1), -np.inf, tuned.mean(axis=1))
    best = fit.argmax(axis=-1)[:, None, None]
    of = np.arange(OLD_TUNED, OLD_TUNED + OLD_JUDGED) % OLD_TASKS
    chosen, fell = (np.take_along_axis(of_all, best, axis=-1)[:, of, 0] for of_all in (gains, broke))
    judged = chosen + draws.normal(0.0, DRAW, chosen.shape)
    return np.where(fell | np.isinf(fit).all(axis=-1)[:, None], np.nan, judged)


@dataclass(frozen=True)
class Design:
    """`replicates` of `points`; None: the old one."""

    points: int
    replicates: int | None

    @property
    def name(self) -> str:
        """As tables have it."""
        if self.replicates is None:
            return f"old: {self.points} points once, {OLD_TUNED} + {OLD_JUDGED} draws of {OLD_TASKS} tasks"
        return f"n {self.points}, R {self.replicates}"

    @property
    def runs(self) -> int:
        """What a loss costs."""
        if self.replicates is None:
            return self.points * OLD_TUNED + OLD_JUDGED
        return self.replicates * (self.points + 1)


def simulated(
    design: Design, losses: Iterable[Loss], repeats: int, pool: Floats, seed: int, own: bool = False
) -> Floats:
    """What each loss is judged as in each replicate [repeats, replicates, losses].

    `own`: whether each is the same loss in the same tasks by a set of points of its own, as in a control of a loss
    against itself; else losses share points and differ by task.
    """
    draws = np.random.default_rng(seed)
    run = replicated if design.replicates else once
    shape = (repeats, design.replicates or OLD_TASKS)
    sets = shape if design.replicates else (repeats,)
    shared, task = draws.integers(0, len(pool), sets), tasks(draws, shape)
    judged = []
    for loss in losses:
        points = pool[draws.integers(0, len(pool), sets) if own else shared][..., : design.points, :]
        judged.append(run(draws, loss, task if own else tasks(draws, shape), points))
    return np.stack(judged, axis=-1)


def worth(design: Design, losses: Iterable[Loss], repeats: int, pool: Floats, seed: int, own: bool = False) -> Floats:
    """Expected gain of each loss [losses] once tuned as the design does, by brute force."""
    wide = replace(design, replicates=design.replicates and 1)
    means: Floats = np.nanmean(simulated(wide, losses, repeats, pool, seed, own), axis=(0, 1))
    return means
