"""What holds for the inline executor alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.records import Cause
from sweeper.executors import Finished, Inline, Lost, Started
from trainers.interface import Job

OBEDIENT = "executor_trainers:Obedient"

MakeJob = Callable[..., Job]


def test_an_interrupt_goes_through_and_the_run_is_told_as_lost(make_job: MakeJob) -> None:
    executor, interrupted, after = Inline(OBEDIENT), make_job("interrupt"), make_job("finish")
    executor.submit(interrupted)
    executor.submit(after)
    with pytest.raises(KeyboardInterrupt):
        executor.events(1)
    assert executor.events(1) == [
        Started(interrupted.config.key, "inline"),
        Lost(interrupted.config.key, "inline", Cause.WORKER_LOST, "interrupted by KeyboardInterrupt", "", ""),
    ]
    assert isinstance(executor.events(1)[-1], Finished)


def test_one_run_is_trained_at_each_call(make_job: MakeJob) -> None:
    executor = Inline(OBEDIENT)
    for seed in range(2):
        executor.submit(make_job("finish", seed))
    assert [isinstance(event, Finished) for event in executor.events(1)] == [False, False, True]
    assert [isinstance(event, Finished) for event in executor.events(1)] == [False, False, True]
    assert executor.capacity.jobs(together=1) == 1


def test_a_process_that_cannot_use_its_device_any_more_trains_no_other_run(make_job: MakeJob) -> None:
    executor = Inline(OBEDIENT)
    executor.submit(make_job("break the device"))
    executor.submit(make_job("finish"))
    (ended,) = [event for event in executor.events(1) if isinstance(event, Finished)]
    assert ended.result.cause is Cause.WORKER_LOST
    with pytest.raises(RuntimeError, match=r"illegal memory access.*same command again"):
        executor.events(1)


def test_of_several_gpus_one_is_used(monkeypatch: pytest.MonkeyPatch, make_job: MakeJob) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    executor = Inline(OBEDIENT)
    executor.submit(make_job("finish"))
    (ended,) = [event for event in executor.events(1) if isinstance(event, Finished)]
    assert ended.result.facts["gpus"] == "2"
