"""The loop of a sweep: ask, train, record, tell.

- `Feeder` (queue.py): asks Optuna for trials, queues their runs in the `RunQueue`, and tells Optuna the outcome.
- `RunEnds` (queue.py): what the end of a run leads to: a rung, another attempt, a trial put off, or the last word.
- `Recorder` (recording.py): the MLflow run of each run, from its start to its end; the tally.
- `TrialBook` (trials.py): the runs of a trial; says when one is complete, the best, to be confirmed.
- `OpenBrackets` (brackets.py): with rungs, what a report decides: train these on, close those.
- `Limits` (limits.py): budgets, time limits, failing workers; says what must finish up, stop or be killed.
- `Attempts`, `Refusals` (retries.py): whether a run that ended badly is tried again, and whether any could train.
- `Past`, `reconcile` (recovery.py): MLflow, result.json and Optuna before the sweep: what stands, what is superseded.

Each store has one writer: the feeder writes to the search, the recorder to the tracker, and the sweep alone speaks to
the executor. The sweep knows all parts; `RunEnds` knows the feeder, and the feeder the recorder; the others know none
of these, and return what they decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studies.design.counts import planned_runs, planned_trials
from studies.design.points import CONFIRM
from studies.records import EMBEDDED_MODELS, Cause, RunResult
from studies.spec import Study, StudySpec
from studies.text.lines import first_line
from studies.text.plural import so_many
from sweeper.executors import (
    Cancel,
    Dropped,
    DropWaiting,
    Event,
    Executor,
    Finished,
    Kill,
    Lost,
    Reported,
    SetAside,
    Started,
    WorkerNews,
    WorkerState,
)
from sweeper.folder.cleanup import set_aside
from sweeper.folder.control import paused
from sweeper.loop.brackets import OpenBrackets
from sweeper.loop.limits import FinishUp, Limits, Stop
from sweeper.loop.progress import Outcome, Progress, Screen, Tally
from sweeper.loop.queue import Feeder, RunEnds, RunQueue, Waiting, told_failing
from sweeper.loop.recording import Recorder
from sweeper.loop.recovery import Past
from sweeper.loop.trials import Best, TrialBook
from sweeper.planning.placement import Packs
from sweeper.planning.plan import show_knobs
from sweeper.stores import Search, Tracker
from trainers.interface import Doing, Job, Placement, Sized

LOOK_SECONDS = 1.0  # how long the loop waits for events before it looks at the clock


@dataclass(frozen=True)
class Stores:
    """Where a sweep writes: Optuna's trials and MLflow's runs."""

    search: Search
    tracker: Tracker


class Sweep:
    """One sweep of a study, from what is recorded already to the last run; `run` is the whole of it."""

    def __init__(
        self,
        study: Study,
        stores: Stores,
        past: Past,
        executor: Executor,
        folder: Path,
        packs: Packs,
        screen: Screen,
        began: float | None = None,
    ) -> None:
        """`folder`: the study's runs; `began`: when the time of its budget did, on the monotonic clock, None: now."""
        spec, variants = study.spec, study.variants
        self._spec, self._variants, self._search, self._executor = spec, variants, stores.search, executor
        self._folder, self._packs, self._screen = folder, packs, screen
        self._book, self._queue = TrialBook(spec, variants), RunQueue()
        self._record = Recorder(spec, stores.tracker, past, folder)
        self._brackets = OpenBrackets(spec, planned_trials(study), stores.search.strata, folder)
        of_feeder = (stores.search, self._record, past, self._book, self._queue, self._brackets)
        self._feeder = Feeder(*of_feeder, packs.placement, folder, screen)
        self._limits = Limits(spec.budget, folder, time.monotonic() if began is None else began)
        self._view = _View(packs, planned_runs(study), self._limits, screen.tell_user)
        self._ends = RunEnds(spec, variants, self._record, self._feeder, self._queue, self._brackets, screen)
        self.finished, self.devices = self._book.finished, self._book.devices
        self._paused, self._stopping = paused(folder), False
        self.closing = False  # it starts nothing new: stopped, or out of its budget or of workers

    def run(self) -> Outcome:
        """Train all that is missing. Returns when the study is complete, out of budget, or stopped."""
        self._feeder.recover()
        self._drain()
        if not self.closing and not self._search.partial:
            self._feeder.confirm(self._paused)
            self._drain()
        held = self._held_back()
        if not (self.closing or held or self._search.partial):
            self._record.replace_all()
        self._feeder.requeue_open()
        self._record.keep_adapters(self._book.best_configs())
        self._limits.keep(time.monotonic(), at_once=True)
        return self._view.outcome(self._record.tally, self.closing or held, self._ends.unusable)

    def stop(self) -> None:
        """Stop at the next report of every run in training; what they asked for is asked again next time."""
        self._stopping = self.closing = True
        self._executor.stop(Cancel())

    def finish_up(self) -> None:
        """Start nothing new, and end when the runs in training have."""
        self.closing = True
        self._executor.stop(DropWaiting())

    def _drain(self) -> None:
        """Train until nothing is left to ask for, or the sweep is told to stop."""
        while True:
            self._check_limits(time.monotonic())
            # More than can train, so that no worker waits while results are recorded.
            most = self._executor.capacity.jobs(self._packs.together)
            while not self.closing and len(self._queue.training) < most and self._submit_next():
                pass
            state = (self._record.tally, self._book.best(), self._queue.in_workers(), self._stopping)
            self._screen.show(self._view.progress(time.monotonic(), *state))
            waits = [] if self.closing else self._queue.waits(time.monotonic(), self._paused)
            if not self._queue.training and all(wait is None for wait in waits):
                return
            for event in self._executor.events(min([LOOK_SECONDS, *(wait for wait in waits if wait)])):
                self._handle(event)

    def _submit_next(self) -> bool:
        """Hand one run to the executor. False when there is none to hand over now."""
        while (waiting := self._queue.due(time.monotonic(), self._paused)) is None:
            if not self._feeder.ask(self._paused, rungs=self._spec.rungs is not None):
                return False
        config, own = waiting.config, waiting.attempt.placement
        if not self._queue.take(waiting):
            return False
        if self._feeder.answer(waiting.runs, config):
            return True
        for notice in set_aside(self._folder / config.key):
            self._screen.tell_user(notice)
        self._queue.begin(waiting)
        placement = self._packs.place(config, self._ends.attempts.placement(config, own))
        self._executor.submit(_job(self._spec, self._folder, waiting, placement))
        return True

    def _handle(self, event: Event) -> None:
        match event:
            case Started(key=key):
                self._limits.begun(event)
                if key in self._queue.training:
                    self._record.begin(self._queue.training[key])
            case Dropped(key=key):
                self._ended(key, RunResult(key=key, cause=Cause.USER_STOP), time.monotonic())
            case Reported(key=key, step=step, metrics=metrics) if key in self._queue.training:
                self._record.report(self._queue.training[key], step, metrics)
            case Finished(key=key, result=result, at=at):
                self._ended(key, result, at)
            case Lost(key=key, worker=worker, at=at):
                self._view.forget(worker)
                self._ended(key, event.result(), at)
            case WorkerNews() | WorkerState():
                self._view.take(event)

    def _ended(self, key: str, result: RunResult, at: float) -> None:
        if (run := self._queue.training.pop(key, None)) is None:
            return
        self._record.finish(run, result, at_rung=self._ends.is_at_rung(result))
        occupancy = self._limits.ended(key, result.cause, at)
        if occupancy is not None:
            self._judge_worker(occupancy.worker, key, result, at)
        if self._ends.settle(run, result, occupancy, closing=self.closing):
            self.stop()

    def _judge_worker(self, worker: str, key: str, result: RunResult, at: float) -> None:
        """Set a worker aside that fails one run after another, and end where none is left."""
        failed = self._limits.failing(worker, key, result.cause, at)
        if failed is None:
            return
        self._screen.tell_user(told_failing(self._executor.capacity.workers.get(worker, worker), failed, result))
        self._executor.stop(SetAside(worker))
        if not self._executor.capacity.workers and not self.closing:
            self._screen.tell_user("No worker is left: the sweep ends. Mend what the log tells, then run it again.")
            self.finish_up()

    def _check_limits(self, now: float) -> None:
        """Look at the clock and at what other terminals have asked for."""
        self._limits.keep(now)
        self._paused = paused(self._folder)
        in_executor = len(self._queue.training) > len(self._limits.in_training(now))
        for order in self._limits.check(now, len(self._executor.capacity.workers), self._packs.together):
            match order:
                case Stop(reason) if not self._stopping:
                    self._screen.tell_user(f"Stopping at the next step: {reason}.")
                    self.stop()
                case FinishUp(reason) if not self.closing and (in_executor or self._feeder.has_more(self._variants)):
                    self._screen.tell_user(f"Starting nothing new: {reason}.")
                    self.finish_up()
                case Kill(key) as kill if key in self._queue.training:
                    self._executor.stop(kill)

    def _held_back(self) -> bool:
        """Whether a paused variant has something left to train; says so."""
        left = self._feeder.held_back([variant for variant in self._variants if variant in self._paused])
        if left and not self.closing:
            self._screen.tell_user(f"Paused, with runs left: {', '.join(left)}. Let it go on with `sweeper resume`.")
        return bool(left)


