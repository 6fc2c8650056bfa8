"""What a command writes never takes the place of what a study or its sweeps need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeper.conftest import Sweeper

STUDY = """
study: small
trainer: formula
base: {model_name_or_path: m, max_steps: 2, learning_rate: 1.0e-5}
data: {path: pairs}
variants: {sigmoid: {}}
"""


@pytest.mark.parametrize("command", ["table", "report", "records", "export"])
def test_no_output_replaces_the_study_its_stores_its_runs_or_its_data(
    sweeper: Sweeper, tmp_path: Path, command: str
) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "study.yaml").write_text(STUDY)
    names = ("study.yaml", "mlflow.db", "optuna.db", "runs/small/study.json", "pairs/train.jsonl")
    (tmp_path / "runs" / "small").mkdir(parents=True)
    for name in names[1:]:
        (tmp_path / name).write_text(name)
    (tmp_path / "link.html").symlink_to("mlflow.db")
    before = {name: (tmp_path / name).read_bytes() for name in names}
    for name in (*names, "pairs/new.txt", "link.html"):
        ended = sweeper(tmp_path, command, "study.yaml", "--output", name)
        assert ended.returncode == 2
        assert "or lies in it: name another place" in ended.stderr, ended.stderr
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_table_does_not_replace_the_records_that_it_is_made_of(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "r.gz").write_text("records")
    ended = sweeper(tmp_path, "table", "study.yaml", "--records", "r.gz", "--output", "./r.gz")
    assert "is the file of records" in ended.stderr
    assert (tmp_path / "r.gz").read_text() == "records"


def test_a_study_is_not_written_through_a_link_that_leads_nowhere(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").symlink_to("elsewhere.yaml")
    ended = sweeper(tmp_path, "init", "study.yaml")
    assert ended.returncode == 2
    assert "study.yaml exists already" in ended.stderr
    assert not (tmp_path / "elsewhere.yaml").exists()
