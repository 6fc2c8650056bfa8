"""The unit of the embedded world's gold, from its file."""

from __future__ import annotations

import pytest

from studies.records.world_units import task_of_block, tasks

BY_PROMPT = pytest.mark.parametrize("by_prompt", [False, True])


@BY_PROMPT
def test_the_untrained_model_is_worth_0_and_the_oracle_at_2_nats_1(by_prompt: bool) -> None:
    for task in tasks(by_prompt):
        assert task.utility(task.reference) == 0.0
        assert task.utility(task.oracle["2"]) == 1.0


@BY_PROMPT
def test_the_oracle_rises_with_its_budget(by_prompt: bool) -> None:
    for task in tasks(by_prompt):
        levels = [task.reference, *(task.oracle[budget] for budget in ("0.5", "1", "2", "4"))]
        assert levels == sorted(levels)


def test_a_tasks_name_and_unit_are_found_by_block() -> None:
    assert [task_of_block(block) for block in (0, 5, 6, 13, 99)] == [0, 5, 0, 1, 3]
    assert tasks()[task_of_block(1)].name == "censure"
    assert tasks()[0].utility(0.0) == pytest.approx(
        -tasks()[0].reference / (tasks()[0].oracle["2"] - tasks()[0].reference)
    )


def test_replicates_have_tasks_of_their_own_two_blocks_each() -> None:
    of = [task_of_block(block) for block in range(100, 148)]
    assert of == [task for task in range(6, 30) for _ in range(2)]
    assert [task_of_block(block) for block in range(148, 196)] == of
    assert len(tasks()) == len(tasks(by_prompt=True)) == 30


def test_a_negative_block_has_no_task() -> None:
    with pytest.raises(ValueError, match="block is -1"):
        task_of_block(-1)


def test_the_untrained_model_does_worse_where_gold_wants_the_other_mood() -> None:
    for plain, asking in zip(tasks(), tasks(by_prompt=True), strict=True):
        assert asking.name == plain.name
        assert asking.reference < plain.reference - 1.0
