"""Scores finished runs with another judge: selects them, measures them, sums up. See `remeasure`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboards.analysis.strata import Stratum, standings
from dashboards.store.connection import StoreAway
from studies.design.answers import Answers
from studies.design.measurers import asked_of, is_measured, settled
from studies.design.points import CONFIRM
from studies.records import PROBE, Judge, RunRecord, State
from studies.spec import Study, StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.executors import Executor
from sweeper.folder.paths import StudyPaths
from sweeper.folder.standing import alone
from sweeper.loop.progress import Interrupted
from sweeper.measuring.remeasure import CHECKED, Scored, Task, add_task, keeps_adapter, measure, measuring, named
from sweeper.measuring.samples import unjudged
from sweeper.tracking.tracker import Tracker


class EvaluateError(Exception):
    """Runs that cannot be scored as requested: says which rule is broken and what to do."""


@dataclass(frozen=True)
class Selection:
    """The runs to score. `scored`: runs that have this judge's scores; `gone`: runs without an adapter, or samples that
    are kept; `others`: runs that answer another question than the study file asks now.
    """

    judge: Judge
    tasks: tuple[Task, ...]
    scored: tuple[RunRecord, ...]
    gone: tuple[RunRecord, ...]
    others: tuple[RunRecord, ...]


def select(
    study: Study,
    answers: Answers[RunRecord],
    folder: Path,
    only: Collection[str] | None = None,
    fetch: Callable[[RunRecord], None] = lambda _: None,
) -> Selection:
    """Which of the study's finished runs are to be scored by its judge: from the samples that they keep where they do,
    else from their adapters. `folder`: where its runs are kept; `only`: ids of the runs that are asked for (None: all);
    `fetch` brings the samples of a run into its folder, where they are elsewhere.

    Raises EvaluateError for a study without a judge, and where nothing can be scored.
    """
    spec = study.spec
    judge = spec.evaluation.judge
    if judge is None:
        raise EvaluateError(
            "The study has no judge: give --judge-model ORG/MODEL or --judge-function module:name, or name one under "
            "evaluate.judge in the study file."
        )
    if spec.trainer != "dpo":
        raise EvaluateError(f"Runs of trainer {spec.trainer} leave no adapter that could be measured again.")
    scored, gone, asked = [], [], asked_of(spec)
    runs = settled(filter(_can_be_scored, answers.records), asked.judged)
    runs = [record for record in runs if only is None or record.run_id in only]
    for record in runs:
        if record.phase == CONFIRM:
            fetch(record)
    found = {task.job.config.key: task for task in unjudged(study, runs, folder)}
    kept = {record.run_id for task in found.values() for record in task.records}
    for record in runs:
        if record.run_id in kept:
            continue
        if is_measured(record, asked):
            scored.append(record)
        elif keeps_adapter(record, folder):
            add_task(found, study.run_config(record), record, folder)
        else:
            gone.append(record)
    aside = [run for runs in answers.aside.values() for run in runs]
    others = filter(_can_be_scored, (*aside, *answers.unasked))
    selection = Selection(judge, tuple(found.values()), tuple(scored), tuple(gone), tuple(others))
    if not found and not scored:
        raise EvaluateError(" ".join(["No finished run can be scored.", *_left_out(selection)]))
    return selection


def best_runs(study: Study, records: Sequence[RunRecord]) -> frozenset[str]:
    """Ids of the runs of the best trial of each stratum, with those of the confirm phase.

    Raises EvaluateError where no run has the objective yet.
    """
    spec = study.spec
    each = len(spec.runs.blocks) * len(spec.runs.seeds)
    strata = [Stratum(variant.name, scenario, variant.losses, 0, each) for variant, scenario in study.strata()]
    bests = [one for one in standings(records, spec.objective, strata) if one.best is not None]
    if not bests:
        raise EvaluateError(
            f"No trial is the best by {spec.objective.metric}, which no finished trial has: leave --only-best out, or "
            "choose by another metric with --set objective.metric=ranking_gain."
        )
    return frozenset(run.run_id for one in bests if one.best is not None for run in (*one.best.runs, *one.evidence))


def score_all(
    spec: StudySpec,
    selection: Selection,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
) -> Scored:
    """Score the selected runs in workers, or with the executor `inline` in this process.

    Raises AlreadyRunning while the study is being run, StoreError where the store cannot be used, and Interrupted where
    it, or the workers, went away; what is scored by then is kept.
    """
    with alone(where.runs):
        tracker = Tracker(where.tracking, where.folder, say)
        try:
            tracker.keep_contents(spec.study, spec.contents)
            with measuring(spec, executor, workers, where.runs, say) as pool:
                return score(selection, pool, tracker, say)
        except (StoreAway, OSError, RuntimeError) as error:
            raise Interrupted(str(error)) from error


def score(selection: Selection, executor: Executor, tracker: Tracker, say: Callable[[str], None]) -> Scored:
    """Measure the selected runs and write each as it comes. Raises StoreError where MLflow does not take the scores."""
    return measure(selection.tasks, executor, tracker, say)


def _can_be_scored(record: RunRecord) -> bool:
    return record.state is State.COMPLETE and record.phase != PROBE


def summary(selection: Selection, scored: Scored) -> list[str]:
    """The outcome, in sentences."""
    found = [
        f"{so_many(scored.written, 'run')} scored by {redact(selection.judge.name)}, {len(selection.scored)} had been."
    ]
    found += _left_out(selection)
    if scored.moved:
        found.append(
            f"{so_many(len(scored.moved), 'run')} measured another {' or '.join(CHECKED)} now than when trained, "
            f"by more than its standard error: {', '.join(scored.moved[:5])}. Another device or library computes "
            "otherwise, or the adapter was changed."
        )
    return found


def _left_out(selection: Selection) -> list[str]:
    """Which runs cannot be scored, and why."""
    found = []
    if selection.gone:
        found.append(
            f"{so_many(len(selection.gone), 'finished run', 'keeps', 'keep')} no adapter and cannot be scored: "
            f"{named(selection.gone)}. "
            "The study keeps every adapter of the runs that it trains with output: {keep: all}."
        )
    if selection.others:
        found.append(
            f"{so_many(len(selection.others), 'finished run', 'answers', 'answer')} another question than the study "
            f"file asks now: {named(selection.others)}."
        )
    return found
