"""Measures finished runs again, from their adapters, and writes the values to the runs' own MLflow records.

An executor's workers measure them. Nothing is trained, and a run that has its numbers is not measured again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from studies.design.measurers import Measurers, asked_of, has_numbers, is_measured, measurers_of
from studies.records import JUDGED, MEASURED, METRICS, PROBE, Cause, Measurement, RunConfig, RunRecord, State
from studies.spec import Study, StudySpec
from studies.text.files import is_folder
from sweeper.executors import EXECUTORS, Dropped, Executor, Workplace
from sweeper.executors.waiting import Ending, result_of, wait_for
from sweeper.folder.names import LOGS
from sweeper.tracking.tracker import Tracker
from trainers.interface import Job, Placement
from trainers.run_folder.kept_samples import sample_files
from trainers.run_folder.results import ADAPTER, is_run_folder

EVALUATOR = "trainers.adapter_evaluator:AdapterEvaluator"
"""The trainer of executors that measures adapters."""
CHECKED = ("margin", "kl")  # of what was measured before, and is again


@dataclass(frozen=True)
class Task:
    """A run to measure, and its records: two variants may share a run."""

    job: Job
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Scored:
    """The outcome: how many records were written, which runs failed and why, which measure otherwise than when they
    were trained, and whether somebody stopped it.
    """

    written: int
    failed: Mapping[str, str]
    moved: tuple[str, ...]
    stopped: bool = False


def stale(study: Study, records: Iterable[RunRecord], folder: Path) -> tuple[Task, ...]:
    """The finished runs that keep an adapter and lack numbers of the present measurers. `folder`: the study's runs."""
    if study.spec.trainer != "dpo":
        return ()
    found, asked = dict[str, Task](), asked_of(study.spec)
    for record in records:
        if record.state is not State.COMPLETE or record.phase == PROBE or is_measured(record, asked):
            continue
        if is_for_judges(record, asked, folder):
            continue
        config = study.run_config(record)
        if keeps_adapter(record, folder) and config.settings.get("use_peft"):
            add_task(found, config, record, folder)
    return tuple(found.values())


def keeps_adapter(record: RunRecord, folder: Path) -> bool:
    """Whether a run's adapter is still in its folder."""
    return is_run_folder(folder / record.key) and is_folder(folder / record.key / ADAPTER)


def is_for_judges(record: RunRecord, asked: Measurers, folder: Path) -> bool:
    """Whether all that a run lacks is a judge's word on samples that it keeps: see `sweeper.measuring.samples`."""
    return bool(sample_files(folder / record.key)) and has_numbers(record, asked.measured, gold=False)


def add_task(tasks: dict[str, Task], config: RunConfig, record: RunRecord, folder: Path) -> None:
    """Add a run, once for all variants that share it."""
    if config.key in tasks:
        tasks[config.key] = replace(tasks[config.key], records=(*tasks[config.key].records, record))
    else:
        tasks[config.key] = Task(Job(config, folder / record.key, placement=placement_of(record)), (record,))


@contextmanager
def measuring(
    spec: StudySpec, executor: str, workers: int | None, folder: Path, say: Callable[[str], None]
) -> Iterator[Executor]:
    """Start an executor that measures adapters, with `inline` in this process."""
    pool = EXECUTORS[executor](EVALUATOR, Workplace.of(spec, workers, folder / LOGS, say))
    try:
        yield pool
    finally:
        pool.close(now=True)


def measure(
    tasks: Sequence[Task],
    executor: Executor,
    tracker: Tracker,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> Scored:
    """Measure runs and write each as it comes; `check` is called at least every second.

    Raises StoreError where MLflow does not take what is found.
    """
    by_key = {task.job.config.key: task for task in tasks}
    written, failed, moved = 0, {}, []
    for done, ending in enumerate(wait_for([task.job for task in tasks], executor, check), 1):
        task = by_key[ending.key]
        name, problem = named(task.records[:1]), problem_of(ending)
        if problem is not None:
            failed[name] = problem
            say(f"{done}/{len(by_key)} {name}: failed: {problem}")
            continue
        result, who = result_of(ending), measurers_of(task.job.config)
        final = result.final()
        for record in task.records:
            if not (task.job.from_samples and is_measured(record, who)):
                missing = _missing(record, who)
                new = [m for m in result.measurements if m.name in missing]
                finite = [m for m in new if math.isfinite(m.value)]
                tracker.log_scores(record, finite, result.facts, result.samples, who)
            if task.job.from_samples:
                tracker.attach_samples(record.run_id, task.job.folder)
            written += 1
        moved += [name] if _has_moved(task.records[0], final, who) else []
        shown = final.get("gold") or next(iter(final.values()), None)
        say(f"{done}/{len(by_key)} {name}: " + ("seen" if shown is None else f"{shown.name} {with_error(shown)}"))
    return Scored(written, failed, tuple(moved))


def _missing(record: RunRecord, who: Measurers) -> Sequence[str]:
    """The metrics of these measurers that a run lacks: gold alone where the evaluator is the same."""
    return sorted(JUDGED if has_numbers(record, who.measured, gold=False) else MEASURED)


def placement_of(record: RunRecord) -> Placement:
    """The precision that the run was trained and measured in, which a pilot may have chosen."""
    return Placement(bf16={"true": True, "false": False}.get(record.facts.get("bf16", "")))


def problem_of(ending: Ending) -> str | None:
    """Why a run was not measured, None where it was."""
    if isinstance(ending, Dropped):
        return "stopped"
    result = result_of(ending)
    if result.cause is Cause.USER_STOP:
        return "stopped"
    if result.state is State.COMPLETE:
        return None
    log = result.facts.get("log")
    return f"{result.cause}: {result.message.strip() or 'no message'}" + (f" (log: {log})" if log else "")


def _has_moved(record: RunRecord, final: Mapping[str, Measurement], who: Measurers) -> bool:
    """Whether the same evaluator now measures another number, by more than its standard error."""
    both = [name for name in CHECKED if name in record.metrics and name in final and record.measured == who.measured]
    return any(abs(record.metrics[name] - final[name].value) > record.errors.get(name, 0.0) for name in both)


def with_error(found: Measurement) -> str:
    """A measurement in words."""
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.value:.4g}{error} ({METRICS[found.name].unit})"


def named(records: Sequence[RunRecord]) -> str:
    """The first few runs, as MLflow's list names them."""
    names = [f"{r.variant} {r.scenario} t{r.trial} b{r.block} s{r.seed}" for r in records[:5]]
    return ", ".join(names) + (f" and {len(records) - 5} more" if len(records) > 5 else "")
