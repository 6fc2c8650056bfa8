"""What one `sweeper run` needs around its loop: lock, stores, executor, signals; prints nothing, decides nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

from dashboards.store.addresses import sqlite_file
from dashboards.store.records import StoreAway, StoreError, store_uri
from studies.design.answers import Compare, run_config_of, sort, unrecorded
from studies.design.identity import questions
from studies.design.measurers import Measurers, asked_of, is_unsettled, named_measurers, settled, under
from studies.records import PROBE, RunConfig, RunResult, State
from studies.schema.contents import judge_source
from studies.spec import Arm, StudySpec
from studies.text.plural import so_many
from sweeper.commands.retry import ask_again
from sweeper.executors import Executor, Inline, Process
from sweeper.folder.cleanup import remove_half_written, remove_states
from sweeper.folder.control import lock
from sweeper.folder.own_folder import refuse_foreign_folder
from sweeper.loop.progress import Outcome, Progress
from sweeper.loop.sweep import Sweep
from sweeper.measuring.remeasure import Scored, measure, measuring, stale
from sweeper.measuring.speed_probe import Probe
from sweeper.measuring.verify import Verification, verify
from sweeper.ownership.lease import LeaseLost, hold, watch
from sweeper.ownership.owner import mark_of, refuse_foreign, write_mark
from sweeper.planning.placement import Packs
from sweeper.recorded.contents import pairs_comparer
from sweeper.recorded.format_1 import asked_before
from sweeper.search.ledger import Ledger
from sweeper.search.search import Search
from sweeper.search.storage import StorageError, check_stores, storage_url
from sweeper.tracking.tracker import KnownRun, Tracker


class Interrupted(Exception):
    """The sweep cannot go on for want of something outside of it, and says what; what it has done is kept."""


@dataclass(frozen=True)
class Places:
    """Where a sweep keeps things. `storage` is Optuna's URL, `tracking` MLflow's (None: its default)."""

    folder: Path
    runs: Path
    storage: str
    tracking: str | None


def places(spec: StudySpec, folder: Path, storage: str | None) -> Places:
    """The places of a study run in `folder`."""
    return Places(folder, folder / spec.output.folder / spec.study, storage_url(storage, folder), None)


def run_session(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    study_text: str,
    where: Places,
    executor: str,
    workers: int | None,
    show: Callable[[Progress], None],
    tell_user: Callable[[str], None],
    table: Callable[[], Mapping[str, str]],
    verify_runs: int = 0,
    retry: Collection[str] = (),
    strict: bool = False,
) -> tuple[Outcome, Verification | None]:
    """Run a study to its end or until it is stopped; `table` gives the files kept with the sweep's MLflow run.

    `verify_runs`: so many finished runs are trained again alone, and told beside the outcome.

    Both databases are made before a worker starts. Ctrl-C stops at the next step of each run and keeps what can be
    resumed; a second one kills the workers. `retry`: train only the runs again that failed so, see `chosen_runs`.
    `strict`: take no run of an earlier version of whose sources nothing was recorded.
    Raises AlreadyRunning, ForeignStudy and ForeignFolder; StoreError, StorageError and OSError where it cannot begin;
    Interrupted where it cannot go on.
    """
    refuse_foreign_folder(where.runs)
    with one_at_a_time(where.folder):
        check_stores(where.storage, store_uri(where.tracking, where.folder))
    ledger = Ledger(where.storage, spec.study)
    refuse_foreign(spec.study, where)
    dead = watch(ledger, tell_user)
    with lock(where.runs), _held(ledger, where, dead, tell_user) as check_lease:
        remove_half_written(where.runs)
        with one_at_a_time(where.folder):
            tracker = Tracker(where.tracking, where.folder, tell_user)
            _claim(spec, where, tracker)
            tracker.open_study(spec, study_text, questions(spec, arms), strict=strict)
            compare = pairs_comparer()
            known = _known(spec, arms, where.storage, tracker, compare, tell_user)
            is_ours = _is_ours(known.keys, tracker.strict, compare)
            search = Search(spec, arms, where.storage, known.records, known.changed)
        if retry:
            ask_again(search, tracker, known.records, where.runs, retry)
        pool = _executor(spec, executor, workers or spec.resources.workers, where)
        finished = tabled = False

        def look(progress: Progress) -> None:
            check_lease()  # here, where the loop comes by at least every second
            show(progress)

        try:
            anew = _measure_again(spec, arms, known, where, executor, workers, tracker, tell_user, check_lease)
            if anew.written:
                known = _known(spec, arms, where.storage, tracker, compare, tell_user)
            packs = Packs(spec, arms, where.runs, workers, pool, tell_user)
            sweep = Sweep(
                *(spec, arms, search, tracker, known.under(asked_of(spec)), is_ours, pool, where.runs, packs),
                *(look, tell_user),
            )
            probe = Probe(spec, arms, tracker, where.runs, look, tell_user, time.monotonic(), check_lease)
            with stop_on_interrupt((sweep, probe), tell_user):
                if anew.stopped:
                    sweep.stop()
                outcome = replace(sweep.run(), unmeasured=len(anew.failed))
                verified = None
                if verify_runs and not outcome.stopped:
                    verified = verify(
                        list(sweep.finished.values()), verify_runs, pool, where.runs, packs.placement, check_lease
                    )
                if spec.probe is not None and not outcome.stopped and not search.partial:
                    pool.close()  # its workers would hold memory, and the threads of one are a share of the cores
                    pool = _executor(spec, executor, 1, where)
                    outcome = probe.run(pool, packs.placement, outcome)
            tabled = _log_table(tracker, table, check_lease)
            finished = tabled and outcome.whole and not outcome.unmeasured
            if finished:
                remove_states(where.runs)
        except (StoreError, StorageError, OSError, RuntimeError) as error:
            raise Interrupted(str(error)) from error
        finally:
            pool.close(now=not finished)
            with suppress(StoreError, OSError, LeaseLost):
                check_lease()
                tracker.close_study(finished=finished)
            search.close()
    return replace(outcome, undelivered=max(tracker.undelivered, 0 if tabled else 1)), verified


@dataclass(frozen=True)
class _Known:
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


def _known(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    storage: str,
    tracker: Tracker,
    compare: Compare,
    tell_user: Callable[[str], None],
) -> _Known:
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
    return _Known(
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


@contextmanager
def _held(ledger: Ledger, where: Places, dead: str, tell_user: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the study's lease, in a database that is made where there is none; see `lease.hold`."""
    file = sqlite_file(where.storage)
    beside = where.folder if file is None else file.absolute().parent
    with one_at_a_time(beside if beside.is_dir() else where.folder):
        ledger.make()
    with hold(ledger, where.folder, dead, tell_user) as check:
        yield check


