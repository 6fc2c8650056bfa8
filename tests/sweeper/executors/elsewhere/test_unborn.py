"""Workers elsewhere that wait, that end before they come, and that end all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import pytest

from studies.records import Cause
from sweeper.executors import Event, Process, Started, WorkerState
from sweeper.executors.door.door import Door
from sweeper.executors.door.greeting import Welcome
from sweeper.executors.process import pump
from sweeper.executors.process.handle import Starter
from sweeper.executors.process.local import Local, LocalHandle
from sweeper.executors.process.team import Team, local_team
from trainers.interface import Job

MakeJob = Callable[..., Job]


@dataclass
class Place:
    """A handle: `ended` says why it is gone, which is known so many seconds after it is first asked."""

    place: str
    ended: tuple[Cause, str] | None = None
    known_after: float = 0.0
    connection: None = None
    _asked: float = 0.0

    def state(self) -> Literal["here", "gone"]:
        return "here" if self.ended is None else "gone"

    def begin(self) -> None:
        pass

    def kill(self) -> None:
        self.ended = self.ended or (Cause.WORKER_LOST, "it was killed")

    def why(self) -> tuple[Cause, str] | None:
        self._asked = self._asked or time.monotonic()
        return self.ended if time.monotonic() >= self._asked + self.known_after else None


@dataclass
class Far:
    """A launcher of workers none of which ever comes; `begin` gives the handle of each."""

    begin: Callable[[str], Place]
    launched: list[Place] = field(default_factory=list)

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Place:
        self.launched.append(self.begin(name))
        return self.launched[-1]

    def team(self, workers: int, logs: Path) -> Team:
        welcome = Welcome(folder=str(logs))
        starters = [Starter(f"worker-{i}", welcome, {}, logs, self) for i in range(workers)]
        return Team(starters, {one.name: one.name for one in starters}, Door(b"a key of a sweep"))

    def executor(self, workers: int, logs: Path) -> Process:
        return Process("formula", workers, logs, team=lambda *_: self.team(workers, logs))


def of(events: Sequence[Event], state: str) -> list[str]:
    """The workers of which this was told, in this order."""
    return [event.worker for event in events if isinstance(event, WorkerState) and event.state == state]


@pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.WORKER_LOST])
def test_workers_that_end_before_they_come_end_no_sweep_where_others_may_come(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Cause
) -> None:
    """As jobs that somebody cancels while they wait in the queue, or a node on which nothing starts."""
    monkeypatch.setattr(pump, "STILLBORN_SECONDS", 0.3)
    far = Far(lambda name: Place(name, None if name == "worker-0" else (cause, "it is gone")))
    executor = far.executor(2, tmp_path / "logs")
    try:
        for seed in range(2):
            executor.submit(make_job("finish", seed))
        seen, begun = list[Event](), time.monotonic()
        while len(of(seen, "gone")) < 4:
            seen += executor.events(0.05)
        assert time.monotonic() - begun >= 3 * 0.3, "its place is filled again at once"
        assert of(seen, "gone") == ["worker-1"] * 4
        assert of(seen, "asked").count("worker-0") == 1
    finally:
        executor.close(now=True)


def test_workers_that_end_before_they_come_end_a_sweep_soon_where_no_other_may_come(
    make_job: MakeJob, tmp_path: Path
) -> None:
    far = Far(lambda name: Place(name, (Cause.INFRASTRUCTURE, "Slurm does not take the job")))
    executor = far.executor(2, tmp_path / "logs")
    begun = time.monotonic()
    for seed in range(2):
        executor.submit(make_job("finish", seed))
    with pytest.raises(RuntimeError, match=r"3 workers in a row ended .*Slurm does not take the job"):
        list(iter(lambda: executor.events(0.1), None))
    assert time.monotonic() - begun < pump.STILLBORN_SECONDS / 2
    executor.close()


class Late(LocalHandle):
    """Of a worker that is here, while the queue still has it among those that wait."""

    def state(self) -> Literal["waiting", "here", "gone"]:
        return "waiting" if super().state() == "here" else "gone"


def test_a_worker_that_is_here_waits_no_more_whatever_the_queue_says(make_job: MakeJob, tmp_path: Path) -> None:
    class Queued(Local):
        def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> LocalHandle:
            made = super().launch(name, command, environment, log)
            made.__class__ = Late
            return made

    executor = Process("executor_trainers:Obedient", 1, tmp_path / "logs", team=partial(local_team, launcher=Queued()))
    try:
        executor.submit(make_job("until stopped"))
        seen = list[Event]()
        while not any(isinstance(event, Started) for event in seen):
            seen += executor.events(0.05)
        until = time.monotonic() + 3 * pump.LIVENESS_SECONDS
        while time.monotonic() < until:
            seen += executor.events(0.05)
        assert [event.state for event in seen if isinstance(event, WorkerState)][-1] == "here"
    finally:
        executor.close(now=True)


def test_a_crew_that_ends_waits_for_all_its_workers_at_once(tmp_path: Path) -> None:
    """As where Slurm takes a second to tell why each has ended."""
    far = Far(lambda name: Place(name, known_after=1.0))
    team = far.team(8, tmp_path)
    crew = pump.Crew(team, SimpleQueue())
    for slot, starter in enumerate(team.starters):
        crew.start(slot, starter)
    begun = time.monotonic()
    crew.end()
    assert 1.0 <= time.monotonic() - begun < 4.0
