"""How far a study is and what it would leave behind: what `plan` tells and `run` asks before it begins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboards.analysis.configs import distinct
from dashboards.store.connection import StoreMissing, store_uri
from dashboards.store.mlflow_tags import QUESTIONS_TAG, STRICT_TAG, in_whole
from dashboards.store.records import load_records, load_study_tags
from studies.design.answers import leaving, sort
from studies.design.counts import planned_confirm_runs, planned_runs, planned_trials
from studies.design.measurers import asked_of, named_measurers, settled
from studies.design.points import CONFIRM, config_of, config_of_knobs, planned_points
from studies.records import PROBE, RunRecord, State
from studies.spec import ResolvedVariant, StudySpec, arms_in, in_scenario
from studies.text.plural import so_many
from sweeper.recorded.contents import pairs_comparer
from sweeper.recorded.format_1 import asked_before


@dataclass(frozen=True)
class StudyState:
    """How far a study is: `planned` runs, `done` of them recorded, and what it would leave behind of what an earlier
    form of it, or of its sources, trained: reason -> finished runs. `said`: what else there is to say, in sentences.
    """

    planned: int
    done: int
    left: Mapping[str, Sequence[RunRecord]]
    said: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What `plan` says of it; nothing of a study without a recorded run."""
        if not self.done:
            return leaving(self.left)
        counted = f"{self.done} of {so_many(self.planned, 'run')} done, {self.planned - self.done} missing."
        return [counted, *(leaving(self.left) if self.done < self.planned else []), *self.said]


def standing_of(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], *, storage: str | None = None, strict: bool = False
) -> StudyState:
    """How far the study is, with the contents that `spec` has. `storage`: Optuna's URL (None: the one in the working
    folder). Raises StoreError and StorageError.
    """
    uri, planned = store_uri(None, Path.cwd()), planned_runs(spec, arms)
    try:
        records = load_records(uri, spec.study)
    except StoreMissing:
        return StudyState(planned, 0, {})
    tags = load_study_tags(uri, spec.study)
    before = asked_before(spec, arms, records, storage)
    answers = sort(*(spec, arms, records, pairs_comparer()), asked_before=before, strict=strict or STRICT_TAG in tags)
    last = in_whole(tags, QUESTIONS_TAG)
    left = {
        reason: [run for run in runs if last is None or (run.question or "-") in last.split(",")]
        for reason, runs in answers.finished_aside().items()
    }
    done = _done(spec, arms, answers.records)
    said = [*untried(spec, arms, answers.records), *_stale(spec, arms, answers.records, strict or STRICT_TAG in tags)]
    return StudyState(planned, done, {r: runs for r, runs in left.items() if runs}, tuple(said))


def _stale(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Sequence[RunRecord], strict: bool
) -> list[str]:
    """What is said of finished runs that another evaluator or judge would measure again."""
    if spec.trainer != "dpo":
        return []
    from sweeper.measuring.remeasure import stale

    asked = asked_of(spec)
    tasks = stale(
        spec, arms, records if strict else settled(records, asked.judged), Path.cwd() / spec.output.folder / spec.study
    )
    if not tasks:
        return []
    return [f"{so_many(len(tasks), 'finished run')} would be measured again, by {named_measurers(asked)}."]


def untried(spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Iterable[RunRecord]) -> list[str]:
    """What is said of the variants of a search that has spent its trials on others, as of those that it got later."""
    if spec.mode != "search":
        return []
    found, tried = [], {(r.variant, r.scenario, r.trial) for r in records if r.arm not in (CONFIRM, PROBE)}
    for scenario in spec.scenarios:
        own, here = in_scenario(spec, scenario), arms_in(spec, arms, scenario)
        trials = Counter(variant for variant, where, _ in tried if where == scenario and variant in here)
        without, most = [name for name in here if name not in trials], planned_trials(own, here)
        if without and trials.total() >= most:
            where = f" in {scenario}" if len(spec.scenarios) > 1 else ""
            budget = own.budget.trials + math.ceil(most / len(trials)) * len(without)
            found.append(
                f"{' and '.join(without)} {'has' if len(without) == 1 else 'have'} no trial{where}: the "
                f"{so_many(most, 'trial')} of the search are spent on other variants. A larger budget.trials, such as "
                f"{budget}, gives {'it' if len(without) == 1 else 'them'} some."
            )
    return found


def _done(spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Iterable[RunRecord]) -> int:
    """How many of the planned runs are recorded: of known points these very ones, else as many as there can be."""
    ended = [r for r in distinct(records) if r.arm != PROBE and r.state in (State.COMPLETE, State.PRUNED)]
    done = 0
    for scenario in spec.scenarios:
        own, here = in_scenario(spec, scenario), arms_in(spec, arms, scenario)
        mine = [r for r in ended if r.scenario == scenario and r.variant in here]
        confirmed = [r for r in mine if r.arm == CONFIRM]
        done += min(len(confirmed), planned_confirm_runs(spec, arms, scenario))
        known = {n: {config_of(arm, p.params) for p in planned_points(own, arm)} for n, arm in here.items()}
        free = planned_trials(own, here) - (0 if spec.mode == "search" else sum(map(len, known.values())))
        others = 0
        for run in mine:
            planned = spec.mode != "search" and config_of_knobs(here[run.variant], run.knobs) in known[run.variant]
            done += planned and run.arm != CONFIRM
            others += not planned and run.arm != CONFIRM
        done += min(others, free * len(own.runs.blocks) * len(own.runs.seeds))
    return done
