"""A study's knobs as Optuna's parameters and distributions, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    _get_single_value,
)
from optuna.trial import FrozenTrial

from studies.design.points import (
    ADAPTIVE,
    Axis,
    Config,
    config_of_knobs,
    knobs_of,
    to_knobs,
)
from studies.losses.simplex import simplex_unit, weight_names, weights_from_knobs
from studies.records import Scalar
from studies.spec import FloatRange, IntRange, ResolvedVariant, StudySpec, Values

# Knobs that mean the same for every loss, beside the adapter's shape.
_SHARED_KNOBS = ("learning_rate",)


# Variant and config: what a stratum tries once.
Place = tuple[str, Config]


def optuna_name(spec: StudySpec, arm: ResolvedVariant, knob: str) -> str:
    """The knob's name in Optuna: in `mode: search` a knob of the loss is the variant's own (`ipo.beta` is another
    quantity than `sigmoid.beta`), while the learning rate and the adapter's shape are shared.
    """
    if spec.mode != "search":
        return knob
    loss_knob = not (knob in _SHARED_KNOBS or knob.startswith("lora_") or "weight_decay" in knob)
    return f"{arm.name}.{knob}" if loss_knob else knob


def to_distribution(axis: Axis) -> BaseDistribution:
    match axis.distribution:
        case FloatRange(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
        case IntRange(low=low, high=high, log=log):
            return IntDistribution(low, high, log=log)
        case Values(values=values):
            return CategoricalDistribution(values)


def holding(distribution: BaseDistribution | None, value: Scalar) -> BaseDistribution | None:
    """A distribution of the same kind that holds `value`: the axis's own where it can, else one of a single point.

    Optuna allows another range per trial, but not another kind or other choices: None for a value that cannot be
    a param (text outside of the axis's choices).
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution if value in distribution.choices else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(distribution, IntDistribution) and isinstance(value, int):
        inside = distribution.low <= value <= distribution.high
        return distribution if inside else IntDistribution(value, value, log=distribution.log)
    if isinstance(distribution, FloatDistribution):
        inside = distribution.low <= value <= distribution.high
        return distribution if inside else FloatDistribution(value, value, log=distribution.log)
    return FloatDistribution(value, value) if distribution is None else None


def write_params(asked: optuna.trial.Trial, name: str, distribution: BaseDistribution, value: Scalar) -> None:
    """Make `value` a param of the trial, if it is not there yet from an earlier sweep."""
    if name not in asked.params:
        internal = distribution.to_internal_repr(value)
        asked.storage.set_trial_param(asked._trial_id, name, internal, distribution)
        asked._cached_frozen_trial.params[name] = value


def relative_space(asked: optuna.trial.Trial, *, again: bool) -> Mapping[str, Any]:
    """What the sampler chooses together for the knobs that all trials have; `again`: anew."""
    first = asked.relative_params
    if not again:
        return first
    return asked.study.sampler.sample_relative(
        asked.study, asked._cached_frozen_trial, asked.relative_search_space or {}
    )


def draw_params(
    asked: optuna.trial.Trial, relative: Mapping[str, Any], name: str, distribution: BaseDistribution
) -> Scalar:
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


def place_of(arms: Mapping[str, ResolvedVariant], frozen: FrozenTrial) -> Place:
    """The variant and config of a trial; one that was killed before it had any is like no other."""
    about = about_trial(frozen)
    if about["variant"] not in arms:
        return "", frozenset({("number", frozen.number)})
    arm = arms[about["variant"]]
    return arm.name, config_of_knobs(arm, knobs_of(arm, about))


def params_of(arm: ResolvedVariant, knobs: Mapping[str, Scalar]) -> dict[str, Any]:
    """A trial's params from its knobs, with these beside them where rounding lies between the two."""
    params, names = dict(knobs), weight_names(arm.losses)
    weights = weights_from_knobs(arm.losses, knobs) if "loss_weights" in arm.space else None
    if weights is not None:
        params |= dict(zip(names, simplex_unit(weights), strict=True))
    return {"params": params} | ({"knobs": dict(knobs)} if to_knobs(arm, params) != knobs else {})


def about_trial(frozen: FrozenTrial) -> dict[str, Any]:
    text = frozen.user_attrs.get("trial")
    return json.loads(text) if text else {"origin": ADAPTIVE, "variant": "", "params": {}}
