"""What one `sweeper run` needs around its loop: lock, stores, executor, signals; prints nothing, decides nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from studies.spec import Arm, StudySpec
from sweeper.executors import Executor, Inline, Process
from sweeper.placement import decide
from sweeper.progress import Outcome, Progress
from sweeper.search import Search
from sweeper.sweep import Sweep
from sweeper.tracking import Tracker
from sweeper.verify import Verification, verify


class AlreadyRunning(Exception):
    """Another process runs this study."""


@dataclass(frozen=True)
class Places:
    """Where a sweep keeps things. `storage` is Optuna's URL, `tracking` MLflow's (None: its default)."""

    folder: Path
    runs: Path
    storage: str
    tracking: str | None


def places(spec: StudySpec, folder: Path, storage: str | None) -> Places:
    """The places of a study run in `folder`."""
    url = storage or f"sqlite:///{folder / 'optuna.db'}"
    return Places(folder, folder / spec.output.folder / spec.study, url, None)


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
) -> tuple[Outcome, Verification | None]:
    """Run a study to its end or until it is stopped; `table` gives the files kept with the sweep's MLflow run.

    `verify_runs`: so many finished runs are trained again alone, and told beside the outcome.

    Both databases are made before a worker starts. Ctrl-C stops at the next step of each run and keeps what can be
    resumed; a second one kills the workers. Raises AlreadyRunning.
    """
    with lock(where.runs):
        search = Search(spec, arms, where.storage)
        tracker = Tracker(where.tracking, where.folder)
        tracker.open_study(spec, study_text)
        pool: Executor = (
            Inline(spec.trainer)
            if executor == "inline"
            else Process(spec.trainer, workers or spec.resources.workers, where.runs / "logs")
        )
        finished = False
        try:
            placement = decide(spec, arms, where.runs, workers, pool, tell_user)
            sweep = Sweep(spec, arms, search, tracker, pool, where.runs, placement, show, tell_user)
            with stop_on_interrupt(sweep, tell_user):
                outcome = sweep.run()
            tracker.log_table(table())
            verified = None
            if verify_runs and not outcome.stopped:
                again = where.runs / "verify"
                verified = verify(list(sweep.finished.values()), verify_runs, pool, again, placement)
                shutil.rmtree(again, ignore_errors=True)
            finished = not outcome.stopped and not outcome.failed
        finally:
            pool.close(now=not finished)
            tracker.close_study(finished=finished)
            search.close()
    return outcome, verified


@contextmanager
def lock(runs: Path) -> Iterator[None]:
    """Hold the study for this process. The kernel lets go when the process ends, however it ends."""
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "sweep.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"This study is being run already, by process {file.read().strip() or '?'} (lock {file.name}). "
                "Wait for it, or stop it with Ctrl-C there."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def stop_on_interrupt(sweep: Sweep, tell_user: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: stop cleanly. Second: KeyboardInterrupt."""
    asked = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        tell_user("Stopping at the next step; once more stops at once. The same command goes on from here.")
        sweep.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
