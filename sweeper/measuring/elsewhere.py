"""Measures a model that no run of the study trained on the draws that judge its losses; trains and tunes nothing.

What is found stands in MLflow as runs of a kind of their own. The same contents on the same draw are measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dashboards.store.connection import StoreAway, connect, store_uri
from dashboards.store.records import load_elsewhere
from studies.design.elsewhere import Draw, judging_draws, key_of, measured_as
from studies.design.measurers import asked_of, is_measured
from studies.records import ELSEWHERE, Cause, Measurement, RunConfig, RunRecord, RunResult, State
from studies.schema.scenarios import model_of
from studies.schema.variants import possible
from studies.spec import Study
from studies.text.plural import so_many
from sweeper.executors.waiting import result_of, wait_for
from sweeper.folder.paths import StudyPaths
from sweeper.folder.standing import alone
from sweeper.loop.progress import Interrupted
from sweeper.measuring.remeasure import measuring, placement_of, problem_of, with_error
from sweeper.measuring.rescore import EvaluateError
from sweeper.tracking.experiment.study import keep_contents
from sweeper.tracking.scores import write_elsewhere
from trainers.examine.elsewhere import Elsewhere, content_of, look_at_elsewhere
from trainers.interface import Job
from trainers.models.bases import UnusableModel

# That it prefers the wrong answers, or repeats itself, is what was found of it, and it is judged by that as a run is.
_MEASURED: Final = frozenset({Cause.FINISHED, Cause.INVERTED, Cause.COLLAPSED})
_OF_TRAINING: Final = frozenset({"train_accuracy"})  # says nothing of a model that was not trained on these pairs


@dataclass(frozen=True)
class Wanted:
    """A model from elsewhere and the measurements that are missing of it: key -> the configs, one for each draw that
    this is the measurement of. `known`: how many draws have theirs; `earlier`: the names that its contents had then;
    `beside`: a run of the study, in whose precision it is measured.
    """

    model: Elsewhere
    missing: Mapping[str, tuple[RunConfig, ...]]
    known: int
    earlier: tuple[str, ...]
    beside: RunRecord


@dataclass(frozen=True)
class Measured:
    """The outcome: how many draws were written, and why others could not be measured; `is_refused`: model, data or
    judge cannot be used so, and nothing was written.
    """

    written: int
    failed: Mapping[str, str]
    is_refused: bool = False


def look(
    study: Study, runs: Sequence[RunRecord], path: str, where: StudyPaths, *, is_adapter: bool, is_as_run: bool
) -> Wanted:
    """What is to be measured of the model in a folder. `study`: with the contents that its sources hold now, and
    `is_as_run`: whether they held that at its last run; `runs`: what is recorded of it. Reads, and writes nothing.

    Raises EvaluateError where the study or the model cannot be measured so, StoreError where the store cannot be read.
    """
    spec = study.spec
    if spec.trainer != "dpo":
        raise EvaluateError(f"Runs of trainer {spec.trainer} leave no adapter that could be measured beside another.")
    if any(len(set(possible(arm).get("model_name_or_path", ()))) > 1 for arm in study.variants.values()):
        raise EvaluateError("The study varies its base, and a model is measured against one: fix model_name_or_path.")
    bases = dict.fromkeys(model_of(spec, scenario) for scenario in spec.scenarios.values())
    if len(bases) > 1:
        raise EvaluateError(
            f"Scenarios of the study train {' and '.join(bases)}, and a model is measured against one: ask a study of "
            "its base alone."
        )
    finished = [run for run in runs if run.state is State.COMPLETE]
    if not finished:
        raise EvaluateError(
            f"Nothing is finished of study {spec.study} that a model could stand beside: `sweeper run` first."
        )
    if not is_as_run:
        raise EvaluateError(
            "The study's data or model hold something else than at its last run, and its runs would not be measured "
            "alike: put them back as they were, or `sweeper run` first."
        )
    try:
        model = look_at_elsewhere(path, spec.base, is_adapter=is_adapter)
    except UnusableModel as error:
        raise EvaluateError(f"{error}.") from error
    return _missing(study, model, finished[-1], where)


def _missing(study: Study, model: Elsewhere, beside: RunRecord, where: StudyPaths) -> Wanted:
    asked, uri = asked_of(study.spec), store_uri(where.tracking, where.folder)
    same = [run for run in load_elsewhere(uri, study.spec.study) if run.content.get(ELSEWHERE) == model.content]
    known = {(run.key, Draw(run.scenario, run.block)) for run in same if is_measured(run, asked)}
    draws = judging_draws(study)
    keys = {draw: key_of(study, draw, model.content) for draw in draws}
    missing: dict[str, tuple[RunConfig, ...]] = {}
    for draw, key in keys.items():
        if (key, draw) not in known:
            missing[key] = (*missing.get(key, ()), measured_as(study, draw, model.name, model.content))
    names = dict.fromkeys(run.variant for run in same)
    return Wanted(model, missing, len(draws) - sum(map(len, missing.values())), tuple(names), beside)


def measure_all(
    study: Study,
    wanted: Wanted,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
) -> Measured:
    """Measure what is missing in workers, or with the executor `inline` in this process, and write each as it comes.

    Raises AlreadyRunning while the study is being run, StoreError where the store does not take what is found, and
    Interrupted where it, or the workers, went away; what is measured by then is kept.
    """
    if not wanted.missing:
        return Measured(0, {})
    with alone(where.runs):
        try:
            return _measure(study, wanted, where, executor, workers, say)
        except (StoreAway, OSError, RuntimeError) as error:
            raise Interrupted(str(error)) from error


def _measure(
    study: Study,
    wanted: Wanted,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
) -> Measured:
    uri = store_uri(where.tracking, where.folder)
    client, written, failed, refused = connect(uri), 0, dict[str, str](), 0
    keep_contents(client, uri, study.spec.study, study.spec.contents)
    with measuring(study.spec, executor, workers, where.runs, say) as pool:
        jobs = [_job(configs[0], wanted, where.runs) for configs in wanted.missing.values()]
        for done, ending in enumerate(wait_for(jobs, pool, lambda: None), 1):
            configs = wanted.missing[ending.key]
            name = f"yours: {wanted.model.name} {configs[0].scenario} b{configs[0].block}"
            result = _known(result_of(ending))
            problem = None if result.cause in _MEASURED else problem_of(ending)
            if problem is None and content_of(wanted.model.path) != wanted.model.content:
                problem = f"{wanted.model.path} changed while it was measured: run the same command again"
            if problem is not None:
                failed[name] = problem
                refused += result.cause is Cause.REFUSED
                say(f"{done}/{len(jobs)} {name}: failed: {problem}")
                continue
            for config in configs:
                write_elsewhere(client, uri, config, result)
                written += 1
            shown = _shown(study, result)
            broken = "" if result.cause is Cause.FINISHED else f"; {result.cause}: {result.message}"
            say(f"{done}/{len(jobs)} {name}: {shown.name} {with_error(shown)}{broken}")
    return Measured(written, failed, is_refused=refused == len(jobs))


def _job(config: RunConfig, wanted: Wanted, runs: Path) -> Job:
    return Job(config, runs / config.key, placement=placement_of(wanted.beside), model=wanted.model.path)


def _known(result: RunResult) -> RunResult:
    kept = tuple(m for m in result.measurements if m.name not in _OF_TRAINING)
    return result.model_copy(update={"measurements": kept})


def _shown(study: Study, result: RunResult) -> Measurement:
    """The objective, where it was measured."""
    final = result.final()
    return final.get(study.spec.objective.metric) or next(iter(final.values()))


def summary(wanted: Wanted, done: Measured) -> list[str]:
    """The outcome, in sentences."""
    name = wanted.model.name
    said = f"yours: {name} was measured on {so_many(done.written, 'draw')}, {wanted.known} had been."
    others = [other for other in wanted.earlier if other != name]
    if others:
        said += f" The same contents were measured as yours: {', '.join(others)} before, and stand in one row."
    return [said]
