"""What a sweep may cost and has cost, and what must stop for it: budgets, the time limit of a run, failing workers."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from studies.records import CONSEQUENCES, Cause, State
from studies.spec import Budget
from studies.text.files import read_json, write_whole
from sweeper.executors.base import Kill, Started
from sweeper.executors.ledger import Occupancy, Workers
from sweeper.folder.names import SPENT_FILE
from sweeper.loop.retries import is_machine

KEPT_EVERY = 5.0  # seconds between two writes of what was spent
Underway = Mapping[str, tuple[str, float]]
LATELY = 20  # runs that an estimate looks back on
BETWEEN_RUNS = 60.0  # for which a worker without a run still counts as one
GRACE_SECONDS = 30.0  # for a run to stop by itself when its time is over; after that its worker is killed


class Meter:
    """The budget of one sweep. Wall clock counts from its start, device hours over all sweeps of the study.

    A device hour is an hour in which a worker has a run in training, whatever their number: an hour of a GPU where
    each worker has one. What earlier sweeps spent is kept in `spent.json` in the study's folder.
    """

    def __init__(self, budget: Budget, folder: Path, now: float) -> None:
        self._budget, self._file, self._started = budget, folder / SPENT_FILE, now
        self._before = read_spent(folder)
        self._kept_at = now
        self._costs: deque[float] = deque(maxlen=LATELY)

    def add(self, device_seconds: float) -> None:
        """A run has come to its end, and took so much of a device, which a pack shares."""
        self._costs.append(device_seconds)

    @property
    def device_seconds(self) -> float | None:
        """What one of the last runs took of a device on average; None before the first has ended."""
        return sum(self._costs) / len(self._costs) if self._costs else None

    def over(self, now: float, spent: float) -> str | None:
        """Which limit is reached, in words, None as long as none is. `spent`: device seconds of this sweep."""
        wall, hours = self._budget.wall_clock, self._budget.gpu_hours
        if wall is not None and now - self._started >= wall:
            return f"the wall-clock budget of {wall:.0f} s is spent"
        if hours is not None and self._before + spent >= hours * 3600:
            return f"the budget of {hours:g} device hours is spent"
        return None

    def too_short(self, now: float, spent: float, underway: Underway, together: int, free: bool) -> str | None:
        """Why another run would not end within the budget, in words; None where it would, or nothing is known yet.

        `underway`: of each run in training its worker, and the device seconds that it has had; `together`: how many
        train together from now on; `free`: a worker waits for a run. A run's own time from its beginning to its end is
        no measure: while the best size of a pack is looked for, more begin than train together later.
        """
        if not self._costs:
            return None
        device = max(self._costs)
        most = device * together
        beside = Counter(worker for worker, _ in underway.values())
        left = {key: max(device - had, 0.0) for key, (_, had) in underway.items()}
        ends = [seconds * beside[underway[key][0]] for key, seconds in left.items()]
        wall, hours = self._budget.wall_clock, self._budget.gpu_hours
        begins = now if free else now + min(ends, default=0.0)
        if wall is not None and begins + most > self._started + wall:
            return f"no other run would end within the wall-clock budget of {wall:.0f} s: one takes up to {most:.1f} s"
        if hours is not None and self._before + spent + sum(left.values()) + device > hours * 3600:
            return (
                f"no other run would end within the budget of {hours:g} device hours: one takes up to "
                f"{device / 3600:.2g}, and {(self._before + spent) / 3600:.2g} are spent"
            )
        return None

    def keep(self, now: float, spent: float, at_once: bool = False) -> None:
        """Write down what was spent, every few seconds; a disk that cannot take it does not stop the sweep."""
        if not at_once and now - self._kept_at < KEPT_EVERY:
            return
        self._kept_at = now
        with suppress(OSError):
            write_whole(self._file, json.dumps({"device_seconds": self._before + spent}))


@dataclass(frozen=True)
class Stop:
    """Stop the runs in training at their next step: the budget is spent."""

    reason: str


@dataclass(frozen=True)
class FinishUp:
    """Start nothing new: it would not end within the budget."""

    reason: str


Order = Stop | FinishUp | Kill


class Limits:
    """The budgets, the time limit of a run and the workers of a sweep: what they say must stop."""

    def __init__(self, budget: Budget, folder: Path, started: float) -> None:
        """`started`: when the sweep began, on the monotonic clock."""
        self._per_run = budget.per_run
        self._meter, self._workers = Meter(budget, folder, started), Workers()
        self._failing: set[str] = set()
        self.reached = ""  # the budget that is spent, or too short for another run

    def begun(self, event: Started) -> None:
        """A worker has taken a run."""
        self._workers.started(event.key, event.worker, event.at)

    def ended(self, key: str, cause: Cause, at: float) -> Occupancy | None:
        """A run is over: what it took of its worker. None for one that no worker had taken."""
        occupancy = self._workers.ended(key, at)
        if occupancy is not None and cause is Cause.FINISHED:
            self._meter.add(occupancy.device_seconds)
        return occupancy

    def in_training(self, now: float) -> dict[str, float]:
        """For every run that a worker has taken, the seconds that it has trained."""
        return self._workers.in_training(now)

    def spent(self, now: float) -> float:
        """Device seconds that were spent so far."""
        return self._workers.spent(now)

    def seconds_left(self, now: float, runs: int) -> float | None:
        """How long the `runs` that have not ended will take; None before the first has ended.

        It goes by a run's share of its device, as runs that train together end together: after the first of a pack
        the others are nearly there, so runs ended in the time that has passed would say many times too much. What is
        begun stays where it is; the rest is shared among the workers.
        """
        each, underway = self._meter.device_seconds, self._workers.underway(now)
        if each is None:
            return None
        begun: dict[str, float] = defaultdict(float)
        for worker, had in underway.values():
            begun[worker] += max(each - had, 0.0)
        whole = max(runs - len(underway), 0) * each + sum(begun.values())
        # Not by those that have a run at this moment: one between two runs would double what is told.
        workers = max(self._workers.at_work(now, BETWEEN_RUNS), 1)
        return max(whole / workers, *begun.values(), 0.0)

    def keep(self, now: float, *, at_once: bool = False) -> None:
        """Write down what was spent, every few seconds."""
        self._meter.keep(now, self._workers.spent(now), at_once)

    def check(self, now: float, workers: int, together: int) -> Iterator[Order]:
        """What the clock asks for. `together`: how many runs can train at once on each of the workers."""
        spent, in_training = self._workers.spent(now), self._workers.in_training(now)
        over = self._meter.over(now, spent)
        if over is not None:
            self.reached = over
            yield Stop(over)
        underway, free = self._workers.underway(now), len(in_training) < workers * max(1, together)
        short = self._meter.too_short(now, spent, underway, together, free)
        if short is not None:
            self.reached = self.reached or short
            yield FinishUp(short)
        for key, seconds in in_training.items():
            if self._per_run is not None and seconds > self._per_run + GRACE_SECONDS:
                yield Kill(key, Cause.TIME_LIMIT)

    def failing(self, worker: str, key: str, cause: Cause, at: float) -> tuple[str, ...] | None:
        """The runs that failed on a worker in a row, once, when they are too many for it to go on."""
        if not is_machine(cause):
            if CONSEQUENCES[cause].told is State.COMPLETE or CONSEQUENCES[cause].instability:
                self._workers.went_well(worker)
            return None
        failed = self._workers.failed(worker, key, at)
        if failed is None or worker in self._failing:
            return None
        self._failing.add(worker)
        return failed


def read_spent(folder: Path) -> float:
    """Device seconds that the study's sweeps have spent; 0 where nothing readable says so."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        spent = float(read_json(folder / SPENT_FILE)["device_seconds"])
        return spent if math.isfinite(spent) and spent >= 0 else 0.0
    return 0.0
