"""Scores finished runs with a judge, from the adapters that they left; the scores go into the runs' own MLflow records.

Knows runs by record and config; an executor's workers measure them. Trains nothing, and what it has written already it
does not do again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dashboards.load import StoreAway
from dashboards.trials import Stratum, standings
from studies.records import JUDGE_FACT, METRICS, Judge, Measurement, RunConfig, RunRecord, RunResult, State
from studies.redact import redact
from studies.spec import Arm, StudySpec
from sweeper.answers import config_of
from sweeper.control import lock
from sweeper.executors import Dropped, Executor, Finished, Inline, Lost, Process
from sweeper.session import Interrupted, Places
from sweeper.tracking import Tracker
from trainers.interface import Job, Placement

EVALUATOR = "trainers.again:AdapterEvaluator"
"""The trainer of executors that measures adapters."""
SCORES = ("gold", "gold_per_token")
_CHECKED = ("margin", "kl")  # of what was measured before, and is again


class EvaluateError(Exception):
    """Runs that cannot be scored as asked: says which rule stands against it and what to do."""


@dataclass(frozen=True)
class Task:
    """A run to be scored, and the records that it stands for: two variants may be the same run."""

    job: Job
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Selection:
    """What is to be done. `scored`: runs that have this judge's scores already; `gone`: runs that keep no adapter;
    `others`: runs of another question than the study file asks now.
    """

    judge: Judge
    tasks: tuple[Task, ...]
    scored: tuple[RunRecord, ...]
    gone: tuple[RunRecord, ...]
    others: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Scored:
    """What was done: how many records were written, which runs failed and why, and which measure otherwise now than
    when they were trained.
    """

    written: int
    failed: Mapping[str, str]
    moved: tuple[str, ...]


def select(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    records: Iterable[RunRecord],
    folder: Path,
    only: Collection[str] | None = None,
) -> Selection:
    """Which of the study's finished runs are to be scored by its judge. `folder`: where its runs are kept; `only`: ids
    of the runs that are asked for (None: all).

    Raises EvaluateError for a study without a judge, where nothing can be scored, and where scores of two judges would
    come to stand together.
    """
    judge = spec.evaluation.judge
    if judge is None:
        raise EvaluateError(
            "The study has no judge: give --judge-model ORG/MODEL or --judge-function module:name, or name one under "
            "evaluate.judge in the study file."
        )
    if spec.trainer != "dpo":
        raise EvaluateError(f"Runs of trainer {spec.trainer} leave no adapter that could be measured again.")
    found: dict[str, Task] = {}
    scored, gone, others, left = [], [], [], []
    for record in records:
        if record.state is not State.COMPLETE:
            continue
        config = _config(spec, arms, record)
        if only is not None and record.run_id not in only:
            left.append(record)
        elif config is None:
            others.append(record)
        elif _judged_by(record) == redact(judge.name):
            scored.append(record)
        elif not (folder / record.key / "adapter").is_dir():
            gone.append(record)
        elif record.key in found:
            found[record.key] = replace(found[record.key], records=(*found[record.key].records, record))
        else:
            found[record.key] = Task(Job(config, folder / record.key, placement=_placement(record)), (record,))
    mixed = [r for r in (*gone, *others, *left) if _judged_by(r) not in (None, redact(judge.name))]
    if mixed and found:
        raise EvaluateError(
            f"{len(mixed)} runs that would not be scored now have scores of another judge ({_judged_by(mixed[0])}), so "
            f"that scores of two judges would stand in one table: {_named(mixed)}. Score with that judge, or all runs "
            "with this one; those that keep no adapter must be trained again, under another name of the study with "
            "output.keep: all."
        )
    selection = Selection(judge, tuple(found.values()), tuple(scored), tuple(gone), tuple(others))
    if not found and not scored:
        raise EvaluateError(" ".join(["No finished run can be scored.", *_left_out(selection)]))
    return selection


def best_runs(spec: StudySpec, arms: Mapping[str, Arm], records: Sequence[RunRecord]) -> frozenset[str]:
    """Ids of the runs of the best trial of each stratum, those of the confirm phase among them.

    Raises EvaluateError where no run has the objective yet.
    """
    each = len(spec.runs.blocks) * len(spec.runs.seeds)
    strata = [Stratum(arm.name, s, arm.losses, 0, each) for s in spec.scenarios for arm in arms.values()]
    bests = [one for one in standings(records, spec.objective, strata) if one.best is not None]
    if not bests:
        raise EvaluateError(
            f"No trial is the best by {spec.objective.metric}, which no finished trial has: leave --only-best out, or "
            "choose by another metric with --set objective.metric=ranking_gain."
        )
    return frozenset(run.run_id for one in bests if one.best is not None for run in (*one.best.runs, *one.speak))


def score_all(
    spec: StudySpec,
    selection: Selection,
    where: Places,
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
) -> Scored:
    """Score the selected runs in workers, or with the executor `inline` in this process.

    Raises AlreadyRunning while the study is being run, StoreError where the store cannot be used, and Interrupted where
    it, or the workers, went away; what is scored by then is kept.
    """
    with lock(where.runs):
        tracker = Tracker(where.tracking, where.folder, say)
        pool: Executor = (
            Inline(EVALUATOR)
            if executor == "inline"
            else Process(EVALUATOR, workers or spec.resources.workers, where.runs / "logs")
        )
        try:
            return score(selection, pool, tracker, say)
        except (StoreAway, OSError, RuntimeError) as error:
            raise Interrupted(str(error)) from error
        finally:
            pool.close(now=True)


def score(selection: Selection, executor: Executor, tracker: Tracker, say: Callable[[str], None]) -> Scored:
    """Measure the selected runs and write each as it comes. Raises StoreError where MLflow does not take the scores."""
    waiting = {task.job.config.key: task for task in selection.tasks}
    for task in selection.tasks:
        executor.submit(task.job)
    written, failed, moved = 0, {}, []
    total = len(waiting)
    while waiting:
        for event in executor.events(timeout=1.0):
            if not isinstance(event, Finished | Lost | Dropped) or event.key not in waiting:
                continue
            task = waiting.pop(event.key)
            name = _named(task.records[:1])
            problem = _problem(event)
            if problem is not None or not isinstance(event, Finished):
                failed[name] = problem or ""
                say(f"{total - len(waiting)}/{total} {name}: failed: {problem}")
                continue
            final = event.result.final()
            for record in task.records:
                tracker.log_scores(
                    record, [final[metric] for metric in SCORES], event.result.facts, event.result.samples
                )
                written += 1
            moved += [name] if _has_moved(task.records[0], final) else []
            say(f"{total - len(waiting)}/{total} {name}: gold {_with_error(final['gold'])}")
    return Scored(written, failed, tuple(moved))


def _config(spec: StudySpec, arms: Mapping[str, Arm], record: RunRecord) -> RunConfig | None:
    """The config of a recorded run; None where it is not what the file asks for now."""
    if record.variant not in arms or record.scenario not in spec.scenarios:
        return None
    config = config_of(spec, arms, record)
    return config if record.key in {config.key, *config.earlier_keys} else None


def _judged_by(record: RunRecord) -> str | None:
    """Whose gold the run has: a judge's name, None where it has none."""
    return record.facts.get(JUDGE_FACT, "the data's own") if "gold" in record.metrics else None


