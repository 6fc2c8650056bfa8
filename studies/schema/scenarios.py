"""What a study asks in one of its scenarios, where that has variants, trials, runs or settings of its own.

Pure: knows nothing of files, search or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.losses import rules, table
from studies.losses.free_settings import free_problems
from studies.losses.trl_settings import type_problem
from studies.records import EMBEDDED_MODELS
from studies.schema.knob_problems import Problem, name_problem
from studies.schema.replicates import in_cell
from studies.schema.types import ResolvedVariant, Scenario, StudySpec

_MODEL = "model_name_or_path"


def in_scenario(spec: StudySpec, scenario: str) -> StudySpec:
    """The study narrowed to one scenario: its number of trials, runs and confirm phase are those that hold there; of a
    replicate also its points.
    """
    own = spec.scenarios[scenario]
    changed: dict[str, Any] = {"scenarios": {scenario: own}}
    if own.trials is not None:
        changed["budget"] = spec.budget.model_copy(update={"trials": own.trials})
    if own.runs is not None:
        changed["runs"] = own.runs
    if own.confirm is not None:
        changed["confirm"] = own.confirm
    return in_cell(spec, scenario).model_copy(update=changed)


def model_of(spec: StudySpec, scenario: Scenario | None = None) -> str:
    """The model that a scenario trains, where it has one of its own, else the study's."""
    own = {} if scenario is None else scenario.base
    return str(own.get(_MODEL, spec.base.get(_MODEL)))


def arms_in(spec: StudySpec, arms: Mapping[str, ResolvedVariant], scenario: str) -> dict[str, ResolvedVariant]:
    """The arms that take part in a scenario, in the study's order."""
    chosen = spec.scenarios[scenario].variants
    return {name: arm for name, arm in arms.items() if chosen is None or name in chosen}


def scenario_problems(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> list[Problem]:
    """What is wrong with the variants, trials and settings that scenarios have of their own."""
    problems = []
    for name, scenario in spec.scenarios.items():
        path = f"scenarios.{name}"
        own = [key for key in ("variants", "trials", "runs", "confirm", "base") if getattr(scenario, key)]
        if spec.mode == "search" and own:
            problems.append(
                Problem(f"{path}.{own[0]}", "mode: search has one joint space for all scenarios: leave it out")
            )
        for i, variant in enumerate(scenario.variants or ()):
            if variant not in spec.variants:
                near = rules.suggest(variant, spec.variants)
                problems.append(
                    Problem(
                        f"{path}.variants.{i}", f"{variant!r} is no variant{near}; there are {_list(spec.variants)}"
                    )
                )
        if scenario.variants == ():
            problems.append(Problem(f"{path}.variants", "is empty: leave it out for all variants"))
        if scenario.trials is not None and scenario.trials < 1:
            problems.append(Problem(f"{path}.trials", f"{scenario.trials} must be at least 1"))
        for knob, value in scenario.base.items():
            wrong = _setting_problem(arms, knob, value)
            problems += [Problem(f"{path}.base.{knob}", wrong)] if wrong else []
            problems += [Problem(f"{path}.base.{inside}", text) for inside, text in free_problems(knob, value)]
    return problems


def _setting_problem(arms: Mapping[str, ResolvedVariant], knob: str, value: Any) -> str | None:
    """Why a scenario cannot set `knob` for every variant."""
    if knob in table.DEFAULTS or knob in ("loss_type", "loss_weights"):
        return "a scenario changes the data or the training, not the loss: give it to a variant or in base"
    models = [value, *(arm.settings.get(_MODEL) for arm in arms.values())]
    if knob == _MODEL and any(name not in EMBEDDED_MODELS for name in models):
        return f"a scenario can change an embedded model for another ({_list(EMBEDDED_MODELS)}), and no other model"
    varied = [name for name, arm in arms.items() if knob in arm.space or any(knob in point for point in arm.points)]
    if varied:
        return f"{value!r} is fixed here and varied by {_list(varied)}: keep one of the two"
    wrong = type_problem(knob, value) if name_problem(knob) is None else None
    return name_problem(knob) or (f"{value!r} {wrong}" if wrong else None)


def _list(names: Any) -> str:
    return ", ".join(names)
