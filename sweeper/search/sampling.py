"""What Optuna's sampler chooses for a trial, no config twice, and what is written down as the trial's params."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, _get_single_value

from studies.design.points import axes, config_of
from studies.records import Scalar
from studies.spec import StudySpec
from sweeper.search.optuna_params import holding, optuna_name, to_distribution
from sweeper.search.remaining import adaptive_phase
from sweeper.search.strata import Stratum

_DRAWS = 8  # of the sampler, where it suggests what was tried already


def suggest(
    spec: StudySpec, stratum: Stratum, asked: optuna.trial.Trial, paused: Collection[str]
) -> dict[str, Any] | None:
    """Let the sampler choose what was not tried: in `mode: search` the variant first, then that variant's knobs.

    Where it chooses what was tried it is asked again, and after some draws the next untried point is taken. None where
    the space holds none.
    """
    left, free = stratum.left, stratum.left.free(paused)
    if not free:
        return None
    late = stratum.late(free)
    other = left.turn_of(asked.number, free) if late is None else late
    may_draw = spec.mode == "search" and not paused and late is None
    last: tuple[str, Mapping[str, Scalar]] = (other, {})
    for draw in range(_DRAWS):
        relative, variant = _relative_space(asked, again=draw > 0), other
        if may_draw:
            drawn = str(_draw(asked, relative, "variant", CategoricalDistribution(list(stratum.arms))))
            variant = drawn if drawn in free else other
        arm = stratum.arms[variant]
        params = {
            axis.name: _draw(asked, relative, optuna_name(spec, arm, axis.name), to_distribution(axis))
            for axis in axes(spec, arm)
        }
        if (variant, config_of(arm, params)) not in left.tried:
            return {"origin": adaptive_phase(spec), "variant": variant, "params": params}
        last = variant, params
    for variant in dict.fromkeys([last[0], *free]):
        near = left.untried(variant, near=last[1] if variant == last[0] else {})
        if near is not None:
            return {"origin": adaptive_phase(spec), "variant": variant, "params": near}
    return None


def write_down(spec: StudySpec, stratum: Stratum, asked: optuna.trial.Trial, about: Mapping[str, Any]) -> None:
    """Make a point that we chose visible to Optuna (its samplers, its dashboard) as the trial's params."""
    arm = stratum.arms[about["variant"]]
    if spec.mode == "search":
        _write(asked, "variant", CategoricalDistribution(list(stratum.arms)), arm.name)
    space = {axis.name: to_distribution(axis) for axis in axes(spec, arm)}
    for name, value in about["params"].items():
        distribution = holding(space.get(name), value)
        if distribution is not None:
            _write(asked, optuna_name(spec, arm, name), distribution, value)


def _write(asked: optuna.trial.Trial, name: str, distribution: BaseDistribution, value: Scalar) -> None:
    """Make `value` a param of the trial, if it is not there yet from an earlier sweep."""
    if name not in asked.params:
        internal = distribution.to_internal_repr(value)
        asked.storage.set_trial_param(asked._trial_id, name, internal, distribution)
        asked._cached_frozen_trial.params[name] = value


def _relative_space(asked: optuna.trial.Trial, *, again: bool) -> Mapping[str, Any]:
    """What the sampler chooses together for the knobs that all trials have; `again`: anew."""
    first = asked.relative_params
    if not again:
        return first
    return asked.study.sampler.sample_relative(
        asked.study, asked._cached_frozen_trial, asked.relative_search_space or {}
    )


def _draw(asked: optuna.trial.Trial, relative: Mapping[str, Any], name: str, distribution: BaseDistribution) -> Scalar:
    """The sampler's value for `name` as `Trial.suggest_*` finds it, which would write it down for good."""
    value: Scalar
    if name in asked.params:
        value = asked.params[name]
    elif distribution.single():
        value = _get_single_value(distribution)
    elif name in relative and distribution._contains(distribution.to_internal_repr(relative[name])):
        value = relative[name]
    else:
        value = asked.study.sampler.sample_independent(asked.study, asked._cached_frozen_trial, name, distribution)
    return value
