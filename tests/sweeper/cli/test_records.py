"""`sweeper records` and `table --records`: the tables of a study from one file, without its store."""

from __future__ import annotations

from pathlib import Path

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
