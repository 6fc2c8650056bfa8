"""When a run that ended badly is tried again, and how."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from studies.records import CONSEQUENCES, Cause, DataConfig, EvaluationConfig, RunConfig
from sweeper.loop.retries import Attempt, Attempts, Retries, describe, is_machine
from trainers.interface import Placement

MEMORY = (Cause.OUT_OF_GPU_MEMORY, Cause.OUT_OF_HOST_MEMORY)


def a_config(**settings: Any) -> RunConfig:
    return RunConfig(
        study="study",
        variant="variant",
        scenario="clean",
        trial=0,
        block=0,
        seed=0,
        settings={"loss_type": "sigmoid", "per_device_train_batch_size": 8, **settings},
        knobs={},
        data=DataConfig(),
        evaluation=EvaluationConfig(),
    )


def tries(attempts: Attempts, config: RunConfig, cause: Cause, together: int = 1) -> list[Attempt]:
    """All tries at a run that always ends so, with as many beside it as may be."""
    found = [Attempt(placement=Placement(together=together))]
    while True:
        now = found[-1].not_before
        beside = max(1, attempts.placement(config, found[-1].placement).together)
        again = attempts.after(found[-1], config, cause, beside, now)
        if again is None:
            return found
        found.append(again)


@pytest.mark.parametrize("cause", [Cause.WORKER_LOST, Cause.PREEMPTED, Cause.INFRASTRUCTURE])
def test_what_the_machine_failed_is_tried_a_limited_number_of_times_each_later_than_the_last(cause: Cause) -> None:
    found = tries(Attempts(Retries(attempts=4, seconds=5.0)), a_config(), cause)
    assert [this.number for this in found] == [1, 2, 3, 4]
    assert [this.not_before for this in found] == [0.0, 5.0, 15.0, 35.0]
    assert {this.placement for this in found} == {Placement()}


@pytest.mark.parametrize("cause", [Cause.WORKER_LOST, Cause.INFRASTRUCTURE])
def test_what_went_down_with_a_pack_has_its_last_try_alone(cause: Cause) -> None:
    found = tries(Attempts(Retries(attempts=3)), a_config(), cause, together=8)
    assert [this.placement for this in found] == [Placement(together=8), Placement(together=8), Placement()]
    assert describe(found[1], found[2], cause) == f"{cause}: tried alone"
    loop = tries(Attempts(Retries(attempts=3)), a_config(), cause, together=0)
    assert {this.placement for this in loop} == {Placement(together=0)}


@pytest.mark.parametrize("cause", [c for c in Cause if not CONSEQUENCES[c].retried and c not in MEMORY])
def test_what_the_run_did_to_itself_is_not_tried_again(cause: Cause) -> None:
    assert len(tries(Attempts(Retries()), a_config(), cause, together=4)) == 1


@pytest.mark.parametrize("cause", MEMORY)
def test_a_pack_that_memory_is_too_small_for_is_halved_until_a_run_fails_alone_and_then_its_micro_batch_once(
    cause: Cause,
) -> None:
    found = tries(Attempts(Retries()), a_config(), cause, together=8)
    assert [(this.placement.together, this.placement.split) for this in found] == [
        (8, 1),
        (4, 1),
        (2, 1),
        (1, 1),
        (1, 2),
    ]
    assert {this.failures for this in found} == {0}, "the machine is not to blame"
    said = [describe(before, after, cause) for before, after in pairwise(found)]
    assert "4 together" in said[0]
    assert "alone" in said[2]
    assert "half the micro-batch" in said[3]


def test_runs_like_one_that_found_too_little_memory_train_fewer_together_from_then_on() -> None:
    attempts, config = Attempts(Retries()), a_config()
    attempts.after(Attempt(placement=Placement(together=8)), config, Cause.OUT_OF_GPU_MEMORY, 8, 0.0)
    assert attempts.placement(a_config(learning_rate=1e-4), Placement(together=8)).together == 4
    assert attempts.placement(a_config(max_length=64), Placement(together=8)).together == 8


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "aot"},
        {"loss_type": "aot_unpaired"},
        {"loss_type": ["sigmoid", "sft"]},
        {"per_device_train_batch_size": 1},
        {"per_device_train_batch_size": 3},
    ],
)
def test_a_micro_batch_whose_rows_belong_together_or_cannot_be_halved_is_not_cut(settings: dict[str, Any]) -> None:
    assert len(tries(Attempts(Retries()), a_config(**settings), Cause.OUT_OF_GPU_MEMORY)) == 1


def test_a_micro_batch_that_goes_through_in_parts_already_is_cut_into_twice_as_many() -> None:
    cut = Attempt(placement=Placement(split=2))
    again = Attempts(Retries()).after(cut, a_config(), Cause.OUT_OF_GPU_MEMORY, 1, 0.0)
    assert again is not None
    assert again.placement == replace(cut.placement, split=4)


def test_a_worker_is_to_blame_for_what_died_or_could_not_work_and_not_for_being_told_to_go() -> None:
    assert {cause for cause in Cause if is_machine(cause)} == {Cause.WORKER_LOST, Cause.INFRASTRUCTURE}
