"""What one `sweeper run` needs around its loop: lock, stores, executor, signals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreAway, StoreError, store_uri
from studies.design.answers import Compare
from studies.design.identity import questions
from studies.design.measurers import asked_of, named_measurers
from studies.spec import Study, StudySpec
from studies.text.plural import so_many
from sweeper.commands.retry import ask_again
from sweeper.commands.signals import Stopper, stop_on_interrupt
from sweeper.executors import EXECUTORS, Executor, Workplace
from sweeper.folder.border import Border
from sweeper.folder.cleanup import remove_half_written, remove_states
from sweeper.folder.control import lock, one_at_a_time
from sweeper.folder.names import LOGS
from sweeper.folder.own_folder import refuse_foreign_folder
from sweeper.folder.paths import StudyPaths
from sweeper.loop.progress import Interrupted, Outcome, Progress, Screen
from sweeper.loop.recovery import Past
from sweeper.loop.sweep import Stores, Sweep
from sweeper.measuring.remeasure import Scored, measure, measuring, stale
from sweeper.measuring.speed import SpeedMeter
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
    study: Study,
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
    ledger, dead = _look(study.spec, where, tell_user)
    with (
        lock(where.runs),
        _held(ledger, where, dead, tell_user) as check_lease,
        Border(where.runs, study.spec.study, study.variants.keys(), tell_user) as border,
    ):
        remove_half_written(where.runs)

        def look(progress: Progress) -> None:
            check_lease()  # here, where the loop comes by at least every second
            border.look(progress)
            show(progress)

        of_user = (where, executor, workers, Screen(look, tell_user), check_lease, border)
        with one_at_a_time(where.folder):
            session = _open(study, study_text, *of_user, strict=strict)
        search, tracker = session.search, session.tracker
        if retry:
            ask_again(search, tracker, session.known.records, where.runs, retry)
        pool, finished, tabled = session.pool(), False, False
        try:
            outcome, verified = _train(session, pool, verify_runs)
            border.phase("report")
            tabled = _log_table(tracker, table, check_lease)
            finished = tabled and outcome.whole and not outcome.unmeasured
            if finished:
                border.how = "finished"
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
class _Session:
    """A study that is open: its stores, what they have of it, who trains it, and who watches and steers. `check` raises
    where the study is somebody else's by now.
    """

    study: Study
    where: StudyPaths
    executor: str
    workers: int | None
    screen: Screen
    check: Callable[[], None]
    border: Border
    search: Search
    tracker: Tracker
    known: Known
    compare: Compare

    def pool(self) -> Executor:
        """Workers that train, as many as the user or the study says."""
        count = self.workers or self.study.spec.resources.workers
        place = Workplace(count, self.where.runs / LOGS, self.study.spec.resources.env)
        return self.border.watch(EXECUTORS[self.executor](self.study.spec.trainer, place))

    def past(self, known: Known) -> Past:
        """The runs of `known` as a sweep takes them up."""
        is_ours = is_ours_by(self.known.keys, self.tracker.strict, self.compare)
        return Past(known.under(asked_of(self.study.spec)), is_ours, self.where.runs, self.screen.tell_user)


def _open(
    study: Study,
    study_text: str,
    where: StudyPaths,
    executor: str,
    workers: int | None,
    screen: Screen,
    check: Callable[[], None],
    border: Border,
    *,
    strict: bool,
) -> _Session:
    """Open both stores and read what they have of the study."""
    spec = study.spec
    tracker = Tracker(where.tracking, where.folder, screen.tell_user)
    _claim(spec, where, tracker)
    tracker.open_study(spec, study_text, questions(study), strict=strict)
    compare = pairs_comparer()
    known = find_known(study, where.storage, tracker, compare, screen.tell_user)
    search = Search(spec, study.variants, where.storage, known.records, known.changed)
    return _Session(study, where, executor, workers, screen, check, border, search, tracker, known, compare)


def _train(session: _Session, pool: Executor, verify_runs: int) -> tuple[Outcome, Verification | None]:
    """Measure again what others measure now, run the sweep, verify some of its runs, and time the study's variants.
    `pool`: the sweep's workers, which are closed before that.
    """
    study, where, check = session.study, session.where, session.check
    tell_user, tracker, known = session.screen.tell_user, session.tracker, session.known
    border = session.border
    anew = _measure_again(session)
    if anew.written:
        known = find_known(study, where.storage, tracker, session.compare, tell_user)
    packs = Packs(study, where.runs, session.workers, pool, tell_user)
    stores = Stores(session.search, tracker)
    sweep = Sweep(study, stores, session.past(known), pool, where.runs, packs, session.screen)
    meter = SpeedMeter(study, tracker, where, session.screen)
    with stop_on_interrupt((sweep, meter), tell_user), border.steered():
        border.phase("train")
        if anew.stopped:
            sweep.stop()
        outcome = replace(sweep.run(), unmeasured=len(anew.failed))
        verified = None
        if verify_runs and not outcome.stopped:
            border.phase("verify")
            finished = list(sweep.finished.values())
            verified = verify(finished, verify_runs, pool, where.runs, packs.placement, check)
        if not outcome.stopped and not session.search.partial:
            meter.run(packs.placement.bf16, begin=lambda: _clear_the_machine(session, pool))
    return outcome, verified


def _clear_the_machine(session: _Session, pool: Executor) -> None:
    """For what is timed: workers hold memory, and would take time from it."""
    pool.close()
    session.border.phase("speed")


def _look(spec: StudySpec, where: StudyPaths, tell_user: Callable[[str], None]) -> tuple[Ledger, str]:
    """Refuse what cannot be run here, before anything is written; the study's ledger, and who held it and is dead."""
    refuse_foreign_folder(where.runs)
    with one_at_a_time(where.folder):
        check_stores(where.storage, store_uri(where.tracking, where.folder))
    ledger = Ledger(where.storage, spec.study)
    refuse_foreign(spec.study, where)
    return ledger, watch(ledger, tell_user)


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


def _measure_again(session: _Session) -> Scored:
    """Measure the finished runs that keep an adapter and that another evaluator or judge has measured: before anything
    is trained, as the search goes on from what is found.
    """
    spec, where, tell_user = session.study.spec, session.where, session.screen.tell_user
    tasks = stale(session.study, session.known.records, where.runs)
    if not tasks:
        return Scored(0, {}, ())
    tell_user(
        f"Measuring {so_many(len(tasks), 'finished run')} again, by {named_measurers(asked_of(spec))}; nothing is "
        "trained for it."
    )
    session.border.phase("measure")
    with measuring(spec, session.executor, session.workers, where.runs) as pool:
        stopper = Stopper(pool)
        with stop_on_interrupt((stopper,), tell_user), session.border.steered():
            done = measure(tasks, session.border.watch(pool), session.tracker, tell_user, session.check)
    return replace(done, stopped=stopper.stopped)


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
