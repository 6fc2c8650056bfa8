"""Judging runs whose samples somebody has not looked at yet: a judge that is new, the second one, or the check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from studies.design.measurers import asked_of, is_measured, judge_at
from studies.design.points import CONFIRM
from studies.records import RunConfig, RunRecord, State
from studies.samples.kept import UNTRAINED, KeptScores
from studies.spec import Study
from sweeper.measuring.remeasure import Task
from trainers.interface import Job
from trainers.run_folder.kept_samples import read_scores


def unjudged(study: Study, records: Iterable[RunRecord], folder: Path) -> tuple[Task, ...]:
    """The finished judging runs that keep samples which not all who are asked have seen. `folder`: the study's runs."""
    spec = study.spec
    if spec.trainer != "dpo" or not spec.evaluation.judges:
        return ()
    judging = [r for r in records if r.phase == CONFIRM and r.state is State.COMPLETE]
    scores = {r.key: found for r in judging if (found := read_scores(folder / r.key)) is not None}
    baseline = {_draw(r): r.key for r in judging if r.variant == spec.baseline and r.key in scores}
    asked, tasks = asked_of(spec), dict[str, Task]()
    for record in judging:
        if record.key not in scores:
            continue
        config, other = study.run_config(record), baseline.get(_draw(record))
        others = {other: scores[other]} if other is not None and other != record.key else {}
        if is_measured(record, asked) and not _lacks(config, scores[record.key], others):
            continue
        known = tasks.get(record.key)
        against = tuple(folder / key for key in others)
        job = Job(config, folder / record.key, from_samples=True, against=against)
        tasks[record.key] = Task(job, (*(known.records if known else ()), record))
    return tuple(tasks.values())


def _draw(record: RunRecord) -> tuple[str, int, int]:
    """What runs have in common that answer the same prompts."""
    return record.scenario, record.block, record.seed


def _lacks(config: RunConfig, scores: KeptScores, others: Mapping[str, KeptScores]) -> bool:
    """Whether somebody has not seen the samples, or, where they compare, not beside those of the others."""
    last = max(scores.tokens)
    for key, judge in config.evaluation.judges.items():
        by = judge_at(config, key)
        if judge.pairwise is None:
            if {UNTRAINED, last} - scores.scores_by(by).keys():
                return True
            continue
        pairs = [("", UNTRAINED), *((other, max(of.tokens)) for other, of in others.items())]
        if not all(scores.has_compared(by, against, last, its) for against, its in pairs):
            return True
    return False