def _claim(spec: StudySpec, where: Places, tracker: Tracker) -> None:
    """Write whose the study is where it is not written yet. Raises ForeignStudy where somebody else was quicker."""
    mark = mark_of(refuse_foreign(spec.study, where), where.folder)
    write_mark(mark, spec.study, where.runs, where.storage)
    if not tracker.claim(spec, asdict(mark)):
        refuse_foreign(spec.study, where)


def _is_ours(recorded: Collection[str], strict: bool, compare: Compare) -> Callable[[str, RunConfig, RunResult], bool]:
    """Whether a result that format 1 left in a run folder may be taken for that of a config: no run in MLflow, which
    would say more of it, has its key, and what it says of its sources is so now.
    """

    def is_ours(key: str, config: RunConfig, result: RunResult) -> bool:
        unknown = strict and unrecorded(config, result)
        return key not in recorded and not unknown and compare(result.facts, config) is None

    return is_ours


def _measure_again(
    spec: StudySpec,
    arms: Mapping[str, Arm],
    known: _Known,
    where: Places,
    executor: str,
    workers: int | None,
    tracker: Tracker,
    tell_user: Callable[[str], None],
    check: Callable[[], None],
) -> Scored:
    """Measure the finished runs that keep an adapter and that another evaluator or judge has measured: before anything
    is trained, as the search goes on from what is found.
    """
    tasks = stale(spec, arms, known.records, where.runs)
    if not tasks:
        return Scored(0, {}, ())
    tell_user(
        f"Measuring {so_many(len(tasks), 'finished run')} again, by {named_measurers(asked_of(spec))}; nothing is "
        "trained for it."
    )
    with measuring(spec, executor, workers, where.runs) as pool:
        stopper = Stopper(pool)
        with stop_on_interrupt((stopper,), tell_user):
            done = measure(tasks, pool, tracker, tell_user, check)
    return replace(done, stopped=stopper.stopped)


class Stopper:
    """Stops what an executor does, as one phase of a session."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.stopped = False

    def stop(self) -> None:
        """Hand out nothing more."""
        self.stopped = True
        self._executor.cancel(None)

    def finish_up(self) -> None:
        """Start nothing new."""
        self.stopped = True
        self._executor.hold_back()


def _executor(spec: StudySpec, name: str, workers: int | None, where: Places) -> Executor:
    if name == "inline":
        return Inline(spec.trainer)
    return Process(spec.trainer, workers, where.runs / "logs", env=spec.resources.env)


def _log_table(tracker: Tracker, table: Callable[[], Mapping[str, str]], check: Callable[[], None]) -> bool:
    """Keep the table with the sweep's run; False where MLflow is away, which has the runs that it is made of."""
    if tracker.undelivered:
        return False
    try:
        files = table()
        check()  # drawing them may have taken minutes
        tracker.log_table(files)
    except StoreAway:
        return False
    return True


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other sweeps in this folder from making the same databases at the same time, on which both tools fail."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Stoppable(Protocol):
    """What trains in this process or for it."""

    def stop(self) -> None:
        """Stop at the next step of what is in training."""
        ...

    def finish_up(self) -> None:
        """Start nothing new."""
        ...


@contextmanager
def stop_on_interrupt(phases: Sequence[Stoppable], tell_user: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: stop cleanly. Second: KeyboardInterrupt. SIGHUP: stop cleanly, in silence. SIGUSR1:
    finish what runs. Under `nohup`, where SIGHUP is ignored, it stays so.
    """
    asked = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        tell_user("Stopping at the next step; once more stops at once. The same command goes on from here.")
        for phase in phases:
            phase.stop()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = max(asked, 1)
        let_go_of_terminal()
        for phase in phases:
            phase.stop()

    def finish_up(_number: int, _frame: FrameType | None) -> None:
        tell_user("Finishing what runs and starting nothing new. The same command goes on from here.")
        for phase in phases:
            phase.finish_up()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: finish_up}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def let_go_of_terminal() -> None:
    """Send what is printed nowhere where it went to a terminal: that is gone, and writing to it would raise."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no file behind it, as in a notebook
            if os.isatty(stream.fileno()):
                os.dup2(silence, stream.fileno())
    os.close(silence)
