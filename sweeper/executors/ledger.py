"""Keeps a ledger per worker: which runs train together, device time, failures in a row."""

from __future__ import annotations

from dataclasses import dataclass, field

SET_ASIDE_AFTER = 3  # different runs that fail in a row


@dataclass(frozen=True)
class Occupancy:
    """A run's time on a worker: its name, the most runs at once, seconds, and the run's share of device seconds."""

    worker: str
    together: int
    seconds: float
    device_seconds: float


@dataclass
class _Run:
    worker: str
    started: float
    together: int = 1
    device_seconds: float = 0.0


@dataclass
class _Worker:
    runs: set[str] = field(default_factory=set)
    settled: float = 0.0
    busy_at: float = 0.0  # when it last had a run
    failed: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)


class Workers:
    """A ledger of an executor's events. All times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._runs: dict[str, _Run] = {}
        self._spent = 0.0

    def started(self, key: str, name: str, at: float) -> None:
        """Note that a worker has taken a run."""
        worker = self._workers.setdefault(name, _Worker())
        self._settle(worker, at)
        worker.runs.add(key)
        self._runs[key] = _Run(name, at)
        for other in worker.runs:
            self._runs[other].together = max(self._runs[other].together, len(worker.runs))

    def ended(self, key: str, at: float) -> Occupancy | None:
        """Note that a run has ended. None for one that no worker had taken."""
        run = self._runs.get(key)
        if run is None:
            return None
        worker = self._workers[run.worker]
        self._settle(worker, at)
        worker.runs.discard(key)
        worker.began[key] = run.started
        del self._runs[key]
        return Occupancy(run.worker, run.together, at - run.started, run.device_seconds)

    def spent(self, now: float) -> float:
        """Device seconds: summed over workers, the time in which each had a run."""
        for worker in self._workers.values():
            self._settle(worker, now)
        return self._spent

    def in_training(self, now: float) -> dict[str, float]:
        """For every run in training, the seconds since it began."""
        return {key: now - run.started for key, run in self._runs.items()}

    def underway(self, now: float) -> dict[str, tuple[str, float]]:
        """For every run in training, its worker and the device seconds that it has had."""
        self.spent(now)
        return {key: (run.worker, run.device_seconds) for key, run in self._runs.items()}

    def at_work(self, now: float, within: float) -> int:
        """How many workers have a run, or had one in the last so many seconds."""
        self.spent(now)
        return sum(bool(worker.runs) or now - worker.busy_at <= within for worker in self._workers.values())

    def went_well(self, name: str) -> None:
        """Reset the failures of a worker: a run has ended by itself on it, well or badly."""
        if name in self._workers:
            self._workers[name].failed, self._workers[name].began = {}, {}

    def failed(self, name: str, key: str, at: float) -> tuple[str, ...] | None:
        """Count a run that the machine failed. Gives the runs that failed in a row, once they are too many for this
        worker.

        Runs that were in training when another failed, as those of a pack whose worker dies, are one failure with it.
        """
        worker = self._workers.setdefault(name, _Worker())
        failed, last = worker.failed, max(worker.failed.values(), default=None)
        is_with_it = last is not None and worker.began.get(key, at) <= last
        failed[key] = last if is_with_it and last is not None else at
        return tuple(failed) if len(set(failed.values())) >= SET_ASIDE_AFTER <= len(failed) else None

    def _settle(self, worker: _Worker, at: float) -> None:
        """Share the time since the last call among the worker's runs."""
        seconds = max(at - worker.settled, 0.0)
        if worker.runs:
            self._spent += seconds
            for key in worker.runs:
                self._runs[key].device_seconds += seconds / len(worker.runs)
            worker.busy_at = max(at, worker.busy_at)
        worker.settled = max(at, worker.settled)
