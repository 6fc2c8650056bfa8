"""What one `sweeper run` needs around its loop: lock, stores, executor, signals; prints nothing, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreAway, StoreError, store_uri
from studies.design.identity import questions
from studies.design.measurers import asked_of, named_measurers
from studies.spec import ResolvedVariant, StudySpec
from studies.text.plural import so_many
from sweeper.commands.retry import ask_again
from sweeper.commands.signals import Stopper, stop_on_interrupt
from sweeper.executors import Executor, Inline, Process
from sweeper.folder.cleanup import remove_half_written, remove_states
from sweeper.folder.control import lock, one_at_a_time
from sweeper.folder.own_folder import refuse_foreign_folder
from sweeper.folder.paths import StudyPaths
from sweeper.loop.progress import Interrupted, Outcome, Progress
from sweeper.loop.sweep import Sweep
from sweeper.measuring.remeasure import Scored, measure, measuring, stale
from sweeper.measuring.speed_probe import Probe
from sweeper.measuring.verify import Verification, verify
from sweeper.ownership.lease import LeaseLost, hold, watch
from sweeper.ownership.owner import mark_of, refuse_foreign, write_mark
from sweeper.planning.placement import Packs
from sweeper.recorded.contents import pairs_comparer
from sweeper.recorded.known import Known, find_known, is_ours_by
from sweeper.search.ledger import Ledger
from sweeper.search.search import Search
from sweeper.search.storage import StorageError, check_stores
from sweeper.tracking.tracker import Tracker


def run_session(
    spec: StudySpec,
    arms: Mapping[str, ResolvedVariant],
    study_text: str,
    where: StudyPaths,
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
            known = find_known(spec, arms, where.storage, tracker, compare, tell_user)
            is_ours = is_ours_by(known.keys, tracker.strict, compare)
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
                known = find_known(spec, arms, where.storage, tracker, compare, tell_user)
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


@contextmanager
def _held(
    ledger: Ledger, where: StudyPaths, dead: str, tell_user: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Hold the study's lease, in a database that is made where there is none; see `lease.hold`."""
    file = sqlite_file(where.storage)
    beside = where.folder if file is None else file.absolute().parent
    with one_at_a_time(beside if beside.is_dir() else where.folder):
        ledger.make()
    with hold(ledger, where.folder, dead, tell_user) as check:
        yield check


def _claim(spec: StudySpec, where: StudyPaths, tracker: Tracker) -> None:
    """Write whose the study is where it is not written yet. Raises ForeignStudy where somebody else was quicker."""
    mark = mark_of(refuse_foreign(spec.study, where), where.folder)
    write_mark(mark, spec.study, where.runs, where.storage)
    if not tracker.claim(spec, asdict(mark)):
        refuse_foreign(spec.study, where)


def _measure_again(
    spec: StudySpec,
    arms: Mapping[str, ResolvedVariant],
    known: Known,
    where: StudyPaths,
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


def _executor(spec: StudySpec, name: str, workers: int | None, where: StudyPaths) -> Executor:
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
