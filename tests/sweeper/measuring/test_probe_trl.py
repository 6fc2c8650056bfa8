"""A small probe of real TRL runs on the embedded world."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashboards.store.records import load_records
from studies.records import PROBE, Cause
from sweeper.measuring.speed_probe import COSTS

STUDY = """
study: real
base:
  {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_alpha: 8, lora_target_modules: all-linear,
   per_device_train_batch_size: 8, learning_rate: 1.0e-3, max_steps: 2}
data: {path: embedded, rows: 64, eval_rows: 16}
variants: {sigmoid: {}, ipo: {}}
baseline: sigmoid
evaluate: {prompts: 8, max_new_tokens: 8}
objective: {metric: gold}
resources: {together: 2}
probe: {rounds: 5, steps: 20}
"""


def test_two_losses_are_timed_by_trl_itself(sweeper: Callable[..., Any], empty_mlflow: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    done = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert done.returncode == 0, done.stdout + done.stderr
    timed = [r for r in load_records(f"sqlite:///{tmp_path}/mlflow.db", "real") if r.arm == PROBE]
    assert Counter((r.variant, r.cause) for r in timed) == {(v, Cause.FINISHED): 5 for v in ("sigmoid", "ipo")}
    assert [r.seed for r in timed] == [number for number in range(5) for _ in range(2)]
    assert {r.facts["steps"] for r in timed} == {"20"}
    assert all(r.metrics.keys() == COSTS for r in timed)
    assert not list((tmp_path / "runs" / "real").glob("probe*"))
    rows = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)["rows"]
    assert all((row["trials_done"], row["best"]["trials"]) == (1, 1) for row in rows)
    pace = rows[1]["pace"]
    assert pace["ratio"]["low"] < pace["ratio"]["value"] < pace["ratio"]["high"]
    assert (pace["rounds"], pace["device"]) == (5, "cpu")
