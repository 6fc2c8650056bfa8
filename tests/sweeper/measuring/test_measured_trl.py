"""Real adapters measured again by `sweeper run`, in a store that format 1 recorded."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import RunRecord
from trainers.world.paths import model_path

Sweeper = Callable[..., Any]
STORE = Path(__file__).resolve().parents[2] / "stores" / "format-1.tar.xz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(STORE) as packed:
        packed.extractall(tmp_path, filter="data")
    shutil.copytree(model_path(), tmp_path / "model")
    return tmp_path


def records(folder: Path, study: str) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", study)


def golds(sweeper: Sweeper, folder: Path, file: str) -> dict[str, float]:
    rows = json.loads(sweeper(folder, "table", file, "--format", "json").stdout)["rows"]
    return {row["variant"]: row["best"]["estimate"]["value"] for row in rows}


def test_a_judge_whose_code_nobody_recorded_is_taken_for_the_same_once_and_not_again(
    old: Path, sweeper: Sweeper
) -> None:
    before = golds(sweeper, old, "judged.yaml")
    adopted = sweeper(old, "run", "judged.yaml", "--executor", "inline")
    assert "0 runs trained, 2 were there already" in adopted.stdout, adopted.stdout + adopted.stderr
    assert "judge function short:reward held was not recorded then" in " ".join(adopted.stdout.split())
    assert "Measuring" not in adopted.stdout
    assert golds(sweeper, old, "judged.yaml") == before
    (old / "short.py").write_text(
        "def reward(prompts, completions):\n    return [float(len(c)) for c in completions]\n"
    )
    sys.modules.pop("short", None)
    changed = sweeper(old, "run", "judged.yaml", "--executor", "inline")
    assert "Measuring 2 finished runs again" in changed.stdout
    assert "0 runs trained, 2 were there already" in changed.stdout
    assert golds(sweeper, old, "judged.yaml") == {variant: -gold for variant, gold in before.items()}


def test_runs_without_a_judge_are_measured_again_by_a_newer_evaluator(
    old: Path, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {run.run_id: run for run in records(old, "embedded")}
    monkeypatch.setattr("studies.records.metrics.EVALUATOR", "evaluator-4")
    done = sweeper(old, "run", "embedded.yaml", "--executor", "inline")
    assert "Measuring 2 finished runs again, by evaluator-4; nothing is trained for it." in done.stdout
    assert "0 runs trained, 4 were there already" in done.stdout, done.stdout + done.stderr
    again = [run for run in records(old, "embedded") if run.former]
    assert len(again) == 2
    for run in again:
        then = before[run.run_id]
        assert run.measured.evaluator == run.judged.evaluator == "evaluator-4"
        assert {n.by.evaluator for n in run.former} == {"evaluator-3"}
        assert run.metrics["gold"] == pytest.approx(then.metrics["gold"], abs=then.errors["gold"])
        assert run.metrics["train_seconds"] == then.metrics["train_seconds"]
    said = sweeper(old, "table", "embedded.yaml", "--format", "markdown").stdout
    assert (
        "Measured by evaluator-3, as 4 of 4 finished runs were; evaluator-4, which this version has, measured 2."
        in said
    )
