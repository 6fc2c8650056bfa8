"""A study's pilot: what it leaves for the runs that follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.spec import arms, load_study
from sweeper.executors import Inline
from sweeper.placement import make_pilot


def test_a_pilot_leaves_its_reference_log_probs_to_the_runs_and_nothing_else(tmp_path: Path) -> None:
    spec = load_study("quickstart", ["base.max_steps=2", "data.rows=48", "evaluate.prompts=4"])
    pilot, reason = make_pilot(spec, arms(spec), tmp_path, 1, Inline("dpo"))
    if pilot is None:
        pytest.fail(reason)
    assert {path.name for path in tmp_path.iterdir()} == {"pilot.json", "reference"}
    assert list((tmp_path / "reference").rglob("*.safetensors"))