def _placement(record: RunRecord) -> Placement:
    """In the precision that the run was trained and measured in, which a pilot may have chosen."""
    return Placement(bf16={"true": True, "false": False}.get(record.facts.get("bf16", "")))


def _problem(event: Finished | Lost | Dropped) -> str | None:
    """Why a run was not scored, None where it was."""
    if isinstance(event, Dropped):
        return "stopped"
    result: RunResult = event.result if isinstance(event, Finished) else event.result()
    if result.state is State.COMPLETE:
        return None
    log = result.facts.get("log")
    return f"{result.cause}: {result.message.strip() or 'no message'}" + (f" (log: {log})" if log else "")


def _has_moved(record: RunRecord, final: Mapping[str, Measurement]) -> bool:
    """Whether what was measured when the run was trained is another number now, by more than its standard error."""
    both = [name for name in _CHECKED if name in record.metrics and name in final]
    return any(abs(record.metrics[name] - final[name].value) > record.errors.get(name, 0.0) for name in both)


def _with_error(found: Measurement) -> str:
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.value:.4g}{error} ({METRICS[found.name].unit})"


def _named(records: Sequence[RunRecord]) -> str:
    """The first few runs, as MLflow's list shows them."""
    names = [f"{r.variant} {r.scenario} t{r.trial} b{r.block} s{r.seed}" for r in records[:5]]
    return ", ".join(names) + (f" and {len(records) - 5} more" if len(records) > 5 else "")


def summary(selection: Selection, scored: Scored) -> list[str]:
    """What came of it, in sentences."""
    found = [f"{scored.written} runs scored by {redact(selection.judge.name)}, {len(selection.scored)} had been."]
    found += _left_out(selection)
    if scored.moved:
        found.append(
            f"{len(scored.moved)} runs have another {' or '.join(_CHECKED)} now than when they were trained, by more "
            f"than its standard error: {', '.join(scored.moved[:5])}. Another device or library computes otherwise, or "
            "the adapter was changed."
        )
    return found


def _left_out(selection: Selection) -> list[str]:
    """Which runs cannot be scored, and why."""
    found = []
    if selection.gone:
        found.append(
            f"{len(selection.gone)} finished runs keep no adapter and cannot be scored: {_named(selection.gone)}. The "
            "study keeps every adapter of the runs that it trains with output: {keep: all}."
        )
    if selection.others:
        found.append(
            f"{len(selection.others)} finished runs answer another question than the study file asks now: "
            f"{_named(selection.others)}."
        )
    return found
