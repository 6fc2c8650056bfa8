"""How many trials and runs a study plans. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from studies.design.points import joint_quota, quota
from studies.records.world_units import source_of
from studies.spec import ResolvedVariant, StudySpec, arms_in, in_scenario


def planned_trials(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> int:
    """How many trials a scenario has in all, where `spec` and `arms` are those of the scenario."""
    if spec.mode == "search":
        return joint_quota(spec, arms)
    return sum(quota(spec, arm) for arm in arms.values())


def planned_runs(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> int:
    """How many runs the whole study has, the confirm phase included: with KL budgets as many as there can be, since
    one trial may be the best at several.
    """
    return sum(runs_in(spec, arms, name) for name in spec.scenarios)


def planned_confirm_runs(spec: StudySpec, arms: Mapping[str, ResolvedVariant], scenario: str) -> int:
    """How many runs the confirm phase of a scenario has at most."""
    own, here = in_scenario(spec, scenario), arms_in(spec, arms, scenario)
    if own.confirm is None:
        return 0
    most = len(own.confirm.kl) or own.confirm.top
    chosen = sum(min(most, quota(own, arm)) for arm in here.values())
    return chosen * len(own.confirm.blocks) * len(own.confirm.seeds)


def runs_in(spec: StudySpec, arms: Mapping[str, ResolvedVariant], scenario: str) -> int:
    own, here = in_scenario(spec, scenario), arms_in(spec, arms, scenario)
    each = len(own.runs.blocks) * len(own.runs.seeds)
    return planned_trials(own, here) * each + planned_confirm_runs(spec, arms, scenario)


def pairs_source(spec: StudySpec) -> str:
    """Where the numbers come from, as `dashboards.statistics.scale` wants it: another trainer's gold has no unit."""
    return source_of(spec.data) if spec.trainer == "dpo" else spec.trainer
