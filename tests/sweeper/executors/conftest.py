"""What the tests of executors share: jobs, a way to wait for their end, and trainers that workers can import."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studies.records import DataConfig, EvaluationConfig, RunConfig
from sweeper.executors import Dropped, Event, Executor, Finished, Lost, WorkerState
from tests.services.slurm import Slurm, missing_slurm, running_slurm
from tests.waiting import PATIENCE
from trainers.interface import Job

HERE = Path(__file__).parent

MakeJob = Callable[..., Job]
UntilEnded = Callable[[Executor, int], list[Event]]


@pytest.fixture(autouse=True)
def _trainers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A real Slurm of two nodes with two GPUs each, that are none."""
    missing = missing_slurm()
    if missing is not None:
        pytest.skip(missing)
    with running_slurm() as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """The cluster, which commands in this process find."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    cluster.wait_until_idle()
    return cluster


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """`make_job(act, seed=0)`: a run that does `act`; see `executor_trainers.py`."""

    def make(act: str, seed: int = 0) -> Job:
        config = RunConfig(
            study="study",
            variant="variant",
            scenario="clean",
            trial=seed,
            block=0,
            seed=seed,
            settings={"act": act},
            knobs={},
            data=DataConfig(),
            evaluation=EvaluationConfig(),
        )
        return Job(config, tmp_path / "runs" / f"{act}-{seed}")

    return make


@pytest.fixture
def until_ended() -> UntilEnded:
    """`until_ended(executor, n)`: all events until n jobs have ended, but for the states of workers."""

    def collect(executor: Executor, jobs: int) -> list[Event]:
        deadline = time.monotonic() + PATIENCE
        seen: list[Event] = []
        while sum(isinstance(event, Finished | Lost | Dropped) for event in seen) < jobs:
            assert time.monotonic() < deadline, f"{jobs} jobs have not ended; seen: {seen[-20:]}"
            seen += [event for event in executor.events(0.5) if not isinstance(event, WorkerState)]
        return seen

    return collect
