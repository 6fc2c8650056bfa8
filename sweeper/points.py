"""The points that a stratum tries where they do not depend on results: fixed, Sobol, grid, random.

Pure: knows nothing of Optuna, stores or training. All variants share the same numbers on the same axis.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from studies.losses import simplex_weights, weight_names
from studies.records import Scalar
from studies.spec import MOST_AXES, Arm, Distribution, FloatRange, IntRange, Simplex, StudySpec, Values

# The arms of the design that a trial can belong to; the confirm phase is a fourth.
FIXED, UNBIASED, ADAPTIVE, CONFIRM = "fixed", "unbiased", "tpe", "confirm"


@dataclass(frozen=True)
class Axis:
    """One number of a point: its name (`beta`, `loss_weights.ipo`), its distribution and its column."""

    name: str
    distribution: FloatRange | IntRange | Values
    column: int


@dataclass(frozen=True)
class Point:
    """A point to try: `params` by axis name, as Optuna sees them, and which arm of the design it belongs to."""

    origin: str
    params: Mapping[str, Scalar]


def axes(spec: StudySpec, arm: Arm) -> tuple[Axis, ...]:
    """The arm's axes. A knob of the study's shared space has the same column in every arm; own knobs follow."""
    found: list[Axis] = []
    own = len(spec.space)
    for name, distribution in arm.space.items():
        names = weight_names(arm.losses) if isinstance(distribution, Simplex) else [name]
        for axis in names:
            if name in spec.space and not isinstance(distribution, Simplex):
                column = list(spec.space).index(name)
            else:
                column, own = own, own + 1
            found.append(Axis(axis, _range(distribution), column))
    return tuple(found)


def _range(distribution: Distribution) -> FloatRange | IntRange | Values:
    return FloatRange(low=0.0, high=1.0) if isinstance(distribution, Simplex) else distribution


def planned_points(spec: StudySpec, arm: Arm) -> tuple[Point, ...]:
    """Every point of the arm that is known before any result: fixed points first, then the sampler's.

    With a larger budget the same points come first. Points of `tpe` are not known; `sobol+tpe` gives its first half.
    """
    fixed = tuple(Point(FIXED, dict(point)) for point in arm.points)
    over = axes(spec, arm)
    if not over:
        return fixed or (Point(FIXED, {}),)
    sampler = spec.sampler
    if sampler == "grid":
        return fixed + _grid(spec, over)
    count = {"tpe": 0, "sobol+tpe": (spec.budget.trials + 1) // 2}.get(sampler, spec.budget.trials)
    unit = _uniform(spec.sampler_seed, count) if sampler == "random" else _sobol(spec.sampler_seed, count)
    corners = _corners(arm)
    points = [Point(UNBIASED, {a.name: value_at(a.distribution, float(row[a.column])) for a in over}) for row in unit]
    return fixed + tuple(
        Point(p.origin, {**p.params, **corners[i]}) if i < len(corners) else p for i, p in enumerate(points)
    )


def quota(spec: StudySpec, arm: Arm) -> int:
    """How many trials a stratum of this arm gets in all."""
    if not arm.space or spec.sampler == "grid":
        return len(planned_points(spec, arm))
    return len(arm.points) + spec.budget.trials


def value_at(distribution: FloatRange | IntRange | Values, unit: float) -> Scalar:
    """The value at `unit` in [0, 1) of a distribution: its inverse cumulative distribution function."""
    if isinstance(distribution, Values):
        return distribution.values[min(int(unit * len(distribution.values)), len(distribution.values) - 1)]
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntRange):
        high = high + 1  # every whole number gets an interval of its own
    value = low * math.pow(high / low, unit) if distribution.log else low + unit * (high - low)
    if isinstance(distribution, IntRange):
        return min(int(value), distribution.high)
    return min(max(value, low), high)


def to_knobs(arm: Arm, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The knobs of a trial: its params, with the numbers that stand for a simplex made weights."""
    names = weight_names(arm.losses)
    if "loss_weights" not in arm.space or not all(n in params for n in names):
        return dict(params)
    weights = simplex_weights([_number(params[n]) for n in names])
    return {**params, **dict(zip(names, weights[1:], strict=True))}


def _number(value: Scalar) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a loss weight must be a number, got {value!r}")
    return float(value)


def _corners(arm: Arm) -> list[dict[str, Scalar]]:
    """For each loss of a mixture with `corners`, the numbers at which it has all the weight.

    A number of 1 gives all that is left to that loss, see `studies.losses.simplex_weights`.
    """
    distribution = arm.space.get("loss_weights")
    if not isinstance(distribution, Simplex) or not distribution.corners:
        return []
    names = weight_names(arm.losses)
    pure = [dict.fromkeys(names, 0.0)]
    pure += [{n: float(n == name) for n in names} for name in names]
    return [dict(point) for point in pure]


def _sobol(seed: int, count: int) -> np.ndarray:
    """`count` x MOST_AXES scrambled Sobol numbers in [0, 1); a prefix of every longer answer."""
    from scipy.stats import qmc  # takes .4 s to load, which tables need not wait for

    engine = qmc.Sobol(MOST_AXES, scramble=True, rng=np.random.default_rng(seed))
    with warnings.catch_warnings():  # a count that is no power of two is less balanced, which is said in the docs
        warnings.simplefilter("ignore", UserWarning)
        return np.asarray(engine.random(count)) if count else np.empty((0, MOST_AXES))


def _uniform(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, MOST_AXES))


def _grid(spec: StudySpec, over: Sequence[Axis]) -> tuple[Point, ...]:
    """All combinations of listed values, in an order shuffled by the sampler seed so that a stop is fair."""
    lists = [axis.distribution.values for axis in over if isinstance(axis.distribution, Values)]
    combinations = list(itertools.product(*lists))
    order = np.random.default_rng(spec.sampler_seed).permutation(len(combinations))
    limit = spec.budget.trials if "trials" in spec.budget.model_fields_set else len(combinations)
    names = [axis.name for axis in over]
    return tuple(Point(UNBIASED, dict(zip(names, combinations[i], strict=True))) for i in order[:limit])
