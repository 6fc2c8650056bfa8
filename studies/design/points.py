"""The points that a stratum tries where they do not depend on results: fixed, Sobol, grid, random; each config once.

Pure: knows nothing of Optuna, stores or training. All variants share the same numbers on the same axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.design.sobol import scrambled_sobol
from studies.losses.simplex import simplex_weights, weight_names
from studies.records import Scalar
from studies.spec import (
    MOST_AXES,
    Distribution,
    FloatRange,
    IntRange,
    ResolvedVariant,
    Simplex,
    StudySpec,
    Values,
    knob_settings,
)

# The arms of the design that a trial can belong to; the confirm phase is a fourth.
FIXED, UNBIASED, ADAPTIVE, CONFIRM = "fixed", "unbiased", "tpe", "confirm"

Config = frozenset[tuple[str, Scalar | tuple[float, ...]]]
"""What a trial sets other than its arm does: equal for two points that train the same."""

_ROWS = 256  # that are drawn at once
_BARREN = 1024  # rows without a new config after which a finite space is gone through in order


@dataclass(frozen=True)
class Axis:
    """One number of a point: its name (`beta`, `loss_weights.ipo`), its distribution and its column."""

    name: str
    distribution: FloatRange | IntRange | Values
    column: int


@dataclass(frozen=True)
class Point:
    """A point to try: `params` by axis name, as Optuna sees them, and which arm of the design it belongs to."""

    phase: str
    params: Mapping[str, Scalar]


def axes(spec: StudySpec, arm: ResolvedVariant) -> tuple[Axis, ...]:
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


def config_of(arm: ResolvedVariant, params: Mapping[str, Scalar]) -> Config:
    """The config that a point of the arm is, see `config_of_knobs`."""
    return config_of_knobs(arm, to_knobs(arm, params))


def config_of_knobs(arm: ResolvedVariant, knobs: Mapping[str, Scalar]) -> Config:
    """The config that a trial's knobs are. A knob that says what the arm says anyway makes no other config."""
    said = knob_settings(arm, knobs).items()
    other = [(name, value) for name, value in said if name not in arm.settings or arm.settings[name] != value]
    return frozenset((name, tuple(value) if isinstance(value, list) else value) for name, value in other)


def planned_points(spec: StudySpec, arm: ResolvedVariant) -> tuple[Point, ...]:
    """Every point of the arm that is known before any result: fixed points first, then the sampler's, no config twice.

    A fixed point that the sampler gives too is one of the sampler's, which so stay the same for all variants. With a
    larger budget the same points come first. Points of `tpe` are not known; `sobol+tpe` gives its first half.
    """
    fixed = _distinct(arm, (Point(FIXED, dict(point)) for point in arm.points))
    over = axes(spec, arm)
    if not over:
        return tuple(fixed.values()) or (Point(FIXED, {}),)
    sampled = _distinct(arm, _grid(spec, over)) if spec.sampler == "grid" else _sampled(spec, arm, over)
    first = [sampled.get(config, point) for config, point in fixed.items()]
    return (*first, *(point for config, point in sampled.items() if config not in fixed))


def quota(spec: StudySpec, arm: ResolvedVariant) -> int:
    """How many trials a stratum of this arm gets in all; each is another config."""
    if not arm.space or spec.sampler == "grid":
        return len(planned_points(spec, arm))
    if not arm.points:
        return int(min(spec.budget.trials, size_of(axes(spec, arm))))
    adaptive = spec.budget.trials - _sampled_count(spec)
    return held(spec, arm, most=len(planned_points(spec, arm)) + adaptive)


