"""What makes runs and trials comparable: the question that they answer. Knows no Optuna and no store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from studies.design.measurers import asked_of
from studies.records import JUDGED, METRICS, RunConfig, digest
from studies.schema.contents import held
from studies.schema.replicates import as_in_file
from studies.schema.variants import possible, run_data
from studies.spec import ResolvedVariant, Scenario, Study, StudySpec, arms_in, in_scenario

CONTEXT = "context"
"""The attribute of an Optuna study in which format 1 kept what its trials answer and what their values are."""


class Stratum(NamedTuple):
    """What one Optuna study holds: a scenario's variant, or in `mode: search` all of its variants."""

    scenario: str
    arms: Mapping[str, ResolvedVariant]


def strata(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> dict[str, Stratum]:
    """The strata of the study by their names in Optuna. `arms`: all of its variants."""
    found: dict[str, Stratum] = {}
    for scenario in spec.scenarios:
        here = arms_in(spec, arms, scenario)
        groups = {"search": here} if spec.mode == "search" else {n: {n: a} for n, a in here.items()}
        found |= {f"{spec.study}/{name}/{scenario}": Stratum(scenario, members) for name, members in groups.items()}
    return found


def question_of(spec: StudySpec, scenario: str, arm: ResolvedVariant) -> str:
    """Digest of what all trials of a variant in a scenario share. Runs of another question are no answer to this one.

    The space belongs to it: points of an old range beside those of a new one would be unequal shares. So do the
    contents of data and model, where they are known, in place of their paths. Fixed points, blocks, seeds, the budget
    and the objective only extend, and who judges does not change what is trained. Defaults are left out, as in
    `RunConfig.key`: a field that comes later makes no other question of an old study.
    """
    settings = {**arm.settings, **spec.scenarios[scenario].base}
    data = run_data(spec.data, spec.scenarios[scenario], settings)
    config = RunConfig(
        study=spec.study,
        variant=arm.name,
        scenario=scenario,
        trial=0,
        block=0,
        seed=0,
        trainer=spec.trainer,
        settings=settings,
        knobs={},
        data=data,
        evaluation=spec.evaluation,
        balance=arm.balance,
        content=held(spec.contents, arm.settings, data),
    )
    space = {knob: distribution.model_dump(mode="json") for knob, distribution in arm.space.items()}
    rungs = spec.rungs and spec.rungs.model_dump(mode="json")
    seed = in_scenario(spec, scenario).sampler_seed
    parts = [config.key, space, spec.sampler, seed, rungs, dict(config.content)]
    if "model_name_or_path" in arm.space:
        models = possible(arm)["model_name_or_path"]
        parts.append({str(m): held(spec.contents, {**arm.settings, "model_name_or_path": m}, data) for m in models})
    return digest(parts)


def stratum_question(spec: StudySpec, scenario: str, arms: Mapping[str, ResolvedVariant]) -> str:
    """The question of all that one Optuna study holds: one variant, or in `mode: search` all of a scenario."""
    return digest({name: question_of(spec, scenario, arm) for name, arm in arms.items()})


def questions(study: Study) -> dict[tuple[str, str], str]:
    """The question of every (variant, scenario) of the study."""
    return {
        (variant.name, scenario): question_of(study.spec, scenario, variant) for variant, scenario in study.strata()
    }


def asked_of_files(study: Study) -> str:
    """Digest of all questions of the study, whatever its sources hold: of two that share it, either has the other's
    runs for its own.
    """
    spec = as_in_file(study.holding({}).spec)  # replicates only add runs, as trials do
    return digest({"/".join(place): question for place, question in questions(Study(spec, study.variants)).items()})


def goal_of(spec: StudySpec, evaluator: str | None = None) -> str:
    """Digest of what Optuna's values are: trials told by another goal must be told anew before TPE learns from them.

    Who measures belongs to it, and where gold is looked at, who judges. `evaluator`: another than this version's.
    """
    objective, asked = spec.objective, asked_of(spec)
    judged = [asked.judged.judge, asked.judged.content] if JUDGED & {objective.metric, *objective.constraints} else None
    read = [] if objective.at_drift is None else [objective.at_drift]
    return digest([objective.metric, objective.direction, evaluator or asked.measured.evaluator, judged, *read])


def context_of(spec: StudySpec, scenario: str, arms: Mapping[str, ResolvedVariant]) -> str:
    """What format 1 kept of a stratum in the place of question and goal."""
    return digest(
        {
            "trainer": spec.trainer,
            "data": spec.data.model_dump(mode="json", exclude_defaults=True),
            "scenario": _condition(spec.scenarios[scenario]),
            "evaluation": spec.evaluation.model_dump(
                mode="json", exclude_defaults=True, exclude={"second_judge", "check"}
            ),
            "objective": [spec.objective.metric, spec.objective.direction],
            "sampler": [spec.sampler, spec.sampler_seed],
            **({"rungs": spec.rungs.model_dump(mode="json")} if spec.rungs else {}),
            "arms": {name: _arm(arm) for name, arm in arms.items()},
        }
    )


def contexts_of(spec: StudySpec, stratum: Stratum, recorded: Collection[str]) -> frozenset[str]:
    """The contexts under which a stratum of format 1 asked what the study asks now. `recorded`: the variants that runs
    are recorded of: a joint search may have got more of them since.

    The objective belonged to a context, and makes no other question.
    """
    mine = {name: arm for name, arm in stratum.arms.items() if name in recorded}
    objectives = [spec.objective] + [
        spec.objective.model_copy(update={"metric": metric, "direction": direction})
        for metric in METRICS
        for direction in ("maximize", "minimize")
    ]
    return frozenset(
        context_of(spec.model_copy(update={"objective": objective}), stratum.scenario, arms)
        for objective in objectives
        for arms in (stratum.arms, mine)
    )


def _arm(arm: ResolvedVariant) -> list[Any]:
    space = {knob: distribution.model_dump(mode="json") for knob, distribution in arm.space.items()}
    return [dict(arm.settings), space, *([arm.balance] if arm.balance else [])]


def _condition(scenario: Scenario) -> dict[str, Any]:
    """What a scenario changes; how much is trained in it only extends."""
    return {**scenario.data, **({"base": dict(scenario.base)} if scenario.base else {})}