class _View:
    """What is shown of a sweep while it runs: how far it is, and what workers tell that is of no run."""

    def __init__(self, packs: Packs, planned: int, limits: Limits, tell_user: Callable[[str], None]) -> None:
        self._packs, self._planned, self._limits = packs, planned, limits
        self._tell_user, self._told = tell_user, set[str]()
        self._doing: dict[str, tuple[str, float]] = {}
        self._workers: dict[str, WorkerState] = {}
        self._stopped_at: float | None = None

    def take(self, event: WorkerNews | WorkerState) -> None:
        """A worker has news, or waits, is here, or is gone."""
        match event:
            case WorkerNews(worker=worker, news=Sized() as news):
                self._packs.update(worker, news)
            case WorkerNews(worker=worker, news=Doing(what), at=at):
                self._doing[worker] = (what, at)
            case WorkerState(worker=worker, state="gone", why=why):
                before = self._workers.pop(worker, None)
                if why not in self._told and (before is None or before.state != "here"):  # each would say it for hours
                    self._told.add(why)
                    self._tell_user(f"{worker} ({event.place}) ended before it could take a run: {first_line(why)}")
            case WorkerState():
                self._workers[event.worker] = event

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        self._packs.forget(worker)
        self._doing.pop(worker, None)

    def outcome(self, tally: Tally, stopped: bool, unusable: str) -> Outcome:
        """How the sweep ended."""
        left = self._limits.seconds_left(time.monotonic(), max(self._planned - tally.done, 0))
        return tally.outcome(stopped, unusable, self._limits.reached, left)

    def progress(self, now: float, tally: Tally, best: Best | None, training: int, stopping: bool) -> Progress:
        """How far the sweep is. `training`: how many runs workers train; `stopping`: they are to stop."""
        planned = self._planned
        left = self._limits.seconds_left(now, max(planned - tally.done, 0))
        shown = None if best is None else (best.runs.trial.variant, show_knobs(best.runs.trial.knobs), best.value)
        doing = [f"{what} ({now - at:.0f} s)" for what, at in self._doing.values() if what]
        if stopping and training:
            self._stopped_at = self._stopped_at or now
            doing.insert(0, f"waiting for {so_many(training, 'run')} to stop ({now - self._stopped_at:.0f} s)")
        waiting = [state for state in self._workers.values() if state.state == "waiting"]
        if waiting:
            all_workers, wait = so_many(len(self._workers), "worker"), "waits" if len(waiting) == 1 else "wait"
            doing.append(f"{len(waiting)} of {all_workers} {wait}: {waiting[0].place}")
        said = "; ".join(dict.fromkeys(doing))
        return Progress(planned, tally.done, training, +tally.failures, shown, left, doing=said)


def _job(spec: StudySpec, folder: Path, waiting: Waiting, placement: Placement) -> Job:
    return Job(
        waiting.config,
        folder / waiting.config.key,
        keep_adapter=spec.output.keep != "none",
        keep_samples=waiting.runs.phase == CONFIRM and waiting.config.data.path not in EMBEDDED_MODELS,  # own judges
        placement=placement,
        pause_at=waiting.runs.heading.get(waiting.config.key),
        time_limit=spec.budget.per_run,
        attempt=waiting.attempt.number,
    )
