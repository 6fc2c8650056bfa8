"""Data and models that are gone, and seeds that are asked for no longer: what was recorded is read, and nothing is told
of it that is not so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sweeper.conftest import Sweeper

STUDY = """
study: small
trainer: formula
base: {model_name_or_path: model, max_steps: 2, learning_rate: 1.0e-5}
data: {path: pairs.jsonl}
variants: {sigmoid: {}}
"""


@pytest.fixture
def swept(sweeper: Sweeper, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "study.yaml").write_text(STUDY)
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    return tmp_path


def test_what_was_recorded_is_read_where_its_data_are_gone(sweeper: Sweeper, swept: Path) -> None:
    before = sweeper(swept, "table", "study.yaml").stdout
    (swept / "pairs.jsonl").unlink()
    assert sweeper(swept, "table", "study.yaml").stdout == before
    for command in ("status", "records", "report"):
        assert sweeper(swept, command, "study.yaml").returncode == 0
    for command in ("plan", "run"):
        ended = sweeper(swept, command, "study.yaml")
        assert ended.returncode == 2
        assert "'pairs.jsonl': no such file" in ended.stderr


def test_a_model_that_is_gone_is_why_runs_are_left_behind(sweeper: Sweeper, swept: Path) -> None:
    shutil.rmtree(swept / "model")
    said = sweeper(swept, "plan", "study.yaml").stdout
    assert "would be left behind: model model" in said
    assert "cannot be read now, or no `sweeper run` has read it under this name yet (1 sigmoid)" in said
    assert "settings, space" not in said


def test_runs_of_a_seed_that_is_asked_for_no_longer_are_told(sweeper: Sweeper, swept: Path) -> None:
    told = "1 finished run left aside: the study file names no such variant, scenario, block or seed (1 sigmoid)."
    run = ("run", "study.yaml", "--executor", "inline")
    for command in (("plan", "study.yaml"), run):
        assert told in sweeper(swept, *command, "--set", "runs.seeds=[7]").stdout
    assert told not in sweeper(swept, *run).stdout.partition(" trained, ")[0], "nothing is trained in its place"
