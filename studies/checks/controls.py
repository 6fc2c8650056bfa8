"""Checks what a study expects of its controls; knows no results."""

from __future__ import annotations

from math import isfinite

from studies.losses.rules import suggest
from studies.schema.knob_problems import Problem
from studies.schema.types import Expectation, StudySpec

# Objectives in which the untrained model is at 0, so that "no gain" can be read off the sign.
_FROM_ZERO = ("ranking_gain", "margin")


def expectation_problems(spec: StudySpec) -> list[Problem]:
    """Every expectation that could not be judged: of a variant that is not there, or in a unit without a zero."""
    problems = []
    for name, variant in spec.variants.items():
        expected, path = variant.expect, f"variants.{name}.expect"
        if expected is None:
            continue
        if spec.mode == "search":
            text = "a joint search chooses each variant's trials by results: a control needs mode: compare"
            problems.append(Problem(path, text))
        if (expected.outcome is None) == (expected.equals is None):
            problems.append(Problem(path, "needs one of the two: an outcome, such as inverted, or equals: VARIANT"))
            continue
        problems += _outcome(spec, expected, path) if expected.outcome else _equals(spec, name, expected, path)
    return problems


def _outcome(spec: StudySpec, expected: Expectation, path: str) -> list[Problem]:
    problems = []
    if "within" in expected.model_fields_set:
        problems.append(Problem(f"{path}.within", "is the tolerance of equals: VARIANT and does nothing here"))
    objective = spec.objective
    in_u = objective.metric == "gold" and spec.data.path == "embedded" and spec.trainer == "dpo"
    if expected.outcome == "no_gain" and not in_u:
        if objective.metric not in _FROM_ZERO:
            text = (
                f"a gain must be told from none, and {objective.metric} is not 0 for the untrained model: use "
                f"{', '.join(_FROM_ZERO)}, or gold of embedded data, as the objective"
            )
            problems.append(Problem(path, text))
        elif objective.tie_within is None:
            text = "no_gain is a mean below objective.tie_within, which is missing: say what gain would not matter"
            problems.append(Problem(path, text))
    return problems


def _equals(spec: StudySpec, name: str, expected: Expectation, path: str) -> list[Problem]:
    problems, other = [], expected.equals
    if other == name:
        problems.append(Problem(f"{path}.equals", f"{name} equals itself whatever comes out: name another variant"))
    elif other not in spec.variants:
        near = suggest(str(other), spec.variants)
        text = f"{other!r} is no variant{near}; there are {', '.join(spec.variants)}"
        problems.append(Problem(f"{path}.equals", text))
    elif not any(s.variants is None or {name, other} <= set(s.variants) for s in spec.scenarios.values()):
        problems.append(Problem(f"{path}.equals", f"no scenario has both {name} and {other}: add one to the other's"))
    if not (isfinite(expected.within) and expected.within >= 0.0):
        problems.append(Problem(f"{path}.within", f"{expected.within:g} must be 0, for exactly, or a small number"))
    if spec.sampler in ("tpe", "sobol+tpe"):
        text = f"{spec.sampler} chooses each variant's trials by its own results: use sobol, random, grid or points"
        problems.append(Problem(path, text))
    return problems
