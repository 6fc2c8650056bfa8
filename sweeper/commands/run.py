"""Runs `sweeper run`: lock, stores, executor and signals around the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreAway, StoreError, store_uri
from studies.design.identity import questions
from studies.design.measurers import asked_of, named_measurers
from studies.spec import Study, StudySpec
from studies.text.plural import so_many
from sweeper.commands.detached.start import keep_output
from sweeper.commands.retry import ask_again
from sweeper.commands.session.rounds import RoundsTrained
from sweeper.commands.session.session import Session
from sweeper.commands.signals import Stopper, stop_on_interrupt
from sweeper.executors import ELSEWHERE, Executor
from sweeper.folder.cleanup import remove_half_written, remove_states, stopped_on_their_way
from sweeper.folder.control import lock, one_at_a_time
from sweeper.folder.events import Line
from sweeper.folder.own_folder import refuse_foreign_folder
from sweeper.folder.paths import StudyPaths
from sweeper.folder.steering.border import Border
from sweeper.folder.steering.rounds import NextVersion, takes_none
from sweeper.loop.progress import Interrupted, Outcome, Progress, Screen
from sweeper.measuring.remeasure import Scored, Task, measure, measuring, stale
from sweeper.measuring.samples import unjudged
from sweeper.measuring.speed import SpeedMeter
from sweeper.measuring.verify import Verification, verify
from sweeper.ownership.lease import Lease, LeaseLost, hold, watch
from sweeper.ownership.owner import mark_of, refuse_foreign, write_mark
from sweeper.recorded.contents import pairs_comparer
from sweeper.recorded.known import find_known
from sweeper.search.ledger import Ledger
from sweeper.search.patience.waiting import Patience
from sweeper.search.search import Search
from sweeper.search.storage import StorageError, check_stores
from sweeper.tracking.tracker import Tracker


def run_session(
    study: Study,
    study_text: str,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    show: Callable[[Progress], None],
    tell_user: Callable[[str], None],
    table: Callable[[Study], Mapping[str, str]],
    verify_runs: int = 0,
    retry: Collection[str] = (),
    strict: bool = False,
    watch_events: Callable[[Line], None] = lambda _: None,
    next_version: NextVersion = takes_none,
) -> tuple[Outcome, Verification | None, Study]:
    """Run a study until it is complete or stopped; `table` makes the files kept with the sweep's MLflow run. Gives the
    study as it was trained last, too: `next_version` makes another version of it of a file, where somebody asks.

    `verify_runs`: so many finished runs are trained again alone, for the second result.
    Both databases are made before a worker starts. Ctrl-C stops at the next step of each run and keeps its state; a
    second one kills the workers. `retry`: train again only the runs that failed so, see `chosen_runs`. `strict`:
    reuse no run of an earlier version that recorded nothing of its sources. `watch_events` gets every event. Raises
    AlreadyRunning, ForeignStudy and ForeignFolder; StoreError, StorageError and OSError where it cannot begin;
    Interrupted where it cannot go on.
    """
    ledger, dead = first_look(study.spec, where, tell_user)
    with (
        lock(where.runs),
        held(ledger, where, dead, tell_user) as lease,
        Border(where.runs, study, tell_user, watch_events, next_version) as border,
    ):
        remove_half_written(where.runs)

        def look(progress: Progress) -> None:
            lease.check()  # here, where the loop comes by at least every second
            border.look(progress)
            show(progress)

        of_user = (where, executor, workers, Screen(look, tell_user), lease, border)
        with one_at_a_time(where.folder):
            session = _open(study, study_text, *of_user, strict=strict)
        search, tracker = session.search, session.tracker
        if retry:
            ask_again(search, tracker, session.known.records, where.runs, retry)
        finished = False
        try:
            outcome, verified, last = _measure_and_train(session, verify_runs, table)
            finished = border.how == "finished"
        finally:
            with suppress(StoreError, OSError, LeaseLost):
                lease.check()
                tracker.close_study(finished=finished)
            search.close()
    return replace(outcome, undelivered=max(tracker.undelivered, outcome.undelivered)), verified, last


def _open(
    study: Study,
    study_text: str,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    screen: Screen,
    lease: Lease,
    border: Border,
    *,
    strict: bool,
) -> Session:
    """Open both stores and read the study's records."""
    spec = study.spec
    tracker = Tracker(where.tracking, where.folder, screen.tell_user)
    claim(spec, where, tracker)
    tracker.open_study(spec, study_text, questions(study), strict=strict)
    compare = pairs_comparer()
    known = find_known(study, where.storage, tracker, compare, screen.tell_user)
    patience = Patience(screen.tell_user, lease.renew)
    search = Search(spec, study.variants, where.storage, known.records, known.changed, patience)
    return Session(study, where, executor, workers, screen, lease, border, search, tracker, known, compare)


