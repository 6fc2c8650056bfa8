"""How far a study is and what it would leave behind: what `plan` tells and `run` asks before it begins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboards.analysis.configs import distinct
from dashboards.store.connection import StoreMissing, store_uri
from dashboards.store.mlflow_tags import is_strict, questions_in
from dashboards.store.records import load_records, load_study_tags
from studies.design.answers import leaving, sort
from studies.design.counts import judging_not_needed, planned_confirm_runs, planned_runs, planned_trials
from studies.design.measurers import asked_of, named_measurers, settled
from studies.design.points import CONFIRM, config_of, config_of_knobs, planned_points
from studies.records import PROBE, RunRecord, State
from studies.spec import Study
from studies.text.plural import so_many
from sweeper.recorded.contents import pairs_comparer
from sweeper.recorded.format_1 import asked_before


@dataclass(frozen=True)
class StudyState:
    """How far a study is: `planned` runs, `done` of them recorded, and what it would leave behind of what an earlier
    form of it, or of its sources, trained: reason -> finished runs. `unasked`: sentences on finished runs of variants,
    scenarios, blocks and seeds that the file no longer names; `said`: what else there is to say.
    """

    planned: int
    done: int
    left: Mapping[str, Sequence[RunRecord]]
    unasked: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What `plan` says of it; nothing of a study without a recorded run."""
        if not self.done:
            return [*leaving(self.left), *self.unasked]
        counted = f"{self.done} of {so_many(self.planned, 'run')} done, {self.planned - self.done} missing."
        others = [*leaving(self.left), *self.unasked] if self.done < self.planned else []
        return [counted, *others, *self.said]


def standing_of(study: Study, *, storage: str | None = None, strict: bool = False) -> StudyState:
    """How far the study is, with the contents that `spec` has. `storage`: Optuna's URL (None: the one in the working
    folder). Raises StoreError and StorageError.
    """
    uri, planned = store_uri(None, Path.cwd()), planned_runs(study)
    try:
        records = load_records(uri, study.spec.study)
    except StoreMissing:
        return StudyState(planned, 0, {})
    tags = load_study_tags(uri, study.spec.study)
    before = asked_before(study, records, storage)
    answers = sort(*(study, records, pairs_comparer()), asked_before=before, strict=strict or is_strict(tags))
    last = questions_in(tags)
    left = {
        reason: [run for run in runs if last is None or (run.question or "-") in last]
        for reason, runs in answers.finished_aside().items()
    }
    done = _done(study, answers.records)
    said = [*untried(study, answers.records), *_stale(study, answers.records, strict or is_strict(tags))]
    left = {reason: runs for reason, runs in left.items() if runs}
    return StudyState(planned, done, left, tuple(answers.unasked_notes()), tuple(said))


def _stale(study: Study, records: Sequence[RunRecord], strict: bool) -> list[str]:
    """What is said of finished runs that another evaluator or judge would measure again."""
    spec = study.spec
    if spec.trainer != "dpo":
        return []
    from sweeper.measuring.remeasure import stale

    asked = asked_of(spec)
    tasks = stale(
        study, records if strict else settled(records, asked.judged), Path.cwd() / spec.output.folder / spec.study
    )
    if not tasks:
        return []
    return [f"{so_many(len(tasks), 'finished run')} would be measured again, by {named_measurers(asked)}."]


def untried(study: Study, records: Iterable[RunRecord]) -> list[str]:
    """What is said of the variants of a search that has spent its trials on others, as of those that it got later."""
    spec = study.spec
    if spec.mode != "search":
        return []
    found, tried = [], {(r.variant, r.scenario, r.trial) for r in records if r.phase not in (CONFIRM, PROBE)}
    for scenario, own in study.by_scenario():
        trials = Counter(variant for variant, where, _ in tried if where == scenario and variant in own.variants)
        without, most = [name for name in own.variants if name not in trials], planned_trials(own)
        if without and trials.total() >= most:
            where = f" in {scenario}" if len(spec.scenarios) > 1 else ""
            budget = own.spec.budget.trials + math.ceil(most / len(trials)) * len(without)
            found.append(
                f"{' and '.join(without)} {'has' if len(without) == 1 else 'have'} no trial{where}: the "
                f"{so_many(most, 'trial')} of the search are spent on other variants. A larger budget.trials, such as "
                f"{budget}, gives {'it' if len(without) == 1 else 'them'} some."
            )
    return found


def _done(study: Study, records: Iterable[RunRecord]) -> int:
    """How many of the planned runs are recorded: of known points these very ones, else as many as there can be."""
    search = study.spec.mode == "search"
    ended = [r for r in distinct(records) if r.phase != PROBE and r.state in (State.COMPLETE, State.PRUNED)]
    done = judging_not_needed(study, ended)
    for scenario, own in study.by_scenario():
        variants, runs = own.variants, own.spec.runs
        mine = [r for r in ended if r.scenario == scenario and r.variant in variants]
        confirmed = [r for r in mine if r.phase == CONFIRM]
        done += min(len(confirmed), planned_confirm_runs(study, scenario))
        known = {n: {config_of(v, p.params) for p in planned_points(own.spec, v)} for n, v in variants.items()}
        free = planned_trials(own) - (0 if search else sum(map(len, known.values())))
        others = 0
        for run in mine:
            planned = not search and config_of_knobs(variants[run.variant], run.knobs) in known[run.variant]
            done += planned and run.phase != CONFIRM
            others += not planned and run.phase != CONFIRM
        done += min(others, free * len(runs.blocks) * len(runs.seeds))
    return done
