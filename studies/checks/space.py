"""Checks of spaces: what can be drawn from, what would do nothing."""

from __future__ import annotations

from collections.abc import Mapping

from studies.losses import rules, table
from studies.schema.knob_problems import Problem, name_problem
from studies.schema.types import (
    Distribution,
    FloatRange,
    IntRange,
    ResolvedVariant,
    Simplex,
    StudySpec,
    Values,
)
from studies.schema.variants import Built


def spaces(spec: StudySpec) -> list[Problem]:
    """Names and shapes of what is varied, shared and by variant."""
    problems = []
    if "space" in spec.model_fields_set and not spec.space:
        problems.append(Problem("space", "is empty: leave it out to compare fixed settings, or say what to vary"))
    for knob, distribution in spec.space.items():
        wrong = None if knob == "loss_weights" else name_problem(knob)
        problems += [Problem(f"space.{knob}", wrong)] if wrong else []
        problems += shape_problems(f"space.{knob}", distribution)
    for name, variant in spec.variants.items():
        for knob, own in variant.space.items():
            if own is not None and own != spec.space.get(knob):
                problems += shape_problems(f"variants.{name}.space.{knob}", own)
        if "points" in variant.model_fields_set and not variant.points:
            problems.append(Problem(f"variants.{name}.points", "is empty: leave it out, or give a point"))
    return problems


def shape_problems(path: str, distribution: Distribution) -> list[Problem]:
    if isinstance(distribution, Simplex):
        return []
    if isinstance(distribution, Values):
        if not distribution.values:
            return [Problem(f"{path}.values", "is empty: list the values to try")]
        double = [v for i, v in enumerate(distribution.values) if v in distribution.values[:i]]
        return [Problem(f"{path}.values", f"{double[0]!r} is there twice")] if double else []
    return _range_shape(path, distribution)


def _range_shape(path: str, distribution: FloatRange | IntRange) -> list[Problem]:
    low, high = distribution.low, distribution.high
    if not float("-inf") < low < float("inf") or not float("-inf") < high < float("inf"):
        return [Problem(path, f"low {low:g} and high {high:g} must be finite")]
    if low > high:
        return [Problem(path, f"low {low:g} is above high {high:g}: exchange them")]
    if low == high:
        return [Problem(path, f"low and high are both {low:g}: a fixed value belongs to base")]
    if distribution.log and low <= 0:
        return [Problem(path, f"low {low:g} must be above 0 on a log scale")]
    return []


def inert_base(spec: StudySpec, built: Mapping[str, Built]) -> list[Problem]:
    """Loss knobs of the shared base or space that act on no variant at all."""
    arms = [one.arm for one in built.values() if one.arm is not None]
    if not arms or len(arms) < len(built):
        return []
    problems = []
    for place, names in (("base", spec.base), ("space", spec.space)):
        for knob in names:
            reasons = [arm.left_out.get(knob) for arm in arms]
            overruled = any(
                knob in variant.base or variant.space.get(knob) is not None for variant in spec.variants.values()
            )
            unset = place == "base" and spec.base[knob] == table.DEFAULTS.get(knob)  # as a dump of all settings says it
            if all(reasons) and not (overruled or unset) and (knob in table.DEFAULTS or knob == "loss_weights"):
                if any(rules.acts(arm.losses, knob) for arm in arms):
                    continue
                problems.append(Problem(f"{place}.{knob}", f"acts on no variant of this study: {reasons[0]}"))
    return problems


def nothing_to_vary(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> list[Problem]:
    """Trials are asked for and no variant has anything to try."""
    asked = "trials" in spec.budget.model_fields_set and spec.budget.trials > 1
    if not arms or not asked or any(arm.space or len(arm.points) > 1 for arm in arms.values()):
        return []
    return [
        Problem(
            "budget.trials",
            f"{spec.budget.trials} trials are asked for and nothing is varied: say what to vary under space, give "
            "points, or leave trials out (more seeds of the same settings are runs: {seeds: [...]})",
        )
    ]