def _measure_and_train(
    session: Session, verify_runs: int, table: Callable[[Study], Mapping[str, str]]
) -> tuple[Outcome, Verification | None, Study]:
    """Measure again what other evaluators measured, and then start the workers and train: workers elsewhere come in by
    a door, and there is one at a time. Raises Interrupted; OSError where the workers cannot be started at all.
    """
    with _interrupting():
        session, anew = _measure_again(session)
    pool = session.pool()
    try:
        with _interrupting():
            return _train_and_report(session, pool, anew, verify_runs, table)
    finally:
        pool.close(now=session.border.how != "finished")


@contextmanager
def _interrupting() -> Iterator[None]:
    """What a store or the workers cannot go on with interrupts the sweep."""
    try:
        yield
    except (StoreError, StorageError, OSError, RuntimeError) as error:
        raise Interrupted(str(error)) from error


def _train_and_report(
    session: Session, pool: Executor, anew: Scored, verify_runs: int, table: Callable[[Study], Mapping[str, str]]
) -> tuple[Outcome, Verification | None, Study]:
    """Train all that is missing and keep the table; tells the border how the sweep ends."""
    border, tracker = session.border, session.tracker
    outcome, verified, study = _train(session, pool, anew, verify_runs)
    border.phase("report")
    tabled = _log_table(tracker, lambda: table(study), session.lease.check)
    border.how, border.why = outcome.ending(tabled=tabled)
    if border.how == "finished":
        remove_states(session.where.runs)
    return replace(outcome, undelivered=0 if tabled else 1), verified, study


def _train(
    session: Session, pool: Executor, anew: Scored, verify_runs: int
) -> tuple[Outcome, Verification | None, Study]:
    """Run the sweep, verify some of its runs, and time the variants.

    `pool`: the sweep's workers, which are closed before that; `anew`: what was measured again.
    """
    where, check, tell_user = session.where, session.lease.check, session.screen.tell_user
    border = session.border
    rounds = RoundsTrained(session, pool)
    meter = SpeedMeter(session.tracker, where, session.screen)
    with stop_on_interrupt((rounds, meter), tell_user), border.steered():
        border.phase("train")
        if anew.stopped:
            rounds.stop()
        outcome = replace(rounds.run(), unmeasured=len(anew.failed))
        outcome = replace(outcome, on_their_way=stopped_on_their_way(where.runs) if outcome.stopped else 0)
        verified = None
        if verify_runs and not outcome.stopped:
            border.phase("verify")
            finished = list(rounds.sweep.finished.values())
            verified = verify(finished, verify_runs, pool, where.runs, rounds.packs.placement, check)
        if outcome.stopped or rounds.partial:
            pass
        elif session.executor in ELSEWHERE:
            border.phase("speed")
            meter.run_in(pool, rounds.study, rounds.packs.placement.bf16, rounds.sweep.devices)
        else:
            meter.run(rounds.study, rounds.packs.placement.bf16, begin=lambda: _clear_the_machine(session, pool))
    if not outcome.stopped and not rounds.partial:
        outcome = _ask_judges(replace(session, study=rounds.study), pool, outcome)
    return outcome, verified, rounds.study


