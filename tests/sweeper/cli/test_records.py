"""`sweeper records` and `table --records`: the tables of a study from one file, without its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeper.conftest import Sweeper

STUDY = """
study: small
trainer: formula
base: {model_name_or_path: m, max_steps: 20, learning_rate: 1.0e-5}
data: {path: somewhere/data}
baseline: sigmoid
variants: {sigmoid: {}, hinge: {}}
space: {beta: {low: 0.05, high: 1.0, log: true}}
replicates: 3
claims: [sigmoid-stability, hinge-stability, hinge-speed]
evaluate: {at: [0.1, 0.2, 0.5, 1.0]}
objective: {metric: ranking_gain, at_drift: 2.0}
budget: {trials: 4}
"""


def test_the_tables_of_a_records_file_are_those_of_the_store(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    wrote = sweeper(tmp_path, "records", "study.yaml", "--output", "results/records.jsonl.gz")
    assert wrote.stdout.startswith("Wrote results/records.jsonl.gz: 30 runs")
    from_store = [sweeper(tmp_path, "table", "study.yaml", *more).stdout for more in ([], ["--all"])]
    (tmp_path / "mlflow.db").rename(tmp_path / "gone.db")
    file = ("--records", "results/records.jsonl.gz")
    from_file = [sweeper(tmp_path, "table", "study.yaml", *file, *more).stdout for more in ([], ["--all"])]
    assert from_file == from_store
    assert "hinge: Stability" in from_file[0]
    page = sweeper(tmp_path, "report", "study.yaml", *file)
    assert page.returncode == 0, page.stderr
    assert "hinge: Stability" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "mlflow.db").exists(), "the store is not looked for"
    other = sweeper(tmp_path, "table", "quickstart", *file)
    assert other.returncode == 2
    assert "holds the study 'small'" in other.stderr


@pytest.mark.slow
def test_a_restored_sweep_trains_what_is_missing_and_ends_as_one_that_never_stopped(
    sweeper: Sweeper, tmp_path: Path
) -> None:
    first, other, whole = (tmp_path / name for name in ("first", "other", "whole"))
    for folder in (first, other, whole):
        folder.mkdir()
        (folder / "study.yaml").write_text(STUDY)
    run = ("run", "study.yaml", "--executor", "inline")
    assert sweeper(first, *run, "--set", "replicates=2").returncode == 0
    assert sweeper(first, "records", "study.yaml", "--output", "../kept.gz").returncode == 0
    restored = sweeper(other, "restore", "study.yaml", "../kept.gz")
    assert restored.stdout.splitlines() == ["Restored 20 runs of small.", "Next: sweeper run study.yaml"]
    asked = ("table", "study.yaml", "--set", "replicates=2")
    assert sweeper(other, *asked).stdout == sweeper(first, *asked, "--records", "../kept.gz").stdout
    went_on = sweeper(other, *run)
    assert "10 runs trained" in went_on.stdout, went_on.stdout + went_on.stderr
    assert "20 were there already" in went_on.stdout
    assert sweeper(whole, *run).returncode == 0
    assert sweeper(other, "table", "study.yaml").stdout == sweeper(whole, "table", "study.yaml").stdout


def test_a_store_with_runs_that_the_file_has_not_is_not_restored_into(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    few = ("--set", "replicates=2", "--set", "budget.trials=2")
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", *few).returncode == 0
    assert sweeper(tmp_path, "records", "study.yaml", *few).returncode == 0
    again = sweeper(tmp_path, "restore", "study.yaml", "records.jsonl.gz", *few)
    assert again.stdout.splitlines()[0] == "Restored 0 runs of small, 12 were there already."
    other = sweeper(tmp_path, "restore", "study.yaml", "records.jsonl.gz", *few, "--set", "base.max_steps=30")
    assert (other.returncode, other.stdout) == (2, ""), "records of other settings"
    assert "it holds no run that small asks for now" in other.stderr
    (tmp_path / "empty").mkdir()
    missing = sweeper(tmp_path / "empty", "restore", "../study.yaml", "../records.gz")
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
    assert not any((tmp_path / "empty").iterdir())
