"""Executors whose workers are elsewhere, on this machine: hosts with an agent each, and a real Slurm of two nodes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from studies.spec import SlurmJobs
from sweeper.executors import EXECUTORS, Event, Executor, Workplace
from tests.services.slurm import Slurm
from tests.waiting import wait_until

T = TypeVar("T")
OBEDIENT = "executor_trainers:Obedient"


@dataclass
class Elsewhere:
    """An executor, what it has told its user and all events that were read."""

    executor: Executor
    said: list[str]
    seen: list[Event] = field(default_factory=list)
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    def until(self, happened: Callable[[], object], otherwise: str) -> None:
        """Read events until something has happened."""

        def look() -> object:
            self.seen += self.executor.events(0.05)
            return happened()

        wait_until(look, lambda: f"{otherwise}: {self.seen[-10:]}")

    def of(self, kind: type[T]) -> list[T]:
        """Those of a kind that were read."""
        return [event for event in self.seen if isinstance(event, kind)]

    def start_agent(self, workers: int = 1, *, within: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Do on this machine what the sweep has said to do on others; `within`: words before the command."""
        words = shlex.split(self.said[0][self.said[0].index("sweeper worker") :])
        command = [*within, sys.executable, "-m", *words, "--workers", str(workers)]
        path = os.pathsep.join(path for path in sys.path if path)
        self.agents.append(
            subprocess.Popen(
                command,
                cwd="/",
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return self.agents[-1]


MakeElsewhere = Callable[..., Elsewhere]


@pytest.fixture
def make_elsewhere(tmp_path: Path) -> Iterator[MakeElsewhere]:
    """`make_elsewhere(kind, workers=1, **jobs)`: `jobs` are those of `resources.slurm`."""
    made: list[Elsewhere] = []

    def make(kind: str, workers: int = 1, address: str = "127.0.0.1", **jobs: object) -> Elsewhere:
        said: list[str] = []
        asked = SlurmJobs.model_validate({"cpus": 1, **jobs})
        place = Workplace(workers, tmp_path / "logs", slurm=asked, address=address, say=said.append)
        made.append(Elsewhere(EXECUTORS[kind](OBEDIENT, place), said))
        return made[-1]

    yield make
    for one in made:
        for agent in one.agents:
            agent.kill()
        one.executor.close(now=True)
        for agent in one.agents:
            agent.wait()
            if agent.stdout is not None:
                agent.stdout.close()


@pytest.fixture
def make_on_slurm(slurm: Slurm, make_elsewhere: MakeElsewhere) -> MakeElsewhere:
    """`make_on_slurm(workers=1, **jobs)`."""
    return lambda workers=1, **jobs: make_elsewhere("slurm", workers, **jobs)
