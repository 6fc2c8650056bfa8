"""Facts about when refusals of some runs hold for all runs of a study."""

from __future__ import annotations

from typing import Any

import pytest

from studies.spec import arms, arms_in, in_scenario, load_study, resolve_run
from sweeper.loop.refusals import Refusals

BASE = {"model_name_or_path": "embedded", "use_peft": True, "max_steps": 4}


def hold(
    tmp_path: Any, refused: list[tuple[str, str, dict[str, Any]]], variants: str, space: str = "", more: str = ""
) -> bool:
    """Whether refusals of (variant, kind, knobs) end the study."""
    file = tmp_path / "study.yaml"
    file.write_text(f"study: s\nbase: {BASE}\nvariants: {variants}\n{space and 'space: '}{space}\n{more}\n")
    spec = load_study(str(file))
    every = arms(spec)
    arms_of = {name: arms_in(spec, every, name) for name in spec.scenarios}
    refusals = Refusals(spec, arms_of, {name: in_scenario(spec, name).runs.blocks for name in spec.scenarios})
    for variant, of, knobs in refused:
        scenario = next(iter(spec.scenarios))
        refusals.note(resolve_run(spec, every[variant], scenario, trial=0, knobs=knobs, block=0, seed=0), of)
    return refusals.hold_for_all


BETA = "{beta: {low: 0.1, high: 1.0}}"


@pytest.mark.parametrize(
    ("of", "space", "knobs", "ends"),
    [
        ("schedule", BETA, {"beta": 0.3}, True),
        ("settings", BETA, {"beta": 0.3}, True),
        ("schedule", "{lr_scheduler_type: {values: [linear, cosine]}}", {"lr_scheduler_type": "linear"}, False),
        ("schedule", "{optim: {values: [adamw_torch, sgd]}}", {"optim": "sgd"}, False),
        ("optimizer", "{lr_scheduler_type: {values: [linear, cosine]}}", {"lr_scheduler_type": "linear"}, True),
        ("settings", "{lora_r: {type: int, low: 1, high: 2}}", {"lora_r": 1}, False),
        ("model", "{bf16: {values: [true, false]}}", {"bf16": True}, False),
        ("data", "{per_device_train_batch_size: {values: [1, 2]}}", {"per_device_train_batch_size": 2}, False),
        ("nobody knows", BETA, {"beta": 0.3}, True),
    ],
)
def test_a_refusal_holds_for_all_runs_where_nothing_varies_that_it_hangs_on(
    tmp_path: Any, of: str, space: str, knobs: dict[str, Any], ends: bool
) -> None:
    assert hold(tmp_path, [("sigmoid", of, knobs)], "{sigmoid: {}}", space) is ends


def test_all_values_of_what_varies_are_tried(tmp_path: Any) -> None:
    space = "{optim: {values: [adamw_torch, sgd]}}"
    both = [("sigmoid", "schedule", {"optim": optim}) for optim in ("adamw_torch", "sgd")]
    assert hold(tmp_path, both, "{sigmoid: {}}", space)


def test_losses_count_only_where_nobody_knows_what_a_refusal_hangs_on(tmp_path: Any) -> None:
    two, one = "{sigmoid: {}, ipo: {}}", {"beta": 0.3}
    assert hold(tmp_path, [("sigmoid", "optimizer", one)], two, BETA)
    assert not hold(tmp_path, [("sigmoid", "settings", one)], two, BETA)
    assert hold(tmp_path, [("sigmoid", "settings", one), ("ipo", "optimizer", one)], two, BETA)


def test_points_and_mixtures_are_runs_like_others(tmp_path: Any) -> None:
    points = "{sigmoid: {points: [{optim: sgd}, {optim: adamw_torch}]}}"
    sgd, adam = ("sigmoid", "optimizer", {"optim": "sgd"}), ("sigmoid", "optimizer", {"optim": "adamw_torch"})
    assert not hold(tmp_path, [sgd], points)
    assert hold(tmp_path, [sgd, adam], points)
    mixture = "{mix: {loss_type: [sigmoid, ipo], space: {loss_weights: {type: simplex}}}}"
    assert hold(tmp_path, [("mix", "settings", {"loss_weights.ipo": 0.5})], mixture)


def test_each_block_and_scenario_has_rows_of_its_own(tmp_path: Any) -> None:
    more = "runs: {blocks: [0, 1]}"
    assert not hold(tmp_path, [("sigmoid", "data", {"beta": 0.3})], "{sigmoid: {}}", BETA, more)
    assert hold(tmp_path, [("sigmoid", "schedule", {"beta": 0.3})], "{sigmoid: {}}", BETA, more)
