"""Several sweeps over one pair of databases: nobody is locked out and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dashboards.store.records import load_records
from tests.soak.kills import HERE, problems
from tests.waiting import PATIENCE

STUDY = """
study: NAME
trainer: soak_trainers:Slow
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, robust: {base: {label_smoothing: 0.1}}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 10}
resources: {env: [STEP_SECONDS]}
objective: {metric: ranking_gain}
"""
NAMES = ("one", "two", "three")


@pytest.mark.slow
def test_three_studies_at_once_on_fresh_databases_with_six_workers_lose_nothing(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    sweeps = {}
    for name in NAMES:
        (tmp_path / f"{name}.yaml").write_text(STUDY.replace("NAME", name))
        with (tmp_path / f"{name}.log").open("wb") as log:
            sweeps[name] = subprocess.Popen(
                [sys.executable, "-m", "sweeper", "run", f"{name}.yaml", "--workers", "2"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": path, "STEP_SECONDS": "0.005"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    for name, sweep in sweeps.items():
        ended = sweep.wait(timeout=PATIENCE)
        printed = (tmp_path / f"{name}.log").read_text()
        assert ended == 0, printed
        assert "locked" not in printed
    for name in NAMES:
        found = load_records(f"sqlite:///{tmp_path}/mlflow.db", name)
        assert Counter(run.variant for run in found) == dict.fromkeys(("sigmoid", "ipo", "robust"), 10)
        assert not problems(tmp_path, name, 30, [])
