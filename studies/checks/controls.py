"""Checks what a study expects of its controls, and that it can test the claims that it names; knows no results."""

from __future__ import annotations

from math import isfinite

from studies.losses.guide import (
    BY_ID,
    FEWEST_CHECKPOINTS,
    Claim,
    FallsLess,
    Gains,
    LessDrift,
    LosesLess,
    Matches,
    SuitsAnother,
    TellsApart,
)
from studies.losses.rules import suggest
from studies.records import EMBEDDED_GPT2
from studies.schema.knob_problems import Problem
from studies.schema.scenarios import model_of
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


def claim_problems(spec: StudySpec) -> list[Problem]:
    """Every claim of the guide that the study names and cannot test, with the first thing that it lacks."""
    problems = []
    for i, name in enumerate(spec.claims):
        claim = BY_ID.get(name)
        if claim is None:
            text = f"{name!r} is no claim of the guide{suggest(name, BY_ID)}; there are {', '.join(BY_ID)}"
        else:
            text = _lacks(spec, claim)
        problems += [Problem(f"claims.{i}", text)] if text else []
    return problems


def _lacks(spec: StudySpec, claim: Claim) -> str:
    """What the study lacks to test a claim, "" where nothing."""
    if claim.test is None:
        return f"{claim.id} has no test in a study ({claim.reason}): leave it out"
    if spec.replicates is None:
        return f"{claim.id} is tested over replicates: give their number, such as replicates: 12"
    if spec.baseline is None:
        return f"{claim.id} is tested beside a baseline: name one"
    if claim.loss not in spec.variants:
        return f"{claim.id} needs a variant named {claim.loss}"
    if spec.baseline != "sigmoid":
        return f"{claim.id} is about sigmoid beside it: make that the baseline"
    fixed = not spec.space and all(variant.points and not variant.space for variant in spec.variants.values())
    metric, at_drift = spec.objective.metric, spec.objective.at_drift
    flips = {scenario.label_flip or 0.0 for scenario in spec.scenarios.values()}
    writers = {scenario.pairs_from for scenario in spec.scenarios.values()}
    models = {model_of(spec, scenario) for scenario in spec.scenarios.values()}
    match claim.test:
        case FallsLess() | LosesLess() | Gains() if not fixed:
            return f"{claim.id} compares the same settings: give every variant points, and no space"
        case FallsLess() if len(set(spec.evaluation.at)) < FEWEST_CHECKPOINTS:
            return f"{claim.id} reads a fall off {FEWEST_CHECKPOINTS} evaluations or more: give evaluate.at as many"
        case LosesLess() if not (0.0 in flips and len(flips) > 1):
            return f"{claim.id} needs a scenario with label_flip and one without"
        case LosesLess() | Gains() | Matches() | SuitsAnother() if at_drift is None or metric != "gold":
            return f"{claim.id} compares gold at equal drift: give objective: {{metric: gold, at_drift: 1.0}}"
        case TellsApart() if metric != "sign_accuracy" or at_drift is None:
            return f"{claim.id} is about sign_accuracy at equal drift: make it the objective, with at_drift"
        case LessDrift() if metric != "margin_share" or at_drift is None:
            return f"{claim.id} is about the drift of margin_share: make it the objective, with at_drift"
        case Matches() if not {"better", "worse"} <= writers:
            return f"{claim.id} needs a scenario with pairs_from: better and one with worse"
        case SuitsAnother() if not (len(models) > 1 and model_of(spec) in models):
            another = f"base: {{model_name_or_path: {EMBEDDED_GPT2}}}"
            return f"{claim.id} needs a scenario with the study's own model and one with another, as in {another}"
    return ""