def joint_quota(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> int:
    """How many trials `mode: search` gets in all over these arms; each is another config."""
    most = spec.budget.trials + sum(len({config_of(arm, p) for p in arm.points}) for arm in arms.values())
    return min(most, sum(held(spec, arm, most) for arm in arms.values()))


def held(spec: StudySpec, arm: ResolvedVariant, most: int) -> int:
    """How many configs the arm's fixed points and its space hold together, counted no further than `most`."""
    over = axes(spec, arm)
    if size_of(over) > most:
        return most
    return min(most, len({config_of(arm, params) for params in (*arm.points, *all_points(arm, over))}))


def size_of(over: Iterable[Axis]) -> float:
    """How many points the axes span; infinity where one of them is continuous."""
    return math.prod(_size(axis.distribution) for axis in over)


def _size(distribution: FloatRange | IntRange | Values) -> float:
    match distribution:
        case Values(values=values):
            return len(values)
        case IntRange(low=low, high=high):
            return high - low + 1
        case FloatRange():
            return math.inf


def all_points(
    arm: ResolvedVariant, over: Sequence[Axis], near: Mapping[str, Scalar] | None = None
) -> Iterator[dict[str, Scalar]]:
    """Every point of the arm's space, from `near` on and the last axis changing first. A continuous axis stays where
    `near` has it, or in its middle. Without axes it is one point, or none where the arm has fixed points.
    """
    if over or not arm.points:
        yield from _combined(over, near or {})


def _combined(over: Sequence[Axis], near: Mapping[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    if not over:
        yield {}
        return
    for value in _values(over[0], near):
        for rest in _combined(over[1:], near):
            yield {over[0].name: value, **rest}


def _values(axis: Axis, near: Mapping[str, Scalar]) -> Iterable[Scalar]:
    """The values of an axis in order, from that of `near` on and then from the start."""
    match axis.distribution:
        case FloatRange():
            return [near.get(axis.name, value_at(axis.distribution, 0.5))]
        case IntRange(low=low, high=high):
            values: Sequence[Scalar] = range(low, high + 1)
        case Values(values=values):
            pass
    first = values.index(near[axis.name]) if axis.name in near and near[axis.name] in values else 0
    return itertools.chain(values[first:], values[:first])


def _distinct(arm: ResolvedVariant, points: Iterable[Point]) -> dict[Config, Point]:
    """The points by their config, the first of each, in their order."""
    found: dict[Config, Point] = {}
    for point in points:
        found.setdefault(config_of(arm, point.params), point)
    return found


def _sampled_count(spec: StudySpec) -> int:
    """How many points the sampler gives before any result."""
    return {"tpe": 0, "sobol+tpe": (spec.budget.trials + 1) // 2}.get(spec.sampler, spec.budget.trials)


def _sampled(spec: StudySpec, arm: ResolvedVariant, over: Sequence[Axis]) -> dict[Config, Point]:
    """The first distinct points of the sampler's sequence, as many as are asked for or there are."""
    size, corners = size_of(over), _corners(arm)
    wanted = min(_sampled_count(spec), size)
    found: dict[Config, Point] = {}
    barren, rows = 0, _rows(spec)
    for i in itertools.count():
        if len(found) >= wanted or barren == _BARREN:
            break
        row = next(rows)
        params = {axis.name: value_at(axis.distribution, float(row[axis.column])) for axis in over}
        before = len(found)
        params |= corners[i] if i < len(corners) else {}
        found.setdefault(config_of(arm, params), Point(UNBIASED, params))
        barren = 0 if len(found) > before else barren + 1
    if size < math.inf:  # what is left is listed: values of narrow intervals, which the sequence hits late
        for params in all_points(arm, over):
            if len(found) >= wanted:
                break
            found.setdefault(config_of(arm, params), Point(UNBIASED, params))
    return found


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


def to_knobs(arm: ResolvedVariant, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The knobs of a trial: its params, with the numbers that stand for a simplex made weights."""
    names = weight_names(arm.losses)
    if "loss_weights" not in arm.space or not all(n in params for n in names):
        return dict(params)
    weights = simplex_weights([_number(params[n]) for n in names])
    return {**params, **dict(zip(names, weights[1:], strict=True))}


def knobs_of(arm: ResolvedVariant, about: Mapping[str, Any]) -> Mapping[str, Scalar]:
    """The knobs of a trial as Optuna keeps what it is `about`: as recorded where its params were made of them."""
    knobs: Mapping[str, Scalar] = about.get("knobs") or to_knobs(arm, about["params"])
    return knobs


def _number(value: Scalar) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a loss weight must be a number, got {value!r}")
    return float(value)


def _corners(arm: ResolvedVariant) -> list[dict[str, Scalar]]:
    """For each loss of a mixture with `corners`, the numbers at which it has all the weight.

    A number of 1 gives all that is left to that loss, see `studies.losses.simplex.simplex_weights`.
    """
    distribution = arm.space.get("loss_weights")
    if not isinstance(distribution, Simplex) or not distribution.corners:
        return []
    names = weight_names(arm.losses)
    pure = [dict.fromkeys(names, 0.0)]
    pure += [{n: float(n == name) for n in names} for name in names]
    return [dict(point) for point in pure]


def _rows(spec: StudySpec) -> Iterator[np.ndarray]:
    """The sampler's sequence, rows of MOST_AXES numbers in [0, 1): pseudo-random, or a scrambled Sobol sequence."""
    if spec.sampler == "random":
        draw = np.random.default_rng(spec.sampler_seed)
        while True:
            yield from draw.random((_ROWS, MOST_AXES))
    yield from scrambled_sobol(MOST_AXES, spec.sampler_seed)


def _grid(spec: StudySpec, over: Sequence[Axis]) -> tuple[Point, ...]:
    """All combinations of listed values, in an order shuffled by the sampler seed so that a stop is fair."""
    lists = [axis.distribution.values for axis in over if isinstance(axis.distribution, Values)]
    combinations = list(itertools.product(*lists))
    order = np.random.default_rng(spec.sampler_seed).permutation(len(combinations))
    limit = spec.budget.trials if "trials" in spec.budget.model_fields_set else len(combinations)
    names = [axis.name for axis in over]
    return tuple(Point(UNBIASED, dict(zip(names, combinations[i], strict=True))) for i in order[:limit])
