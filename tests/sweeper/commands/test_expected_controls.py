"""Controls of a study from file to table, with real stores: told by `plan`, judged from what MLflow holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Sweeper = Callable[..., Any]
STUDY = """
study: small-controls
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5, beta: 0.1}
variants:
  sigmoid: {}
  aot: {}
  near: {loss_type: aot_unpaired, expect: {equals: aot, within: 1.0e-6}}      # differ in what each run's noise adds
  same: {loss_type: apo_zero, expect: {equals: aot}}
  fast: {loss_type: ipo, base: {learning_rate: 1.0e-2}, expect: non_finite}
  upright: {loss_type: hinge, expect: inverted}
  nothing: {loss_type: sppo_hard, expect: no_gain}
  something: {loss_type: robust, base: {label_smoothing: 0.4}, expect: no_gain}      # what the formula rewards here
scenarios: {shuffled: {label_flip: 0.45}}
runs: {blocks: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
objective: {metric: ranking_gain, tie_within: 0.01}
"""


def test_plan_tells_what_is_expected(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    shown = sweeper(tmp_path, "plan", "study.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "control: equals aot to 1e-06 a step in loss and reward_margin" in shown.stdout
    assert "control: equals aot exactly" in shown.stdout
    assert "control: is non-finite in 80% of 5 data draws or more" in shown.stdout
    assert "below 0.01 share, 10 data draws or more" in shown.stdout


@pytest.mark.slow
def test_each_control_comes_out_as_the_formula_says(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    ran = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert ran.returncode == 0, ran.stderr
    table = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)
    held = {control["control"]: control["held"] for control in table["controls"]}
    assert held == {
        "near": True, "same": False, "fast": True, "upright": False, "nothing": True, "something": False,
    }  # fmt: skip
    known = {run for row in table["rows"] for runs in row["run_ids"].values() for run in runs}
    assert all(len(control["run_ids"]) >= 10 for control in table["controls"])
    assert set(table["controls"][3]["run_ids"]) <= known
    assert "Controls" in ran.stdout
    assert "largest difference" in ran.stdout
