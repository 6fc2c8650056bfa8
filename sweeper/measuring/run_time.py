"""How long the runs of a study take on these devices: some of them train for a while and are thrown away."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final

from studies.records import UNUSABLE_FACT, Cause, RunConfig, RunResult, State
from studies.spec import Study
from sweeper.executors import EXECUTORS, Cancel, Executor, Workplace
from sweeper.executors.base import Event, Finished, Lost, Started, WorkerNews
from sweeper.loop.progress import Progress, Screen
from sweeper.planning.placement import LEAST_RUNS, sample_runs, shared_placement
from trainers.interface import LOADING, MEASURING_UNTRAINED, OF_A_DRAW, READING, REFERENCE, Doing, Job, Sized, Sizing

_ENOUGH_RUNS: Final = 2
"""So many ended runs of each worker say as much as steps do, where those tell nothing: runs of a second or less."""
_STEADY_SECONDS: Final = 20.0  # until which they may owe their time to the first of everything
_MOST_FAILED: Final = 3
_BEFORE_THE_FIRST: Final = (LOADING, READING, REFERENCE)
_LOOK_SECONDS: Final = 0.5


class NoRunTime(Exception):
    """No run came far enough to say how long one takes; the message says why."""


class TooSlow(NoRunTime):
    """None did within the time that there was."""


@dataclass(frozen=True)
class RunTime:
    """What a run takes one of `workers` that train side by side, in seconds: to be made ready, a step on its own and in
    a pack, to be measured once; and what a worker does for each draw of the data before its first run.

    `spent`: seconds that it took to find out.
    """

    workers: int
    setup: float
    step_alone: float
    step: float
    measuring: float
    draw: float
    spent: float

    def of_run(self, steps: int, measurements: int, runs: int) -> float:
        """Seconds of a worker for one of `runs` of so many steps that is measured so often."""
        step = self.step if runs >= LEAST_RUNS * self.workers else self.step_alone
        return self.setup + steps * step + measurements * self.measuring

    def of_draws(self, draws: int, runs: int) -> float:
        """Seconds of all workers for draws that have so many runs each: every worker that trains one reads it."""
        return draws * min(self.workers, runs) * self.draw


def measure_run_time(study: Study, executor: str, workers: int | None, limit: float, screen: Screen) -> RunTime:
    """Train runs of the study on this machine until it is known how long they take, for `limit` seconds at most;
    nothing is kept.

    Raises NoRunTime, OSError, and RuntimeError where workers cannot be run; KeyboardInterrupt goes through.
    """
    spec = study.spec
    with (
        tempfile.TemporaryDirectory(prefix="speed-test-") as aside,
        _workers(EXECUTORS[executor](spec.trainer, Workplace.of(spec, workers, Path(aside), screen.tell_user))) as pool,
        _cancelled_after(limit, pool),
    ):
        return _Test(study, pool, Path(aside)).run(limit, screen)


@contextmanager
def _workers(pool: Executor) -> Iterator[Executor]:
    try:
        yield pool
    finally:
        pool.close(now=True)


@contextmanager
def _cancelled_after(seconds: float, pool: Executor) -> Iterator[None]:
    """Stop all runs then: an executor that trains in this process gives no events before they end."""
    timer = threading.Timer(seconds, pool.stop, [Cancel()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass
class _Seen:
    """What one worker has told: how it trains now, how long it did what (seconds), and how many runs it has taken."""

    sizing: Sizing | None = None
    together: int = 1
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    doing: tuple[str, float] = ("", 0.0)
    runs: int = 0

    @property
    def setup(self) -> float:
        """What a run takes to be made ready. Where packs of none but the first one are tried, as of a model that fills
        the device, its time has in it what the worker does once.
        """
        assert self.sizing is not None
        told, once = self.sizing.setup_seconds, sum(self.took[what][0] for what in _BEFORE_THE_FIRST if self.took[what])
        return told - once if told > once else told

    def take(self, event: WorkerNews) -> None:
        match event.news:
            case Doing(what=what):
                before, since = self.doing
                if before:
                    self.took[before.partition(":")[0]].append(event.at - since)
                self.doing = (what, event.at)
            case Sized(together=together, sizing=sizing):
                self.together = together
                self.sizing = sizing if sizing is not None and sizing.seconds_per_run is not None else self.sizing


class _Test:
    """Keeps workers busy with runs of a study, and listens."""

    def __init__(self, study: Study, pool: Executor, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._placement = shared_placement(len(pool.capacity.workers), elsewhere=False)
        self._configs = _endless(sample_runs(study))
        self._steps = int(sample_runs(study)[0].settings.get("max_steps") or 0)
        self._seen: dict[str, _Seen] = defaultdict(_Seen)
        self._open = self._training = self._ended = self._failed = 0
        self._began = time.monotonic()
        self._first: float | None = None

    def run(self, limit: float, screen: Screen) -> RunTime:
        """Listen until it is known. Raises NoRunTime."""
        while True:
            self._feed()
            for event in self._pool.events(_LOOK_SECONDS):
                self._take(event)
            now = time.monotonic()
            found = self._found(now)
            if found is not None:
                return found
            if now - self._began > limit:
                doing = self._doing(now) or "training"
                raise TooSlow(f"in {limit:.0f} s no run came to enough steps to time them, only to: {doing}.")
            known = sum(seen.sizing is not None for seen in self._seen.values())
            workers = len(self._pool.capacity.workers)
            screen.show(Progress(workers, known, self._training, {}, None, None, "workers timed", self._doing(now)))

    def _feed(self) -> None:
        together = max((seen.together for seen in self._seen.values()), default=1)
        while self._open < self._pool.capacity.jobs(together):
            config = next(self._configs)
            self._pool.submit(Job(config, self._folder / config.key, placement=self._placement, keep_adapter=False))
            self._open += 1

    def _take(self, event: Event) -> None:
        match event:
            case Started(worker=worker):
                self._training += 1
                self._seen[worker].runs += 1
                self._first = event.at if self._first is None else self._first
            case WorkerNews(worker=worker):
                self._seen[worker].take(event)
            case Finished(result=result):
                self._end(result)
            case Lost():
                self._end(event.result())

    def _end(self, result: RunResult) -> None:
        self._open -= 1
        self._training -= 1
        if result.cause is Cause.USER_STOP:  # its time is over
            return
        if result.state is not State.FAIL:
            self._ended += 1
            return
        self._failed += 1
        if UNUSABLE_FACT in result.facts or self._failed >= _MOST_FAILED:
            raise NoRunTime(f"{result.cause}: {result.message.strip() or 'no message'}")

    def _doing(self, now: float) -> str:
        said = [f"{what} ({now - since:.0f} s)" for what, since in (seen.doing for seen in self._seen.values()) if what]
        return "; ".join(dict.fromkeys(said))

    def _found(self, now: float) -> RunTime | None:
        at_work = [seen for seen in self._seen.values() if seen.runs]
        sizings = [seen.sizing for seen in at_work if seen.sizing is not None]
        if at_work and len(sizings) == len(at_work):
            return self._of_steps(sizings, fmean(seen.setup for seen in at_work), now)
        lasted = 0.0 if self._first is None else now - self._first
        if self._ended >= _ENOUGH_RUNS * len(at_work) > 0 and lasted >= _STEADY_SECONDS:
            each = lasted * len(at_work) / (self._ended + 0.5 * self._training) / max(self._steps, 1)
            return self._run_time(setup=0.0, alone=each, step=each, measuring=0.0, now=now)
        return None

    def _of_steps(self, sizings: list[Sizing], setup: float, now: float) -> RunTime:
        steps = max(self._steps, 1)
        alone = [
            timing.seconds * sizing.passes / steps
            for sizing in sizings
            for timing in sizing.timings
            if timing.placement.together == 1 and timing.seconds is not None
        ]
        packed = [(sizing.seconds_per_run or 0.0) - sizing.setup_seconds for sizing in sizings]
        step = fmean(packed) / steps
        one, measuring = fmean(alone) if alone else step, self._each(MEASURING_UNTRAINED)
        return self._run_time(setup=setup, alone=one, step=step, measuring=measuring, now=now)

    def _run_time(self, *, setup: float, alone: float, step: float, measuring: float, now: float) -> RunTime:
        return RunTime(
            workers=max(len(self._pool.capacity.workers), 1),
            setup=setup,
            step_alone=alone,
            step=step,
            measuring=measuring,
            draw=sum(self._each(what) for what in OF_A_DRAW),
            spent=now - self._began,
        )

    def _each(self, what: str) -> float:
        """Seconds that a worker took for it, in the mean of those that did it."""
        took = [fmean(seen.took[what]) for seen in self._seen.values() if seen.took.get(what)]
        return fmean(took) if took else 0.0


def _endless(configs: list[RunConfig]) -> Iterator[RunConfig]:
    """The runs, and again with other seeds, so that no two have one key."""
    seed = 0
    while True:
        for config in configs:
            yield config.model_copy(update={"seed": config.seed + seed})
        seed += 1
