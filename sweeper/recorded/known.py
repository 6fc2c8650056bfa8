"""What is recorded of a study when a sweep begins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from studies.design.answers import Compare, run_config_of, sort, unrecorded
from studies.design.measurers import Measurers, asked_of, is_unsettled, settled, under
from studies.records import PROBE, RunConfig, RunResult, State
from studies.schema.contents import judge_source
from studies.spec import ResolvedVariant, StudySpec
from studies.text.plural import so_many
from sweeper.recorded.format_1 import asked_before
from sweeper.tracking.tracker import KnownRun, Tracker


@dataclass(frozen=True)
class Known:
    """What is recorded of a study: the runs that answer it, by id the configs of those that may have another key, the
    (variant, scenario) of which format 1 recorded runs that answer something else or were judged by nobody knows what,
    the runs that a killed sweep left RUNNING and that answer something else, and the keys of all runs.
    """

    records: tuple[KnownRun, ...]
    configs: Mapping[str, RunConfig]
    changed: frozenset[tuple[str, str]]
    interrupted: tuple[KnownRun, ...]
    keys: frozenset[str]

    def under(self, who: Measurers) -> list[tuple[KnownRun, RunConfig | None]]:
        """Each run with the numbers that these measurers found of it, and its config."""
        return [(under(run, who), self.configs.get(run.run_id)) for run in (*self.records, *self.interrupted)]


def find_known(
    spec: StudySpec,
    arms: Mapping[str, ResolvedVariant],
    storage: str,
    tracker: Tracker,
    compare: Compare,
    tell_user: Callable[[str], None],
) -> Known:
    """What is recorded of the study. Runs that answer it and do not say so are marked as its own, and told of once."""
    every, judge = tracker.known_runs(), asked_of(spec).judged
    unjudged = {run.run_id for run in every if is_unsettled(run, judge)}
    every = every if tracker.strict else tuple(settled(every, judge))
    before = asked_before(spec, arms, every, storage)
    answers = sort(spec, arms, every, compare, asked_before=before, strict=tracker.strict)
    adopted = [(run, config) for run, config in answers.adopted if run.state is not State.RUNNING]
    for run, config in adopted:
        tracker.adopt(run, config.content)
    unknown = dict.fromkeys(source for run, config in adopted for source in unrecorded(config, run))
    is_judge_new = not tracker.strict and any(run.run_id in unjudged for run, _ in adopted)
    if is_judge_new:
        unknown |= {str(judge_source(spec.evaluation)): None}
    whose = "of an earlier version of sweeper " if all(run.question is None for run, _ in adopted) else ""
    if unknown:
        behind = "leaves such runs behind" + (", and asks such a judge again" if is_judge_new else "")
        tell_user(
            f"{so_many(len(adopted), 'run')} {whose}{'is' if len(adopted) == 1 else 'are'} taken over. What "
            f"{' and '.join(unknown)} held was not recorded then, and is taken to be the same; `sweeper run --strict` "
            f"{behind}."
        )
    mine = {run.run_id for run in answers.records}
    # Only where contents are known may a run have another key than its config now: format 1 gave it that.
    renamed = [run for run in answers.records if spec.contents and run.arm != PROBE]
    return Known(
        answers.records,
        {run.run_id: run_config_of(spec, arms, run) for run in renamed},
        frozenset(
            (run.variant, run.scenario)
            for run in (*(run for runs in answers.aside.values() for run in runs), *answers.records)
            if run.question is None and (run.run_id not in mine or (tracker.strict and run.run_id in unjudged))
        ),
        tuple(run for run in every if run.state is State.RUNNING and run.run_id not in mine),
        frozenset(run.key for run in every),
    )


def is_ours_by(
    recorded: Collection[str], strict: bool, compare: Compare
) -> Callable[[str, RunConfig, RunResult], bool]:
    """Whether a result that format 1 left in a run folder may be taken for that of a config: no run in MLflow, which
    would say more of it, has its key, and what it says of its sources is so now.
    """

    def is_ours(key: str, config: RunConfig, result: RunResult) -> bool:
        unknown = strict and unrecorded(config, result)
        return key not in recorded and not unknown and compare(result.facts, config) is None

    return is_ours
