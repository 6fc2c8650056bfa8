"""Which runs answer a study, where no store is needed to show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.design.answers import sort
from studies.design.identity import questions
from studies.records import Cause, RunRecord, State
from studies.spec import Study, load_study

QUICKSTART = Path(__file__).parents[2] / "pins" / "quickstart.yaml"  # of before replicates: it names its blocks


def a_run(study: Study, block: int, key: str | None = None) -> RunRecord:
    place = ("sigmoid", next(iter(study.spec.scenarios)))
    record = RunRecord(
        run_id=f"{block}",
        key="",
        study=study.spec.study,
        variant=place[0],
        scenario=place[1],
        trial=0,
        block=block,
        seed=0,
        attempt=1,
        state=State.COMPLETE,
        cause=Cause.FINISHED,
        phase="unbiased",
        knobs={"beta": 0.3},
        metrics={"gold": 1.0},
        errors={},
        facts={},
        question=questions(study)[place],
    )
    return record.model_copy(update={"key": key or study.run_config(record).key})


@pytest.mark.parametrize(("block", "former"), [(100, "a5416a29e029"), (147, None)])
def test_a_run_of_a_block_that_got_another_gold_task_is_left_aside(block: int, former: str | None) -> None:
    study = Study.of(load_study(QUICKSTART, [f"runs.blocks=[99, {block}]"]))
    config = study.run_config(a_run(study, block))
    assert former in (None, config.key_of_first_tasks)
    assert config.key != config.key_of_first_tasks
    answers = sort(study, [a_run(study, 99), a_run(study, block), a_run(study, block, config.key_of_first_tasks)], None)
    assert answers.records == (a_run(study, 99), a_run(study, block))
    (said,) = answers.notes()
    assert said.startswith(
        "1 finished run left aside: this version of sweeper gives blocks from 100 on other gold tasks"
    )


def test_blocks_of_other_data_keep_their_runs() -> None:
    outside = ["data={path: org/data}", "base.model_name_or_path=org/model", "objective.metric=margin"]
    study = Study.of(load_study(QUICKSTART, ["runs.blocks=[100]", *outside]))
    config = study.run_config(a_run(study, 100))
    assert (config.key, config.key_of_first_tasks) == ("4caeaf0f4bab", None)
