"""The unit of the embedded world's gold, from its file."""

from __future__ import annotations

import pytest

from studies.world import task_of_block, tasks


def test_the_untrained_model_is_worth_0_and_the_oracle_at_2_nats_1() -> None:
    for task in tasks():
        assert task.utility(task.reference) == 0.0
        assert task.utility(task.oracle["2"]) == 1.0


def test_the_oracle_rises_with_its_budget() -> None:
    for task in tasks():
        levels = [task.reference, *(task.oracle[budget] for budget in ("0.5", "1", "2", "4"))]
        assert levels == sorted(levels)


def test_a_tasks_name_and_unit_are_found_by_block() -> None:
    assert [task_of_block(block) for block in (0, 5, 6, 13)] == [0, 5, 0, 1]
    assert tasks()[task_of_block(1)].name == "censure"
    assert tasks()[0].utility(0.0) == pytest.approx(
        -tasks()[0].reference / (tasks()[0].oracle["2"] - tasks()[0].reference)
    )