def _ask_judges(session: Session, pool: Executor, outcome: Outcome) -> Outcome:
    """Let those look at the samples of the judging runs who have not: the second judge, the check, one that compares.

    `pool`: the sweep's workers, which are closed before that: a judge and a policy take turns on a card.
    """
    study, tell_user = session.study, session.screen.tell_user
    if session.tracker.undelivered or not study.spec.evaluation.judges:
        return outcome
    known = find_known(study, session.where.storage, session.tracker, session.compare, tell_user)
    tasks = unjudged(study, known.records, session.where.runs)
    if not tasks:
        return outcome
    pool.close()
    judges = " and ".join(dict.fromkeys(judge.name for judge in study.spec.evaluation.judges.values()))
    tell_user(f"Asking {judges} about the samples of {so_many(len(tasks), 'judging run')}.")
    done = _measured(session, tasks)
    return replace(outcome, unmeasured=outcome.unmeasured + len(done.failed), stopped=outcome.stopped or done.stopped)


def _clear_the_machine(session: Session, pool: Executor) -> None:
    """For what is timed: workers hold memory, and would take time from it."""
    pool.close()
    session.border.phase("speed")


def first_look(spec: StudySpec, where: StudyPaths, tell_user: Callable[[str], None]) -> tuple[Ledger, str]:
    """Refuse what cannot run here, before anything is written; gives the study's ledger, and its dead holder."""
    refuse_foreign_folder(where.runs)
    with one_at_a_time(where.folder):
        check_stores(where.storage, store_uri(where.tracking, where.folder))
    ledger = Ledger(where.storage, spec.study)
    refuse_foreign(spec.study, where)
    return ledger, watch(ledger, tell_user)


@contextmanager
def held(ledger: Ledger, where: StudyPaths, dead: str, tell_user: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the study's lease, in a database that is created where there is none; see `lease.hold`. Sends what is
    printed to the study's log from then on, where it has one.
    """
    file = sqlite_file(where.storage)
    beside = where.folder if file is None else file.absolute().parent
    with one_at_a_time(beside if beside.is_dir() else where.folder):
        ledger.make()
    with hold(ledger, where.folder, dead, tell_user) as lease:
        if where.log is not None:
            keep_output(where.log)
        yield lease


def claim(spec: StudySpec, where: StudyPaths, tracker: Tracker) -> None:
    """Write the study's owner where there is none. Raises ForeignStudy where somebody else was quicker."""
    mark = mark_of(refuse_foreign(spec.study, where), where.folder)
    write_mark(mark, spec.study, where.runs, where.storage)
    if not tracker.claim(spec, asdict(mark)):
        refuse_foreign(spec.study, where)


def _measure_again(session: Session) -> tuple[Session, Scored]:
    """Measure finished runs again that keep an adapter and that another evaluator or judge has measured: before
    training, as the search uses their values. Gives the session that knows them.
    """
    spec, where, tell_user = session.study.spec, session.where, session.screen.tell_user
    tasks = stale(session.study, session.known.records, where.runs)
    if not tasks:
        return session, Scored(0, {}, ())
    tell_user(
        f"Measuring {so_many(len(tasks), 'finished run')} again, by {named_measurers(asked_of(spec))}; nothing is "
        "trained for it."
    )
    anew = _measured(session, tasks)
    if anew.written:
        known = find_known(session.study, where.storage, session.tracker, session.compare, tell_user)
        session = replace(session, known=known)
    return session, anew


def _measured(session: Session, tasks: Sequence[Task]) -> Scored:
    """Measure finished runs in workers of their own."""
    tell_user = session.screen.tell_user
    session.border.phase("measure")
    with measuring(session.study.spec, session.executor, session.workers, session.where.runs, tell_user) as pool:
        stopper = Stopper(pool)
        with stop_on_interrupt((stopper,), tell_user), session.border.steered():
            done = measure(tasks, session.border.watch(pool), session.tracker, tell_user, session.lease.check)
    return replace(done, stopped=stopper.stopped)


def _log_table(tracker: Tracker, table: Callable[[], Mapping[str, str]], check: Callable[[], None]) -> bool:
    """Keep the table with the sweep's run; False where MLflow is away, which has the runs of the table."""
    for _ in range(2):  # it may go away while the table is made
        if not tracker.wait():
            return False
        with suppress(StoreAway):
            files = table()
            check()  # drawing them may have taken minutes
            tracker.log_table(files)
            return True
    return False
