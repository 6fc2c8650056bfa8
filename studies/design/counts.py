"""How many trials and runs a study plans. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from studies.design.points import CONFIRM, joint_quota, quota
from studies.records import PROBE, RunRecord, State
from studies.records.world_units import CUT, SOURCE, WHOLE_ANSWER, source_of
from studies.spec import Study, StudySpec


def planned_trials(study: Study) -> int:
    """How many trials a scenario has in all; `study`: narrowed to the scenario."""
    if study.spec.mode == "search":
        return joint_quota(study.spec, study.variants)
    return sum(quota(study.spec, variant) for variant in study.variants.values())


def planned_runs(study: Study) -> int:
    """How many runs the whole study has, the confirm phase included: with KL budgets as many as there can be, since
    one trial may be the best at several.
    """
    return sum(runs_in(study, name) for name in study.spec.scenarios)


def planned_confirm_runs(study: Study, scenario: str) -> int:
    """How many runs the confirm phase of a scenario has at most."""
    own = study.within(scenario)
    confirm = own.spec.confirm
    if confirm is None:
        return 0
    most = len(confirm.kl) or confirm.top
    chosen = sum(min(most, quota(own.spec, variant)) for variant in own.variants.values())
    return chosen * len(confirm.blocks) * len(confirm.seeds)


def judging_not_needed(study: Study, records: Iterable[RunRecord]) -> int:
    """How many judging runs of replicates are planned and have nothing to judge: all of a variant's settings there were
    tried, and broke.
    """
    if study.spec.replicates is None:
        return 0
    tried: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for run in records:
        if run.phase not in (CONFIRM, PROBE) and run.state in (State.COMPLETE, State.PRUNED):
            tried[run.variant, run.scenario].append(run.failure is not None)
    return sum(
        len(broke := tried[variant.name, cell]) >= quota(own.spec, variant) and all(broke)
        for cell, own in study.by_scenario()
        for variant in own.variants.values()
    )


def runs_in(study: Study, scenario: str) -> int:
    """How many runs a scenario has, the confirm phase included."""
    own = study.within(scenario)
    each = len(own.spec.runs.blocks) * len(own.spec.runs.seeds)
    return planned_trials(own) * each + planned_confirm_runs(study, scenario)


def pairs_source(spec: StudySpec) -> str:
    """Where the numbers come from, as `dashboards.statistics.scale` wants it: another trainer's gold has no unit, and
    neither has that of answers that are cut.
    """
    if spec.trainer != "dpo":
        return spec.trainer
    cut = spec.data.path == SOURCE and spec.evaluation.max_new_tokens < WHOLE_ANSWER
    return CUT if cut else source_of(spec.data)
