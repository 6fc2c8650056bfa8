"""Measures finished runs again, from the adapters that they left; what is found goes into the runs' own MLflow records.

Knows runs by record and config; an executor's workers measure them. Trains nothing, and what it has written already it
does not do again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from studies.design.answers import run_config_of
from studies.design.measurers import Measurers, asked_of, has_numbers, is_measured, measurers_of
from studies.records import JUDGED, MEASURED, METRICS, PROBE, Measurement, RunConfig, RunRecord, RunResult, State
from studies.spec import ResolvedVariant, StudySpec
from studies.text.files import is_folder
from sweeper.executors import Dropped, Executor, Finished, Inline, Lost, Process
from sweeper.tracking.tracker import Tracker
from trainers.interface import Job, Placement
from trainers.run_folder.results import ADAPTER, is_run_folder

EVALUATOR = "trainers.adapter_evaluator:AdapterEvaluator"
"""The trainer of executors that measures adapters."""
CHECKED = ("margin", "kl")  # of what was measured before, and is again


@dataclass(frozen=True)
class Task:
    """A run to be measured, and the records that it stands for: two variants may be the same run."""

    job: Job
    records: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Scored:
    """What was done: how many records were written, which runs failed and why, which measure otherwise now than when
    they were trained, and whether somebody stopped it.
    """

    written: int
    failed: Mapping[str, str]
    moved: tuple[str, ...]
    stopped: bool = False


def stale(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Iterable[RunRecord], folder: Path
) -> tuple[Task, ...]:
    """The finished runs that keep an adapter and lack numbers of those who measure now. `folder`: the study's runs."""
    if spec.trainer != "dpo":
        return ()
    found, asked = dict[str, Task](), asked_of(spec)
    for record in records:
        if record.state is not State.COMPLETE or record.arm == PROBE or is_measured(record, asked):
            continue
        config = run_config_of(spec, arms, record)
        if keeps_adapter(record, folder) and config.settings.get("use_peft"):
            add_task(found, config, record, folder)
    return tuple(found.values())


def keeps_adapter(record: RunRecord, folder: Path) -> bool:
    """Whether what a run has trained is still in its folder."""
    return is_run_folder(folder / record.key) and is_folder(folder / record.key / ADAPTER)


def add_task(tasks: dict[str, Task], config: RunConfig, record: RunRecord, folder: Path) -> None:
    """Add a run to what is measured, once for all variants that it is the run of."""
    if config.key in tasks:
        tasks[config.key] = replace(tasks[config.key], records=(*tasks[config.key].records, record))
    else:
        tasks[config.key] = Task(Job(config, folder / record.key, placement=_placement(record)), (record,))


@contextmanager
def measuring(spec: StudySpec, executor: str, workers: int | None, folder: Path) -> Iterator[Executor]:
    """Workers that measure adapters, with the executor `inline` this process."""
    pool: Executor = (
        Inline(EVALUATOR)
        if executor == "inline"
        else Process(EVALUATOR, workers or spec.resources.workers, folder / "logs", env=spec.resources.env)
    )
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
    waiting = {task.job.config.key: task for task in tasks}
    for task in tasks:
        executor.submit(task.job)
    written, failed, moved = 0, {}, []
    total = len(waiting)
    while waiting:
        check()
        for event in executor.events(timeout=1.0):
            if not isinstance(event, Finished | Lost | Dropped) or event.key not in waiting:
                continue
            task = waiting.pop(event.key)
            name = named(task.records[:1])
            problem = _problem(event)
            if problem is not None or not isinstance(event, Finished):
                failed[name] = problem or ""
                say(f"{total - len(waiting)}/{total} {name}: failed: {problem}")
                continue
            who, final = measurers_of(task.job.config), event.result.final()
            for record in task.records:
                new = [final[name] for name in _missing(record, who) if name in final]
                tracker.log_scores(
                    record, [m for m in new if math.isfinite(m.value)], event.result.facts, event.result.samples, who
                )
                written += 1
            moved += [name] if _has_moved(task.records[0], final, who) else []
            shown = final.get("gold") or next(iter(final.values()))
            say(f"{total - len(waiting)}/{total} {name}: {shown.name} {_with_error(shown)}")
    return Scored(written, failed, tuple(moved))


def _missing(record: RunRecord, who: Measurers) -> Sequence[str]:
    """The metrics that a run has not from these measurers: gold alone where the evaluator is the same."""
    return sorted(JUDGED if has_numbers(record, who.measured, gold=False) else MEASURED)


def _placement(record: RunRecord) -> Placement:
    """In the precision that the run was trained and measured in, which a pilot may have chosen once."""
    return Placement(bf16={"true": True, "false": False}.get(record.facts.get("bf16", "")))


def _problem(event: Finished | Lost | Dropped) -> str | None:
    """Why a run was not measured, None where it was."""
    if isinstance(event, Dropped):
        return "stopped"
    result: RunResult = event.result if isinstance(event, Finished) else event.result()
    if result.state is State.COMPLETE:
        return None
    log = result.facts.get("log")
    return f"{result.cause}: {result.message.strip() or 'no message'}" + (f" (log: {log})" if log else "")


def _has_moved(record: RunRecord, final: Mapping[str, Measurement], who: Measurers) -> bool:
    """Whether what the same evaluator measured of the run is another number now, by more than its standard error."""
    both = [name for name in CHECKED if name in record.metrics and name in final and record.measured == who.measured]
    return any(abs(record.metrics[name] - final[name].value) > record.errors.get(name, 0.0) for name in both)


def _with_error(found: Measurement) -> str:
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.value:.4g}{error} ({METRICS[found.name].unit})"


def named(records: Sequence[RunRecord]) -> str:
    """The first few runs, as MLflow's list shows them."""
    names = [f"{r.variant} {r.scenario} t{r.trial} b{r.block} s{r.seed}" for r in records[:5]]
    return ", ".join(names) + (f" and {len(records) - 5} more" if len(records) > 5 else "")
